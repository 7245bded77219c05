"""The probability of one set of tokens minus that of another."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import mlx.core as mx
from typing_extensions import override

from mlx_patch.errors import KindError, SelectionError, ShapeError, ValueRefusedError

from ._base import RowMetric
from ._softmax import softmax

Sets = Sequence[int] | Sequence[Sequence[int]]
"""Token ids, one set for all examples; or a set for each."""


@dataclass(frozen=True, repr=False)
class ProbDiff(RowMetric):
    """Summed probability of the right tokens minus that of the wrong ones, from -1 to 1.

    Args:
        right: Token ids, one set for all examples, or a list of sets, one per example.
        wrong: The same.
        pos: The position that is read.
    Raises:
        KindError: Something is no token id.
        ValueRefusedError: A set is empty.
    Source:
        Hanna et al. 2023, https://arxiv.org/abs/2305.00586, section 2: years that are later minus years that are not.
    Example:
        >>> logits = mx.log(mx.array([[[0.5, 0.25, 0.125, 0.125]]]))
        >>> round(ProbDiff([0, 1], [2])(logits).item(), 4)
        0.625
    """

    right: Sets
    wrong: Sets

    @override
    def __post_init__(self) -> None:
        for name in ("right", "wrong"):
            object.__setattr__(self, name, _as_sets(name, getattr(self, name)))
        super().__post_init__()

    @override
    def for_rows(self, rows: Sequence[int], n: int) -> Self:
        return replace(self, right=_of_rows("right", self.right, rows, n), wrong=_of_rows("wrong", self.wrong, rows, n))

    @override
    def measure_row(self, row: mx.array) -> mx.array:
        probabilities = softmax(row)
        return _summed(probabilities, "right", self.right) - _summed(probabilities, "wrong", self.wrong)


def _as_sets(name: str, given: Any) -> tuple[tuple[int, ...], ...]:
    several: tuple[Any, ...] = tuple(given) if isinstance(given, list | tuple | range) else (given,)
    sets: tuple[Any, ...] = (
        several if several and all(isinstance(one, list | tuple | range) for one in several) else (several,)
    )
    for token in (token for one in sets for token in one):
        if isinstance(token, bool) or not isinstance(token, int) or token < 0:
            raise KindError(f"`{name}` must hold token ids from 0. Got {token!r}. Encode the texts first.")
    if not all(len(one) for one in sets):
        raise ValueRefusedError(f"`{name}` must hold a token id in each set. Got {given!r}.")
    return tuple(tuple(dict.fromkeys(one)) for one in sets)


def _of_rows(name: str, sets: Any, rows: Sequence[int], n: int) -> Any:
    if len(sets) not in (1, n):
        raise ShapeError(f"`{name}` must hold one set for all or one per example, {n}. Got {len(sets)}.")
    return sets if len(sets) == 1 else tuple(sets[row] for row in rows)


def _summed(probabilities: mx.array, name: str, sets: Any) -> mx.array:
    batch, d_vocab = probabilities.shape
    own = _of_rows(name, sets, range(batch), batch)
    own = own * batch if len(own) == 1 else own
    if max(map(max, own)) >= d_vocab:
        raise SelectionError(f"`{name}` must lie within the {d_vocab} tokens of the logits. Got {max(map(max, own))}.")
    return mx.stack([probabilities[row, mx.array(ids)].sum() for row, ids in enumerate(own)])
