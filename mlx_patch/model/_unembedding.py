"""From the stream to logits: the final norm, the unembedding as the model has it, and its rows.

The model's own code does it. A forward pass of placeholder tokens is given the stream in place of what its last block
returns. MLX is lazy, so the blocks below are written down and never computed.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx_lm.models.cache import make_prompt_cache

from mlx_patch import arguments
from mlx_patch.architectures import Layout
from mlx_patch.engine import Frame, Hook, Phase
from mlx_patch.errors import ArchitectureError, MissingSiteError, ShapeError
from mlx_patch.metrics import Answers, as_answers, single_tokens, token_ids
from mlx_patch.sites import Site

_SAME = 0.02
"""How far a row may be from the gradient of its logit, as a fraction of it: what half types round."""

_TRIED = 8
"""Tokens that are tried, at most, until one has a gradient that is not 0."""


def final_norm(layout: Layout, stream: mx.array) -> mx.array:
    """The stream behind the final norm, from the stream that leaves the last block. See `HookedModel.final_norm`."""
    captures: dict[str, mx.array] = {}
    place = layout.place(Site("final_norm"))
    note = Hook(place, lambda value, forward_pass: captures.update(normed=value), Phase.CAPTURE)
    _run_placeholders(layout, stream, [_leave_last_block(layout, stream), note])
    return captures["normed"].reshape(*stream.shape[:-1], -1)


def unembed(layout: Layout, normed: mx.array) -> mx.array:
    """The logits of a stream behind the final norm. See `HookedModel.unembed`."""
    hook = _put_at(layout, Site("final_norm"), normed)
    return _run_placeholders(layout, normed, [hook])


def read_out(layout: Layout, stream: mx.array) -> mx.array:
    """The logits of a stream that leaves the last block: `unembed(final_norm(stream))` in one pass."""
    return _run_placeholders(layout, stream, [_leave_last_block(layout, stream)])


def refuse_read_out(layout: Layout) -> None:
    """Refuse a model whose logits the stream behind its last block does not decide.

    Raises:
        MissingSiteError: The message says what else they depend on.
    """
    if layout.family.read_out:
        raise MissingSiteError(
            f"`model` must read its logits off the stream. Got {layout.family.name}: {layout.family.read_out}. "
            "Take the site 'final_norm', and `unembed` it."
        )


def _leave_last_block(layout: Layout, stream: mx.array) -> Hook:
    refuse_read_out(layout)
    return _put_at(layout, Site("resid_post", len(layout.blocks) - 1), stream)


def _put_at(layout: Layout, site: Site, stream: mx.array) -> Hook:
    by_position = arguments.array("stream", stream).reshape(_three_axes(stream.shape))
    place = layout.place(site)
    return Hook(place, lambda value, forward_pass: _like(by_position, value), Phase.EDIT)


def _run_placeholders(layout: Layout, stream: mx.array, hooks: list[Hook]) -> mx.array:
    """What the model returns for as many tokens as a stream has positions, unevaluated."""
    keywords: dict[str, Any] = {}
    if layout.family.cached:
        keywords["cache"] = make_prompt_cache(layout.model)
    placeholders = mx.zeros(_three_axes(stream.shape)[:2], mx.int32)
    logits = Frame(layout.model, hooks).around(layout.model, placeholders, **keywords)
    return logits.reshape(*stream.shape[:-1], -1)


def _like(stream: mx.array, replaced: mx.array) -> mx.array:
    """A stream in the dtype in which the model's own comes to its place.

    Raises:
        ShapeError: It has another width.
    """
    if stream.shape[-1] != replaced.shape[-1]:
        raise ShapeError(
            f"`stream` must end in the width that this model has there, {replaced.shape[-1]}. Got shape "
            f"{stream.shape}. Take it from a cache of this model."
        )
    return stream.astype(replaced.dtype)


def _three_axes(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """The shape `(batch, pos, width)` for a stream with any axes before its width.

    Raises:
        ShapeError: It has no axis, or no entry.
    """
    if not prod(shape) or not shape:
        raise ShapeError(f"`stream` must have an entry, and end in the model's width. Got shape {shape}.")
    if len(shape) == 1:
        return 1, 1, shape[0]
    return prod(shape[:-2]), shape[-2], shape[-1]


@dataclass(frozen=True, eq=False)
class Head:
    """The weights with which a model unembeds.

    Attributes:
        weight: A row for each token, packed where the model is quantised.
        module: The module that holds them.
        scale: What the model multiplies its logits with: 1 where it does not.
        d_vocab: The number of rows.
    """

    weight: mx.array
    module: nn.Module
    scale: float
    d_vocab: int

    def rows(self, ids: mx.array) -> mx.array:
        """The rows of some tokens, dequantised. Shape `(token, d_model)`."""
        return _rows(self.module, self.weight, ids)

    def bias(self, ids: mx.array) -> mx.array:
        """What is added to the logits of some tokens before scale and caps. Shape `(token,)`; 0 where there is none."""
        bias = self.module.get("bias")
        if not isinstance(bias, mx.array) or bias.shape != (self.d_vocab,):
            return mx.zeros(ids.shape)
        return bias[ids].astype(mx.float32)


def find_head(layout: Layout) -> Head:
    """The weights that unembed, found by what they do: a row is the gradient of its token's logit, times a number.

    The gradient is taken where the stream is 0, at which soft-caps are straight lines.

    Raises:
        ArchitectureError: No weights of the model are these rows: an adapter is on them, say, or ranks share them.
    """
    zero = mx.zeros_like(_normed_token(layout))
    for number in range(_TRIED):
        token = mx.array([number * layout.d_vocab // _TRIED])
        gradient = _gradient(layout, zero, token)
        if not mx.any(gradient).item():  # the row of a token that was never trained
            continue
        for module, weight in head_matrices(layout.model, layout.d_vocab):
            if scale := _factor(_rows(module, weight, token), gradient):
                return Head(weight, module, scale, layout.d_vocab)
        break
    raise ArchitectureError(
        f"`model` must unembed with rows of weights that it holds. Got {layout.family.name}, of whose weights none are "
        "the gradients of its logits. If an adapter is on its head, fuse it first, with mlx_lm.fuse; if ranks share "
        "its vocabulary, load it whole on each."
    )


def _normed_token(layout: Layout) -> mx.array:
    """What the final norm returns for one token, never computed. Shape `(1, 1, width)`."""
    captures: dict[str, mx.array] = {}
    place = layout.place(Site("final_norm"))
    note = Hook(place, lambda value, forward_pass: captures.update(normed=value), Phase.CAPTURE)
    _run_placeholders(layout, mx.zeros((1, 1, 1)), [note])
    return captures["normed"]


def head_matrices(model: nn.Module, d_vocab: int) -> Iterator[tuple[nn.Module, mx.array]]:
    """The matrices with a row for each token, with the modules that hold them."""
    for _, module in model.named_modules():
        for name, array in module.items():
            if isinstance(array, mx.array) and array.ndim == 2 and array.shape[0] == d_vocab:
                if name not in ("scales", "biases"):
                    yield module, array


def _rows(module: nn.Module, weight: mx.array, ids: mx.array) -> mx.array:
    """Rows of a matrix, in float32."""
    scales, biases = module.get("scales"), module.get("biases")
    if not isinstance(scales, mx.array):
        return weight[ids].astype(mx.float32)
    offsets = None if biases is None else biases[ids]
    settings = {name: getattr(module, name) for name in ("group_size", "bits", "mode") if hasattr(module, name)}
    return mx.dequantize(weight[ids], scales[ids], offsets, **settings).astype(mx.float32)


def _gradient(layout: Layout, zero: mx.array, token: mx.array) -> mx.array:
    """The gradient of one token's logit by the stream behind the final norm, where that is 0. Shape `(1, width)`."""

    def logit(normed: mx.array) -> mx.array:
        return unembed(layout, normed)[0, 0, token].astype(mx.float32).sum()

    [gradient] = mx.grad(logit)(zero)
    return gradient.astype(mx.float32)


def _factor(row: mx.array, gradient: mx.array) -> float:
    """The number that a row is to be multiplied with to be a gradient; 0 if none makes it so."""
    if row.shape != gradient.shape:
        return 0.0
    factor = (row * gradient).sum() / (row * row).sum()
    deviation = np.array(mx.linalg.norm(gradient - factor * row) / mx.linalg.norm(gradient))
    if not float(deviation) < _SAME:
        return 0.0
    return float(np.array(factor))


def ids_of_answers(argument: str, answers: Answers, tokenizer: Any, d_vocab: int) -> mx.array:
    """The ids of one answer or several. Shape `(token,)`.

    Raises:
        TokenError: A string is not one token.
        SelectionError: An id is past the vocabulary; MLX would read garbage there.
    """
    single = single_tokens(argument, as_answers(argument, answers), tokenizer)
    return mx.array(token_ids(argument, single, d_vocab))
