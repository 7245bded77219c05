"""`expert_parts`: what each expert of a mixture adds to the stream, and what is left."""

from dataclasses import dataclass
from typing import Any, final

import mlx.core as mx
import numpy as np
from typing_extensions import override

from mlx_patch import arguments
from mlx_patch.errors import ArchitectureError
from mlx_patch.interventions import Ablate
from mlx_patch.lens._frozen_norm import relative_distance
from mlx_patch.model import HookedModel, require_hooked
from mlx_patch.sites import Site
from mlx_patch.tokens import tokens_of

_SAME = {mx.float32: 1e-4, mx.bfloat16: 0.05, mx.float16: 0.02}
"""How far the parts may be from their sum, as a fraction of it."""


@final
@dataclass(frozen=True, eq=False, repr=False)
class ExpertParts:
    """What each expert of a layer adds to the stream.

    Attributes:
        values: Exactly 0 where a token does not go through an expert. Float32, shape `(batch, pos, expert, d_model)`.
        rest: What `mlp_out` has besides them: experts that every token goes through, biases, and what the model
            rounded. Float32, shape `(batch, pos, d_model)`.
    """

    values: mx.array
    rest: mx.array

    @override
    def __repr__(self) -> str:
        size = mx.linalg.norm(self.rest) / mx.maximum(mx.linalg.norm(self.values.sum(axis=2)), 1e-30)
        return f"ExpertParts({self.values.shape[2]} experts, rest {size.item():.1e} of their sum)"


def expert_parts(model: HookedModel, tokens: Any, layer: int) -> ExpertParts:
    """What each expert of a layer adds to the stream: its part of `mlp_out`.

    An expert's part is what `mlp_out` loses with its weight at zero. One run has the prompts once for each expert, and
    twice more.

    Args:
        model: The model.
        tokens: A text, chat messages, or token ids of shape `(batch, pos)` or `(pos,)`.
        layer: The layer, from 0.
    Raises:
        KindError: `model` is no HookedModel.
        MissingSiteError: The layer has no experts.
        ArchitectureError: What the layer adds is not the sum of its experts' parts: a norm follows, for example.
        PatchError: As `HookedModel.run`.
    Source:
        Shazeer et al. 2017, https://arxiv.org/abs/1701.06538, equation 1: a mixture is a weighed sum of its experts.
    """
    require_hooked("model", model)
    layer = arguments.place("layer", layer, model.n_layers)
    ids = tokens_of(tokens, model.tokenizer, model.d_vocab)
    site, added = Site("expert_weights", layer), Site("mlp_out", layer)
    weights = model.run_with_cache(ids, (site,), logits_at=-1)[1][site]
    batch, n_experts = ids.shape[0], weights.shape[-1]
    edits = [Ablate("zero").at("expert_weights", layer=layer, batch=_rows(n_experts + 1, batch))]
    edits += [
        Ablate("zero").at("expert_weights", layer=layer, neuron=expert, batch=_rows(expert + 1, batch))
        for expert in range(n_experts)
    ]
    _, cache = model.run_with_cache(mx.tile(ids, (n_experts + 2, 1)), (added,), edits, logits_at=-1)
    whole, *without, none = cache[added].astype(mx.float32).reshape(n_experts + 2, *ids.shape, -1)
    is_chosen = (weights != 0)[..., None]
    values = mx.where(is_chosen, whole[:, :, None] - mx.stack(without, axis=2), 0.0)
    rest = whole - values.sum(axis=2)
    mx.eval(values, rest)
    if relative_distance(values.sum(axis=2) + none, whole) > _SAME.get(cache[added].dtype, 1e-4):
        raise ArchitectureError(
            f"`model` must add what its experts give, each times its weight. {model.layout.family.name} at layer "
            f"{layer} adds something else: a norm of it, say. Measure an expert by `mp.Ablate('zero')` at "
            "'expert_weights'."
        )
    return ExpertParts(values, rest)


def _rows(copy: int, batch: int) -> list[int]:
    """The rows of one copy of the prompts."""
    return np.arange(copy * batch, (copy + 1) * batch).tolist()
