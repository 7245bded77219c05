"""Metrics of given answers: the logit difference, the probability, its logarithm, the rank."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import mlx.core as mx
from typing_extensions import override

from mlx_patch.errors import ValueRefusedError, shown

from ._base import RowMetric
from ._softmax import log_softmax_at
from ._tokens import (
    Answers,
    Tokenizer,
    as_answers,
    checked_answers,
    for_rows,
    has_text,
    ids_per_row,
    listed_answers,
    single_tokens,
)


@dataclass(frozen=True, repr=False)
class _Answered(RowMetric):
    """A metric of one answer, or of one per example, at one position."""

    token: Answers

    @override
    def __post_init__(self) -> None:
        object.__setattr__(self, "token", as_answers("token", self.token))
        super().__post_init__()

    @override
    def resolve(self, tokenizer: Tokenizer | None) -> Self:
        if not has_text(self.token):
            return self
        return replace(self, token=single_tokens("token", checked_answers(self.token), tokenizer))

    @override
    def for_rows(self, rows: Sequence[int], n: int) -> Self:
        return replace(self, token=for_rows("token", self.token, rows, n))


@dataclass(frozen=True, repr=False)
class LogitDiff(RowMetric):
    """Logit of the right answer minus that of the wrong one, in nats: positive where the model prefers `right`.

    Args:
        right: A string of one token, or a token id; or one per example.
        wrong: The same, for what it is compared with.
        pos: The position that is read.
    Raises:
        ValueRefusedError: `right` and `wrong` are the same, so that the difference is always 0.
    Source:
        Wang et al. 2022, https://arxiv.org/abs/2211.00593, section 2.
    Example:
        >>> LogitDiff(0, 2)(mx.array([[[5.0, 0.0, 3.0]]])).tolist()
        [2.0]
        >>> LogitDiff(" Mary", " John").name
        "logit_diff(' Mary', ' John')"
    """

    right: Answers
    wrong: Answers

    @override
    def __post_init__(self) -> None:
        object.__setattr__(self, "right", as_answers("right", self.right))
        object.__setattr__(self, "wrong", as_answers("wrong", self.wrong))
        _refuse_same(self.right, self.wrong)
        super().__post_init__()

    @override
    def resolve(self, tokenizer: Tokenizer | None) -> Self:
        if not has_text(self.right) and not has_text(self.wrong):
            return self
        right = single_tokens("right", checked_answers(self.right), tokenizer)
        wrong = single_tokens("wrong", checked_answers(self.wrong), tokenizer)
        return replace(self, right=right, wrong=wrong)

    @override
    def for_rows(self, rows: Sequence[int], n: int) -> Self:
        right = for_rows("right", self.right, rows, n)
        wrong = for_rows("wrong", self.wrong, rows, n)
        return replace(self, right=right, wrong=wrong)

    @override
    def reads_tokens(self) -> tuple[int, ...] | None:
        if type(self) is not LogitDiff:  # another class may measure something else
            return None
        answers = (*listed_answers(self.right), *listed_answers(self.wrong))
        return tuple(answer for answer in answers if isinstance(answer, int))

    @override
    def on_tokens(self, ids: Sequence[int]) -> Self:
        right, wrong = _renumbered(self.right, ids), _renumbered(self.wrong, ids)
        return replace(self, right=right, wrong=wrong)

    @override
    def measure_row(self, row: mx.array) -> mx.array:
        return _logits_of(row, "right", self.right) - _logits_of(row, "wrong", self.wrong)


@dataclass(frozen=True, repr=False)
class Prob(_Answered):
    """Probability of the answer, from 0 to 1.

    Args:
        token: A string of one token, or a token id; or one per example.
        pos: The position that is read.
    Source:
        Meng et al. 2022, https://arxiv.org/abs/2202.05262, section 2.1.
    Example:
        >>> round(Prob(1)(mx.array([[[0.0, 0.0]]])).item(), 4)
        0.5
    """

    @override
    def measure_row(self, row: mx.array) -> mx.array:
        return mx.exp(_log_prob(row, self.token))


@dataclass(frozen=True, repr=False)
class LogProb(_Answered):
    """Logarithm of the answer's probability, in nats, at most 0.

    Args:
        token: A string of one token, or a token id; or one per example.
        pos: The position that is read.
    Source:
        Heimersheim and Nanda 2024, https://arxiv.org/abs/2404.15255.
    Example:
        >>> round(LogProb(1)(mx.array([[[0.0, 0.0]]])).item(), 4)  # -log 2
        -0.6931
    """

    @override
    def measure_row(self, row: mx.array) -> mx.array:
        return _log_prob(row, self.token)


@dataclass(frozen=True, repr=False)
class Rank(_Answered):
    """How many other tokens are at least as likely as the answer: 0 where it is the single most likely one.

    Ties count against the answer. In bf16 they are common: nearby logits round to the same number.

    Args:
        token: A string of one token, or a token id; or one per example.
        pos: The position that is read.
    Example:
        >>> logits = mx.array([[[5.0, 3.0, 3.0, 1.0]]])
        >>> Rank(0)(logits).item(), Rank(1)(logits).item(), Rank(3)(logits).item()
        (0.0, 2.0, 3.0)
    """

    differentiable: ClassVar[bool] = False

    @override
    def measure_row(self, row: mx.array) -> mx.array:
        logits = _logits_of(row, "token", self.token)
        rank = mx.sum(row >= logits[:, None], axis=-1).astype(mx.float32) - 1
        has_nan = mx.any(mx.isnan(row), axis=-1)
        return mx.where(has_nan, mx.nan, rank)  # comparisons hide NaN


def _renumbered(answers: Answers, ids: Sequence[int]) -> tuple[int, ...]:
    """Answers as their places in a list of token ids."""
    return tuple(ids.index(answer) for answer in listed_answers(answers) if isinstance(answer, int))


def _logits_of(row: mx.array, argument: str, answers: Answers) -> mx.array:
    """The logit of each row's answer. `(batch, d_vocab)` to `(batch,)`."""
    return mx.take_along_axis(row, _ids(row, argument, answers), axis=-1)[:, 0]


def _log_prob(row: mx.array, answers: Answers) -> mx.array:
    """The log-probability of the answer of each row. `(batch, d_vocab)` to `(batch,)`."""
    return log_softmax_at(row, _ids(row, "token", answers))[:, 0]


def _ids(row: mx.array, argument: str, answers: Answers) -> mx.array:
    """The token id of each row's answer. Shape `(batch, 1)`."""
    batch, d_vocab = row.shape
    return ids_per_row(argument, checked_answers(answers), (batch, d_vocab))


def _refuse_same(right: Answers, wrong: Answers) -> None:
    """Refuse an example whose answers are the same; one answer for all is that of every example."""
    rights, wrongs = listed_answers(right), listed_answers(wrong)
    if len(rights) == 1 or len(wrongs) == 1:
        pairs = itertools.product(rights, wrongs)
    else:
        pairs = zip(rights, wrongs, strict=False)
    for right_answer, wrong_answer in pairs:
        if right_answer == wrong_answer:
            raise ValueRefusedError(
                f"`wrong` must differ from `right` in every example. Got {shown(right_answer)} for both, which "
                "makes the "
                "metric always 0."
            )
