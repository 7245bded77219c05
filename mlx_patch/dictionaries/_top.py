"""`TopFeatures`: the features that are largest in a prompt."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import mlx.core as mx
import numpy as np
from typing_extensions import override

from mlx_patch import arguments
from mlx_patch.cache import ActivationCache
from mlx_patch.errors import KindError, SelectionError, ShapeError, ValueRefusedError, shown
from mlx_patch.sites import Site, site_of

_AT_ONCE = 64
"""Positions whose features are computed together."""


@runtime_checkable
class _Encoder(Protocol):
    """What is needed of a dictionary."""

    @property
    def site(self) -> Site | None: ...

    @property
    def n_features(self) -> int: ...

    def encode(self, activation: mx.array) -> mx.array: ...

    def flat(self, activation: mx.array) -> mx.array: ...


@dataclass(frozen=True, eq=False, repr=False)
class TopFeatures:
    """Features, the largest first, with the place where each is largest. `Dictionary.top` makes it.

    Attributes:
        features: Their numbers. Shape `(k,)`.
        values: The largest value of each. Shape `(k,)`.
        rows: The row of the batch where it is. Shape `(k,)`.
        positions: The absolute position where it is. Shape `(k,)`.
        texts: The token there; empty where texts were not given.
    """

    features: np.ndarray
    values: np.ndarray
    rows: np.ndarray
    positions: np.ndarray
    texts: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.features)

    @override
    def __repr__(self) -> str:
        heads = ["feature", "value", "position"]
        columns: list[list[str]] = [
            [str(number) for number in self.features.tolist()],
            [f"{value:.4g}" for value in self.values.tolist()],
            [str(position) for position in self.positions.tolist()],
        ]
        if np.any(self.rows):
            heads.append("row")
            columns.append([str(row) for row in self.rows.tolist()])
        if self.texts:
            heads.append("token")
            columns.append([repr(text) for text in self.texts])
        widths = [max(map(len, (head, *column))) for head, column in zip(heads, columns, strict=True)]
        lines = [heads, *map(list, zip(*columns, strict=True))]
        return "\n".join("  ".join(map(str.rjust, line, widths)) for line in lines)


def top_features(
    dictionary: _Encoder,
    source: ActivationCache | mx.array,
    k: int,
    pos: int | Iterable[int] | slice | None,
    site: str | Site | None,
    str_tokens: Sequence[str] | None,
) -> TopFeatures:
    """The features that are largest anywhere in a prompt. The arguments are those of `Dictionary.top`.

    Features of 0 are left out, so there may be fewer than `k`.
    """
    k = arguments.whole_number("k", k, 1)
    activation, positions = _activation_of(dictionary, source, site)
    flat = dictionary.flat(activation)
    if flat.ndim != 3:
        raise KindError(f"`source` must have the axes (batch, pos, ...). Got shape {activation.shape}.")
    indices = _chosen_indices(pos, positions)
    best = np.full(dictionary.n_features, -np.inf, np.float32)
    places = np.zeros((dictionary.n_features, 2), np.int64)
    for row in range(flat.shape[0]):
        for begin in range(0, len(indices), _AT_ONCE):
            chosen = indices[begin : begin + _AT_ONCE]
            values = np.array(dictionary.encode(flat[row, mx.array(chosen)]))
            at = values.argmax(axis=0)
            largest = np.take_along_axis(values, at[None], axis=0)[0]
            is_better = largest > best
            best[is_better] = largest[is_better]
            places[is_better] = np.stack([np.full(at.shape, row), np.array(chosen)[at]], axis=-1)[is_better]
    order = np.argsort(-best, kind="stable")[:k]
    order = order[best[order] > 0]
    positions_of_best = np.array(positions)[places[order, 1]]
    texts: list[str] = []
    if str_tokens is not None:
        str_tokens = arguments.entries("str_tokens", str_tokens, "a list of texts, one a position")
        if len(str_tokens) <= max(positions):
            raise ShapeError(
                f"`str_tokens` must have a text for each of {max(positions) + 1} positions. Got {len(str_tokens)}."
            )
        texts = [str_tokens[position] for position in positions_of_best.tolist()]
    return TopFeatures(order, best[order], places[order, 0], positions_of_best, tuple(texts))


def _activation_of(
    dictionary: _Encoder, source: ActivationCache | mx.array, site: str | Site | None
) -> tuple[mx.array, Sequence[int]]:
    """The activation that is encoded, and its absolute positions."""
    if isinstance(source, mx.array):
        if site is not None:
            raise ValueRefusedError(f"`site` must be left out where `source` is an array. Got {shown(site)}.")
        return source, range(math.prod(source.shape[1:2]))
    if not isinstance(source, ActivationCache):
        raise KindError(f"`source` must be an ActivationCache or an mx.array. Got {type(source).__name__}.")
    place = dictionary.site
    if site is not None:
        place = site_of(site, source.n_layers)
    if place is None:
        raise ValueRefusedError(
            "`site` must say where in the cache: the dictionary's configuration does not. Got None. Write "
            "site='blocks.12.hook_resid_post', say."
        )
    return source[place], source.positions


def _chosen_indices(pos: Any, positions: Sequence[int]) -> list[int]:
    """The indices, along the position axis, of absolute positions; negative ones count from the last."""
    if pos is None:
        return list(range(len(positions)))
    count = positions[-1] + 1
    if isinstance(pos, slice):
        numbers: Sequence[int] = range(count)[arguments.checked_slice("pos", pos)]
    else:
        numbers = arguments.chosen_numbers("pos", pos) or ()
    index_of = {position: index for index, position in enumerate(positions)}
    indices = []
    for number in numbers:
        position = number
        if number < 0:
            position = number + count
        if position in index_of:
            indices.append(index_of[position])
        elif not isinstance(pos, slice):
            raise SelectionError(
                f"`pos` must be positions of the activation, {min(positions)} to {count - 1}. Got {number}."
            )
    if not indices:
        raise SelectionError(f"`pos` must choose something. Got {shown(pos)}.")
    return indices
