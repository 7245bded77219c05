"""When an edit acts during a generation: `mp.steps.prompt`, `generated`, `every(n)`, `when(fn)`, joined with `&`."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

from typing_extensions import override

from mlx_patch import arguments
from mlx_patch.errors import KindError, ValueRefusedError, shown
from mlx_patch.interventions._moment import Moment

__all__ = ["every", "generated", "prompt", "when"]


class Steps(ABC):
    """Forward passes of a generation, for `edit.during(...)`. A frozen value; `a & b` is where both hold."""

    @abstractmethod
    def holds(self, moment: Moment) -> bool:
        """Whether a forward pass is one of them."""

    def __and__(self, other: "Steps") -> "Steps":
        if not isinstance(other, Steps):
            raise KindError(
                f"`&` must join two choices of steps. Got {shown(other)}. Write a & mp.steps.every(2), say."
            )
        return Both(self, other)


@dataclass(frozen=True, repr=False)
class PromptSteps(Steps):
    """While the prompt is read."""

    @override
    def holds(self, moment: Moment) -> bool:
        return moment.step == 0

    @override
    def __repr__(self) -> str:
        return "steps.prompt"


@dataclass(frozen=True, repr=False)
class Generated(Steps):
    """While generated tokens are read."""

    @override
    def holds(self, moment: Moment) -> bool:
        return moment.step > 0

    @override
    def __repr__(self) -> str:
        return "steps.generated"


@dataclass(frozen=True, repr=False)
class EveryNth(Steps):
    """While every n-th generated token is read."""

    n: int

    @override
    def holds(self, moment: Moment) -> bool:
        return moment.step > 0 and (moment.step - 1) % self.n == 0

    @override
    def __repr__(self) -> str:
        return f"steps.every({self.n})"


@dataclass(frozen=True, repr=False)
class When(Steps):
    """While a function returns True."""

    fn: Callable[[Moment], bool]

    @override
    def holds(self, moment: Moment) -> bool:
        return moment.ask(self.fn)

    @override
    def __repr__(self) -> str:
        return f"steps.when({getattr(self.fn, '__name__', repr(self.fn))})"


@dataclass(frozen=True, repr=False)
class Both(Steps):
    """While both hold."""

    first: Steps
    second: Steps

    @override
    def holds(self, moment: Moment) -> bool:
        return self.first.holds(moment) and self.second.holds(moment)

    @override
    def __repr__(self) -> str:
        return f"{self.first!r} & {self.second!r}"


prompt: Steps = PromptSteps()
"""While the prompt is read: all of it, however many forward passes that takes. What comes after it stays unpatched."""

generated: Steps = Generated()
"""While generated tokens are read, from the first one on. The prompt is unpatched; its last token gives the first."""


def every(n: int) -> Steps:
    """While every n-th generated token is read: the first, the one n later, and so on.

    Args:
        n: 1 or more.
    Raises:
        ValueRefusedError: It is not a whole number of 1 or more.
    Example:
        >>> [step for step in range(8) if every(3).holds(Moment(step, 9 + step))]
        [1, 4, 7]
    """
    return EveryNth(arguments.whole_number("n", n, 1, kind_error=ValueRefusedError))


def when(fn: Callable[[Moment], bool]) -> Steps:
    """While a function returns True. It is called for each forward pass, at most once, in order.

    Args:
        fn: From a `Moment`, with `step`, `position` and `tokens`, to True or False. The prompt may take several forward
            passes, all of step 0. Reading `tokens` waits for the token that is to be read.
    Raises:
        KindError: `fn` cannot be called, or (when it runs) does not return True or False.
    Example:
        >>> when(lambda moment: moment.position < 12).holds(Moment(step=1, position=8))
        True
    """
    return When(arguments.function("fn", fn, "a function of a Moment"))


def __dir__() -> list[str]:
    """What is meant for the user of the module."""
    return sorted(__all__)
