"""`PromptPairs`: several pairs, in the form that sweeps take."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, overload

import mlx.core as mx
from typing_extensions import override

from mlx_patch import arguments
from mlx_patch.errors import KindError, ValueRefusedError
from mlx_patch.metrics import LogitDiff, ProbDiff
from mlx_patch.model import HookedModel, require_hooked

from ._check import checked
from ._pages import pairs_page
from ._pair import PromptPair, metric_of
from ._report import PairReport


@dataclass(frozen=True, repr=False)
class PromptPairs(Sequence[PromptPair]):
    """Pairs of prompts, one per example. A sequence: `pairs[0]` is a `PromptPair`, `pairs[:4]` are pairs again.

    `mp.sweep_pair(model, pairs.clean, pairs.corrupted, "resid_post", metric=pairs.metric)` takes them as they are.

    Args:
        pairs: The pairs, at least one.
        name: What they are, for reports.
    Raises:
        KindError: Something is no `PromptPair`.
        ValueRefusedError: There are none.
    Example:
        >>> pair = PromptPair("The capital of France is", "The capital of Italy is", " Paris", " Rome")
        >>> pairs = PromptPairs([pair, pair.swapped])
        >>> pairs.metric
        LogitDiff([' Paris', ' Rome'], [' Rome', ' Paris'])
    """

    pairs: tuple[PromptPair, ...]
    name: str = ""

    def __init__(self, pairs: Iterable[PromptPair], name: str = ""):
        object.__setattr__(self, "pairs", _as_pairs(pairs))
        object.__setattr__(self, "name", arguments.string("name", name))

    @property
    def clean(self) -> list[Any]:
        """The clean prompts, as `sweep` and `run_each` take them."""
        return [pair.clean for pair in self.pairs]

    @property
    def corrupted(self) -> list[Any]:
        """The corrupted prompts, as `sweep` and `run_each` take them."""
        return [pair.corrupted for pair in self.pairs]

    @property
    def metric(self) -> LogitDiff | ProbDiff:
        """The logit of each pair's answer minus that of its foil, in nats; of sets, the difference in probability."""
        return metric_of(self.pairs)

    def tokens(self, model: HookedModel) -> list[tuple[mx.array, mx.array]]:
        """The tokens of each pair, clean and corrupted. Shape of each array: `(1, pos)`.

        Raises:
            TokenError, SelectionError: A prompt that is none for this model.
        """
        return [pair.tokens(model) for pair in self.pairs]

    def by_length(self, model: HookedModel) -> "tuple[PromptPairs, ...]":
        """The pairs in groups whose prompts have one length, for one `sweep_pair` each; in order within a group.

        Raises:
            TokenError, SelectionError: A prompt that is none for this model.
        """
        groups: dict[tuple[int, int], list[PromptPair]] = {}
        for pair, (clean, corrupted) in zip(self.pairs, self.tokens(model), strict=True):
            lengths = clean.shape[1], corrupted.shape[1]
            groups.setdefault(lengths, []).append(pair)
        return tuple(PromptPairs(group, self.name) for group in groups.values())

    def check(self, model: HookedModel, *, strict: bool = False, unequal: bool = False) -> PairReport:
        """Check that this model tokenizes each pair as intended, and answers it as intended.

        Before anything runs: both prompts have tokens, one beginning of the sequence and equal lengths; answers and
        foils are one token each, and differ. Then every prompt runs once: the clean one must prefer the answer to the
        foil, and the corrupted one must not.

        Args:
            model: The model.
            strict: Refuse pairs that fail, instead of reporting them.
            unequal: Allow prompts of unequal length, for a sweep with an alignment.
        Returns:
            A report; print it.
        Raises:
            ValueRefusedError: `strict`, and a pair fails. It names the pairs; where one fails before anything runs,
                nothing is run.
        """
        require_hooked("model", model)
        strict, unequal = arguments.flag("strict", strict), arguments.flag("unequal", unequal)
        return checked(self.pairs, self.name, model, strict, unequal)

    def passing(self, report: PairReport) -> "PromptPairs":
        """The pairs that passed a check.

        Raises:
            ValueRefusedError: The report is of other pairs, or none passed.
        """
        arguments.instance("report", report, PairReport, "Use `pairs.check(model)`.")
        if report.pairs != self.pairs:
            raise ValueRefusedError(
                "`report` must come from these pairs. Got one of other pairs. Use `pairs.check(model)`."
            )
        if len(report.failing) == len(self):
            raise ValueRefusedError(
                f"`report` must have a pair that passed. Got {len(self)} that failed. Print it to see why."
            )
        passing = [pair for number, pair in enumerate(self.pairs) if number not in report.failing]
        return PromptPairs(passing, self.name)

    @override
    def __len__(self) -> int:
        return len(self.pairs)

    @override
    def __iter__(self) -> Iterator[PromptPair]:
        return iter(self.pairs)

    @overload
    def __getitem__(self, index: int) -> PromptPair: ...
    @overload
    def __getitem__(self, index: slice) -> "PromptPairs": ...
    @override
    def __getitem__(self, index: int | slice) -> "PromptPair | PromptPairs":
        if isinstance(index, slice):
            return PromptPairs(self.pairs[arguments.checked_slice("index", index)], self.name)
        return self.pairs[arguments.place("index", index, len(self.pairs))]

    def _repr_html_(self) -> str:
        prompts = [(pair.clean, pair.corrupted) for pair in self.pairs]
        return pairs_page(repr(self), prompts, [(pair.answer, pair.foil) for pair in self.pairs])

    @override
    def __repr__(self) -> str:
        if self.name:
            return f"PromptPairs({self.name}: {len(self)} pairs)"
        return f"PromptPairs({len(self)} pairs)"


def _as_pairs(pairs: Iterable[PromptPair]) -> tuple[PromptPair, ...]:
    listed = arguments.entries("pairs", pairs, "a list of PromptPairs")
    for pair in listed:
        if not isinstance(pair, PromptPair):
            raise KindError(f"`pairs` must hold PromptPairs. Got {type(pair).__name__}. Write mp.PromptPair(...).")
    if not listed:
        raise ValueRefusedError("`pairs` must hold at least one pair. Got none.")
    return listed
