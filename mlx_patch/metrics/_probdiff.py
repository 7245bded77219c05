"""The probability of one set of tokens minus that of another, for prompts with several right answers."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self, TypeAlias, cast

import mlx.core as mx
from typing_extensions import override

from mlx_patch.errors import ShapeError, ValueRefusedError, shown

from ._base import RowMetric
from ._softmax import softmax
from ._tokens import Answer, Answers, Tokenizer, as_answers, listed_answers, single_tokens, token_ids

Sets: TypeAlias = Answers | Sequence[Sequence[Answer]]
"""A flat list is one set for all examples; a list of lists is a set for each."""

_CheckedSets: TypeAlias = tuple[tuple[Answer, ...], ...]


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
        object.__setattr__(self, "right", _as_sets("right", self.right))
        object.__setattr__(self, "wrong", _as_sets("wrong", self.wrong))
        _refuse_shared(_checked_sets(self.right), _checked_sets(self.wrong))
        super().__post_init__()

    @override
    def resolve(self, tokenizer: Tokenizer | None) -> Self:
        right = _resolved("right", self.right, tokenizer)
        wrong = _resolved("wrong", self.wrong, tokenizer)
        return replace(self, right=right, wrong=wrong)

    @override
    def for_rows(self, rows: Sequence[int], n: int) -> Self:
        return replace(self, right=_of_rows(self.right, rows, n), wrong=_of_rows(self.wrong, rows, n))

    @override
    def measure_row(self, row: mx.array) -> mx.array:
        probabilities = softmax(row)
        return _set_probability(probabilities, "right", self.right) - _set_probability(
            probabilities, "wrong", self.wrong
        )


def _as_sets(argument: str, answers: Sets) -> _CheckedSets:
    """Sets in the form that the metric holds: a tuple of tuples, without doubles."""
    is_nested = isinstance(answers, list | tuple) and any(isinstance(entry, list | tuple) for entry in answers)
    sets = cast("Sequence[Answers]", answers)
    if not is_nested:
        sets = [cast("Answers", answers)]
    return tuple(tuple(dict.fromkeys(listed_answers(as_answers(argument, entry)))) for entry in sets)


def _checked_sets(sets: Sets) -> _CheckedSets:
    """Narrows the type of sets that came through `_as_sets`."""
    return cast("_CheckedSets", sets)


def _resolved(argument: str, sets: Sets, tokenizer: Tokenizer | None) -> _CheckedSets:
    return tuple(listed_answers(single_tokens(argument, answers, tokenizer)) for answers in _checked_sets(sets))


def _refuse_shared(right: _CheckedSets, wrong: _CheckedSets) -> None:
    if len(right) != len(wrong):
        raise ShapeError(
            f"`wrong` must hold as many sets as `right`, {len(right)}. Got {len(wrong)}. Write one set per example."
        )
    for right_set, wrong_set in zip(right, wrong, strict=True):
        if shared := [answer for answer in right_set if answer in wrong_set]:
            raise ValueRefusedError(
                f"`wrong` must share no answer with `right`. Got {shown(shared[0])} in both. Leave it out of one."
            )


def _refuse_number(n_sets: int, n: int) -> None:
    if n_sets not in (1, n):
        raise ShapeError(
            f"`right` must hold one set for all or one per example, {n}. Got {n_sets} sets. Pass {n} lists."
        )


def _of_rows(sets: Sets, rows: Sequence[int], n: int) -> _CheckedSets:
    checked = _checked_sets(sets)
    _refuse_number(len(checked), n)
    if len(checked) == 1:
        return checked
    return tuple(checked[row] for row in rows)


def _set_probability(probabilities: mx.array, argument: str, sets: Sets) -> mx.array:
    """The probability of each row's set. `(batch, d_vocab)` to `(batch,)`."""
    checked = _checked_sets(sets)
    batch, d_vocab = probabilities.shape
    _refuse_number(len(checked), batch)
    ids = [token_ids(argument, answers, d_vocab) for answers in checked]
    # Sets differ in size: the shorter ones are padded with token 0, whose weight is 0.
    longest = max(map(len, ids))
    padded = mx.array([row + [0] * (longest - len(row)) for row in ids])
    weights = mx.array([[1.0] * len(row) + [0.0] * (longest - len(row)) for row in ids])
    set_probabilities = mx.take_along_axis(probabilities, mx.broadcast_to(padded, (batch, longest)), axis=-1)
    return (set_probabilities * weights).sum(axis=-1)
