"""`PromptPair` and `PromptPairs`: prompts to patch into each other, and whether a model tells them apart."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, overload

import mlx.core as mx
import numpy as np
from typing_extensions import override

from mlx_patch.errors import KindError, TokenError, ValueRefusedError, listed
from mlx_patch.metrics import LogitDiff, Metric
from mlx_patch.model import HookedModel
from mlx_patch.pairs._report import PairReport
from mlx_patch.tokens import one_prompt


@dataclass(frozen=True)
class PromptPair:
    """A clean prompt, a corrupted one, and what they should answer.

    Args:
        clean: A text, chat messages or token ids.
        corrupted: The same, with what should change the answer.
        answer: What the clean prompt should be answered with: a text of one token, or a token id.
        foil: What the corrupted one should be answered with.

    Raises:
        ValueRefusedError: `answer` and `foil` are the same, or so are the prompts.
    Example:
        >>> PromptPair("John met Mary. Mary likes", "John met Mary. John likes", " John", " Mary").answer
        ' John'
    """

    clean: Any
    corrupted: Any
    answer: str | int
    foil: str | int

    def __post_init__(self) -> None:
        if type(self.answer) is type(self.foil) and self.answer == self.foil:
            raise ValueRefusedError(f"`foil` must differ from `answer`. Got {self.answer!r} for both.")
        if type(self.clean) is type(self.corrupted) and _same(self.clean, self.corrupted):
            raise ValueRefusedError(f"`corrupted` must differ from `clean`. Got {self.clean!r} for both.")

    def check(self, model: HookedModel) -> PairReport:
        """As `PromptPairs.check`, of this pair alone."""
        return PromptPairs([self]).check(model)


@dataclass(frozen=True, init=False)
class PromptPairs(Sequence[PromptPair]):
    """Pairs of prompts, one an example: what `sweep` and `sweep_pair` take as `pairs.clean` and `pairs.corrupted`.

    Args:
        pairs: The pairs.
        metric: What tells the two apart, positive where the answer is preferred; None is the difference of the logits
            of `answer` and `foil`.
        opposed: Whether the corrupted prompt should prefer the foil. Where not, its metric need only be less.

    Raises:
        KindError: Something is no pair.
        ValueRefusedError: There is none.
    """

    pairs: tuple[PromptPair, ...]
    metric: Metric = field(repr=False)
    opposed: bool = field(repr=False)

    def __init__(self, pairs: Iterable[PromptPair], metric: Metric | None = None, opposed: bool = True) -> None:
        own = tuple(pairs)
        if not own:
            raise ValueRefusedError("`pairs` must hold a PromptPair. Got none.")
        for one in own:
            if not isinstance(one, PromptPair):
                raise KindError(f"`pairs` must hold PromptPairs. Got {one!r}. Write mp.PromptPair(clean, ...).")
        object.__setattr__(self, "pairs", own)
        given = LogitDiff([p.answer for p in own], [p.foil for p in own]) if metric is None else metric
        object.__setattr__(self, "metric", given)
        object.__setattr__(self, "opposed", opposed)

    @property
    def clean(self) -> list[Any]:
        """The clean prompts, in order."""
        return [pair.clean for pair in self.pairs]

    @property
    def corrupted(self) -> list[Any]:
        """The corrupted prompts, in order."""
        return [pair.corrupted for pair in self.pairs]

    def tokens(self, model: HookedModel) -> tuple[list[mx.array], list[mx.array]]:
        """The tokens of the clean and of the corrupted prompts. Each of shape `(1, pos)`.

        Raises:
            TokenError: As `HookedModel.tokenize`.
        """
        clean, corrupted = (
            [one_prompt(one, number, model.tokenizer, model.d_vocab) for number, one in enumerate(side)]
            for side in (self.clean, self.corrupted)
        )
        return clean, corrupted

    def check(self, model: HookedModel, strict: bool = False) -> PairReport:
        """How the model does on the pairs: a run of each prompt, once lengths and answers have been looked at.

        Args:
            model: The model.
            strict: Raise where a pair fails.
        Returns:
            A report; print it.
        Raises:
            TokenError: An answer is not one token, or a prompt begins with two BOS tokens: before anything is run.
            ValueRefusedError: `strict`, and a pair fails; the message says which and why.
        """
        metric = _resolved(self.metric, model)
        clean, corrupted = self.tokens(model)
        for side in (*clean, *corrupted):
            _refuse_two_bos(side, model.tokenizer)
        numbers = []
        for side in (clean, corrupted):
            logits = model.run_each(side, logits_at=-1)
            numbers.append(_measured(metric, logits))
        lengths = tuple((a.shape[1], b.shape[1]) for a, b in zip(clean, corrupted, strict=True))
        problems = tuple(
            self._problem(size, *pair) for size, pair in zip(lengths, zip(*numbers, strict=True), strict=True)
        )
        report = PairReport(metric.name, lengths, numbers[0], numbers[1], problems)
        if strict and not report.ok:
            which = [f"pair {n} ({problems[n]})" for n in report.failing]
            raise ValueRefusedError(f"`pairs` must all pass. Got {listed(which)}. Keep the others: .passing(report).")
        return report

    def _problem(self, lengths: tuple[int, int], clean: float, corrupted: float) -> str:
        if clean <= 0:
            return "clean prefers the foil"
        if corrupted >= (0 if self.opposed else clean):
            return "corrupted prefers the answer too" if self.opposed else "corrupted does as well as clean"
        return "" if lengths[0] == lengths[1] else "lengths differ: use mp.align(clean, corrupted)"

    def passing(self, report: PairReport) -> "PromptPairs":
        """The pairs with which nothing is wrong.

        Raises:
            ValueRefusedError: There is none, or the report is of other pairs.
        """
        if len(report.problems) != len(self.pairs):
            raise ValueRefusedError(
                f"`report` must be of these {len(self.pairs)} pairs. Got one of {len(report.problems)}. Check again."
            )
        return self.some([n for n in range(len(self.pairs)) if n not in report.failing])

    def some(self, numbers: Sequence[int]) -> "PromptPairs":
        """The pairs of some numbers, in this order, with their metric.

        Raises:
            ValueRefusedError: There is none.
        """
        if not numbers:
            raise ValueRefusedError("`pairs` must hold one that passes. Got none. Print the report to see why.")
        metric = self.metric.for_rows(numbers, len(self.pairs))
        return PromptPairs([self.pairs[n] for n in numbers], metric, self.opposed)

    def by_length(self, model: HookedModel) -> list["PromptPairs"]:
        """The pairs in groups whose prompts all have one length, as `sweep_pair` wants them."""
        groups: dict[tuple[int, int], list[int]] = {}
        for number, both in enumerate(zip(*self.tokens(model), strict=True)):
            groups.setdefault((both[0].shape[1], both[1].shape[1]), []).append(number)
        return [self.some(numbers) for numbers in groups.values()]

    @overload
    def __getitem__(self, index: int) -> PromptPair: ...

    @overload
    def __getitem__(self, index: slice) -> "PromptPairs": ...

    @override
    def __getitem__(self, index: int | slice) -> "PromptPair | PromptPairs":
        return self.some(range(len(self.pairs))[index]) if isinstance(index, slice) else self.pairs[index]

    @override
    def __len__(self) -> int:
        return len(self.pairs)

    @override
    def __iter__(self) -> Iterator[PromptPair]:
        return iter(self.pairs)


def _same(one: Any, other: Any) -> bool:
    return bool(np.array_equal(np.array(one), np.array(other))) if isinstance(one, mx.array) else bool(one == other)


def _resolved(metric: Metric, model: HookedModel) -> Metric:
    """The metric with its texts as tokens; an answer of several tokens is told about those that measure such."""
    try:
        return metric.resolve(model.tokenizer)
    except TokenError as error:
        if "must be one token" not in str(error):
            raise
        raise TokenError(
            f"{error} Or sweep with the whole answers: metric=mp.metrics.SequenceLogitDiff(answers, foils)."
        ) from None


def _refuse_two_bos(tokens: mx.array, tokenizer: Any) -> None:
    bos = getattr(tokenizer, "bos_token_id", None)
    if bos is not None and tokens.shape[1] > 1 and tokens[0, 0].item() == tokens[0, 1].item() == bos:
        raise TokenError(
            f"`pairs` must begin with one beginning-of-sequence token. Got two ({bos}). "
            "Leave it out of the text: the tokenizer adds it."
        )


def _measured(metric: Metric, logits: Sequence[mx.array]) -> tuple[float, ...]:
    """The metric of each prompt by itself, from its logits at the last position."""
    last = replace(metric, pos=-1) if metric.pos is not None else metric
    found = [last.for_rows([n], len(logits))(one) for n, one in enumerate(logits)]
    return tuple(np.array(mx.concatenate(found)).tolist())
