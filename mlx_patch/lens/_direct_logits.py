"""`direct_logits`: a logit as the sum of what each part of the stream adds to it."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_patch import arguments
from mlx_patch.cache import ActivationCache
from mlx_patch.errors import ArchitectureError, KindError, ShapeError, shown
from mlx_patch.interventions import Apply, Edit
from mlx_patch.lens._direct_result import DirectLogits
from mlx_patch.lens._frozen_norm import FrozenNorm, frozen_norm
from mlx_patch.lens._parts import along, part_name, sites_of_parts, stream_parts
from mlx_patch.lens._shares import Shares, head_shares, neuron_shares, source_shares
from mlx_patch.metrics import Answers, as_answers
from mlx_patch.model import HookedModel, as_edits, find_head, ids_of_answers, refuse_read_out, require_hooked
from mlx_patch.sites import Site

KINDS = {
    "part": (),
    "head": ("z", "attn_out"),
    "neuron": ("mlp_post", "mlp_out"),
    "source": ("z", "attn_out", "pattern"),
}
"""What a logit can be taken apart by, and the sites that are needed for that beside the parts."""


def direct_logits(
    model: HookedModel,
    tokens: Any,
    answer: Answers,
    foil: Answers | None = None,
    by: str = "part",
    pos: int = -1,
    edits: Iterable[Edit] = (),
) -> DirectLogits:
    """What each part of the stream adds to a logit, or to the difference of two: direct logit attribution.

    The final norm is a linear map once its scale is that of the run. So a logit, before the model's scale and caps, is
    a sum: over the embedding and what each layer adds, or over heads, neurons or source positions and the remainder.
    It is what a part adds *directly*: what later layers make of it is theirs.

    Args:
        model: The model.
        tokens: A text, chat messages, or token ids of shape `(batch, pos)` or `(pos,)`.
        answer: A string of one token or a token id; or one for each prompt.
        foil: A token whose logit is taken away; None takes none away.
        by: "part": the embedding, and each layer's mixer and MLP. "head": each head of each attention. "neuron": each
            neuron of each dense MLP. "source": each position that attention reads, all heads of a layer together.
        pos: The position whose logits are taken apart, absolute or from the end.
        edits: Edits of the run.
    Returns:
        The parts. Their sum is `logit`, but for rounding.
    Raises:
        ArchitectureError: The stream is no plain sum, or what a layer adds is no linear map of its heads or neurons.
        MissingSiteError: The model has no such sites.
        UnknownNameError: `by` is none of the four.
    Source:
        Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits".
    """
    model = require_hooked("model", model)
    by = arguments.choice("by", by, KINDS, "part, head, neuron or source")
    if not arguments.is_whole(pos):
        raise KindError(f"`pos` must be one position. Got {shown(pos)}. Ask once for each.")
    pos = arguments.whole_number("pos", pos)
    layout = model.layout
    refuse_read_out(layout)
    last = Site("resid_post", model.n_layers - 1)
    further = [site for name in KINDS[by] for site in layout.select(name, None)]
    needed = [*sites_of_parts(layout), *further, last, Site("final_norm")]
    sites = tuple(dict.fromkeys(needed))
    values: dict[Site, mx.array] = {}
    edits = as_edits(edits)
    if by == "source":
        edits = (*edits, Apply(_noting(values)).at("v"))  # at all positions, where the cache has one
    _, cache = model.run_with_cache(tokens, sites, edits, logits_at=-1, pos=pos)
    reading = _reading_of(model, cache, answer, foil)
    addends, rounded = stream_parts(layout, cache, cache[last])
    added = {part_name(site): along(reading.direction, addend) for site, addend in addends.items()}
    remainder = {"rounding of the stream": along(reading.direction, rounded), **reading.biases}
    result = _Taken(by, reading, remainder)
    if by == "part":
        return result.of_parts(added)
    if by == "head":
        return result.of_shares(added, head_shares(layout, cache, reading.direction), "mixer_out", "attn_out")
    if by == "neuron":
        return result.of_shares(added, neuron_shares(layout, cache, reading.direction), "mlp_out")
    return result.of_shares(added, source_shares(layout, cache, values, reading.direction), "mixer_out", "attn_out")


def _noting(into: dict[Site, mx.array]) -> Callable[[mx.array, Site], mx.array]:
    """A function for an edit that keeps an activation, and changes nothing."""

    def note(activation: mx.array, site: Site) -> mx.array:
        into[site] = activation
        return activation

    return note


@dataclass(frozen=True, eq=False)
class _Reading:
    """How a logit is read off the stream.

    Attributes:
        direction: What the stream is multiplied with. Shape `(batch, 1, d_model)`.
        biases: What is added besides, by name. Shape `(batch,)` each.
        logit: The logit, or the difference. Shape `(batch,)`.
        scale: What the model multiplies it with.
        words: Of which tokens it is.
    """

    direction: mx.array
    biases: dict[str, np.ndarray]
    logit: np.ndarray
    scale: float
    words: str


def _reading_of(model: HookedModel, cache: ActivationCache, answer: Answers, foil: Answers | None) -> _Reading:
    head = find_head(model.layout)
    batch = cache.tokens.shape[0]
    ids = _ids(model, "answer", answer, batch)
    rows, bias = head.rows(ids), head.bias(ids)
    words = f"logit of {_written(answer)}"
    if foil is not None:
        foil_ids = _ids(model, "foil", foil, batch)
        rows, bias = rows - head.rows(foil_ids), bias - head.bias(foil_ids)
        words = f"logit of {_written(answer)} less that of {_written(foil)}"
    normed = cache["final_norm"].astype(mx.float32)
    norm = _final_norm_of(model, cache)
    rows = mx.broadcast_to(rows[:, None], normed.shape)
    biases = {
        "bias of the final norm": np.array((rows * norm.bias).sum(axis=-1)[:, 0]),
        "bias of the unembedding": np.array(mx.broadcast_to(bias, (batch,))),
    }
    biases = {name: array for name, array in biases.items() if array.any()}
    logit = np.array((rows * normed).sum(axis=-1)[:, 0] + bias)
    return _Reading(norm.back(rows), biases, logit, head.scale, words)


def _final_norm_of(model: HookedModel, cache: ActivationCache) -> FrozenNorm:
    """The final norm with the scale of the run.

    Raises:
        ArchitectureError: It is no norm of the stream.
    """
    norm = frozen_norm(model.final_norm, cache["resid_post", -1], cache["final_norm"])
    if norm is None:
        raise ArchitectureError(
            f"`model` must norm its stream before it unembeds. Got {model.layout.family.name}, which does something "
            "else there. Its lens works: mp.lens.logit_lens."
        )
    return norm


def _written(answer: Answers) -> str:
    return repr(as_answers("answer", answer))


def _ids(model: HookedModel, argument: str, answer: Answers, batch: int) -> mx.array:
    """The ids of an answer for all prompts, or of one for each."""
    ids = ids_of_answers(argument, answer, model.tokenizer, model.d_vocab)
    if ids.size not in (1, batch):
        raise ShapeError(f"`{argument}` must be one token, or one for each of {batch} prompts. Got {ids.size}. ")
    return ids


@dataclass(frozen=True, eq=False)
class _Taken:
    """A logit that is being taken apart."""

    by: str
    reading: _Reading
    remainder: dict[str, np.ndarray]

    def of_parts(self, added: dict[str, np.ndarray]) -> DirectLogits:
        """By part."""
        return self._result(np.stack(list(added.values())), ("part",), {"part": tuple(added)}, self.remainder)

    def of_shares(self, added: dict[str, np.ndarray], shares: Shares, *taken: str) -> DirectLogits:
        """By something inside layers; the parts that are taken apart leave what their shares do not hold."""
        names_taken = [name for name in added if name.split(".")[0] in taken]
        taken_apart = [added[name] for name in names_taken]
        untouched = {name: array for name, array in added.items() if name not in names_taken}
        of_shares = np.nansum(shares.values, axis=(0, 1))
        difference = np.sum(taken_apart, axis=0) - of_shares
        remainder = {**untouched, f"{taken[0]} beside {self.by}s": difference, **self.remainder}
        coords = {"layer": shares.layers, self.by: shares.names}
        return self._result(shares.values, ("layer", self.by), coords, remainder)

    def _result(self, values: np.ndarray, axes: tuple[str, ...], coords: dict, remainder: dict) -> DirectLogits:
        reading = self.reading
        return DirectLogits(self.by, values, axes, coords, remainder, reading.logit, reading.scale, reading.words)
