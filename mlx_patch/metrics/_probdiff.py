"""The probability of one set of tokens minus that of another, for answers of which several are right."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self, TypeAlias, cast

import mlx.core as mx
from typing_extensions import override

from mlx_patch.errors import ShapeError, ValueRefusedError

from ._base import RowMetric
from ._softmax import softmax
from ._tokens import Answer, Answers, Tokenizer, as_answers, listed_answers, single_tokens, token_ids

Sets: TypeAlias = Answers | Sequence[Sequence[Answer]]
"""A flat list is one set for all examples; a list of lists is a set for each."""

_NAMES = ("right", "wrong")


@dataclass(frozen=True, repr=False)
class ProbDiff(RowMetric):
    """Probability of a set of right answers minus that of a set of wrong ones, from -1 to 1.

    Args:
        right: Strings of one token each, or token ids: one set, or a list of sets, one per example.
        wrong: The same, for what it is compared with. The two sets have nothing in common.
        pos: The position that is read.
    Raises:
        ValueRefusedError: The two sets of an example share an answer, or a set is empty.
        ShapeError: There are several sets, and not as many of `wrong` as of `right`.
    Source:
        Hanna et al. 2023, https://arxiv.org/abs/2305.00586, section 2: years after the first one minus years up to it.
    Example:
        >>> logits = mx.log(mx.array([[[0.5, 0.25, 0.125, 0.125]]]))
        >>> round(ProbDiff([0, 1], [2])(logits).item(), 4)
        0.625
    """

    right: Sets
    wrong: Sets

    @override
    def __post_init__(self) -> None:
        for name in _NAMES:
            object.__setattr__(self, name, _as_sets(name, getattr(self, name)))
        _refuse_shared(*self._sets())
        super().__post_init__()

    def _sets(self) -> tuple[tuple[tuple[Answer, ...], ...], tuple[tuple[Answer, ...], ...]]:
        """Both, in the form that `_as_sets` has brought them into."""
        return cast("tuple[tuple[tuple[Answer, ...], ...], tuple[tuple[Answer, ...], ...]]", (self.right, self.wrong))

    @override
    def resolve(self, tokenizer: Tokenizer | None) -> Self:
        right, wrong = (
            tuple(listed_answers(single_tokens(name, own, tokenizer)) for own in sets)
            for name, sets in zip(_NAMES, self._sets(), strict=True)
        )
        return replace(self, right=right, wrong=wrong)

    @override
    def for_rows(self, rows: Sequence[int], n: int) -> Self:
        right, wrong = (_of_rows(sets, rows, n) for sets in self._sets())
        return replace(self, right=right, wrong=wrong)

    @override
    def measure_row(self, row: mx.array) -> mx.array:
        probabilities = softmax(row)
        right, wrong = (_summed(probabilities, name, sets) for name, sets in zip(_NAMES, self._sets(), strict=True))
        return right - wrong


def _as_sets(argument: str, given: Sets) -> tuple[tuple[Answer, ...], ...]:
    nested = isinstance(given, list | tuple) and any(isinstance(one, list | tuple) for one in given)
    sets = cast("Sequence[Answers]", given) if nested else [cast("Answers", given)]
    return tuple(tuple(dict.fromkeys(listed_answers(as_answers(argument, one)))) for one in sets)


def _refuse_shared(right: Sequence[tuple[Answer, ...]], wrong: Sequence[tuple[Answer, ...]]) -> None:
    if len(right) != len(wrong):
        raise ShapeError(
            f"`wrong` must hold as many sets as `right`, {len(right)}. Got {len(wrong)}. Write one set per example."
        )
    for ours, theirs in zip(right, wrong, strict=True):
        if shared := [one for one in ours if one in theirs]:
            raise ValueRefusedError(
                f"`wrong` must share no answer with `right`. Got {shared[0]!r} in both. Leave it out of one."
            )


def _refuse_number(have: int, n: int) -> None:
    if have not in (1, n):
        raise ShapeError(f"`right` must hold one set for all or one per example, {n}. Got {have} sets. Pass {n} lists.")


def _of_rows(sets: tuple[tuple[Answer, ...], ...], rows: Sequence[int], n: int) -> tuple[tuple[Answer, ...], ...]:
    _refuse_number(len(sets), n)
    return sets if len(sets) == 1 else tuple(sets[row] for row in rows)


def _summed(probabilities: mx.array, argument: str, sets: tuple[tuple[Answer, ...], ...]) -> mx.array:
    """The probability of each row's set. `(batch, d_vocab)` to `(batch,)`."""
    batch, d_vocab = probabilities.shape
    _refuse_number(len(sets), batch)
    ids = [token_ids(argument, own, d_vocab) for own in sets]
    longest = max(map(len, ids))
    padded = mx.array([own + [0] * (longest - len(own)) for own in ids])
    counts = mx.array([[1.0] * len(own) + [0.0] * (longest - len(own)) for own in ids])
    chosen = mx.take_along_axis(probabilities, mx.broadcast_to(padded, (batch, longest)), axis=-1)
    return (chosen * counts).sum(axis=-1)
