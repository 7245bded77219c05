"""Generation through mlx_lm with edits in force: its KV cache and samplers, absolute positions."""

from collections.abc import Iterable
from typing import Any, cast

import mlx_lm

from mlx_patch.architectures import Layout
from mlx_patch.engine import Frame, offset_of
from mlx_patch.errors import KindError
from mlx_patch.interventions import Edit
from mlx_patch.model._hooks import edit_hooks, pieces_of, refuse_unused
from mlx_patch.model._placing import Placing
from mlx_patch.tokens import as_tokens


def generate(layout: Layout, tokenizer: Any, tokens: Any, edits: Iterable[Edit], max_tokens: int, **kwargs: Any) -> str:
    """The generated text. See `HookedModel.generate`."""
    if tokenizer is None:
        raise KindError("`tokenizer` must be there to generate text. Got None. Pass it to HookedModel.")
    if kwargs.get("draft_model") is not None:
        raise KindError(
            "`draft_model` must be None with edits: it proposes tokens that no edit has touched. Leave it out."
        )
    ids = as_tokens(tokens, layout.d_vocab)
    if ids.shape[0] != 1:
        raise KindError(f"`prompt` must be one prompt. Got a batch of {ids.shape[0]}. Generate from one at a time.")
    offset = offset_of(kwargs.get("prompt_cache"))
    placed = Placing(ids, tokenizer, offset).edits(edits)
    hooks = edit_hooks(layout, placed, pieces_of(offset + ids.shape[1]))
    with Frame(layout.model, hooks):
        text = mlx_lm.generate(
            layout.model, tokenizer, cast("list[int]", ids[0].tolist()), max_tokens=max_tokens, **kwargs
        )
    refuse_unused(hooks)
    return text
