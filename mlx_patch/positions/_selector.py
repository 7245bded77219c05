"""`Selector`: positions by what stands there, and how selectors are put together."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Literal

from typing_extensions import override

from mlx_patch.errors import KindError, SelectionError
from mlx_patch.positions._pieces import Pieces, prompt_ids


class Selector(ABC):
    """Positions of a prompt, chosen by what stands there. `mp.pos` makes them.

    A selector goes wherever a position goes. `a | b` is the positions of both, `a + 1` those after, `a.first` and
    `a.final` the first and the last one. It is resolved against the tokens of the run; a batch row by row.
    """

    @abstractmethod
    def find(self, prompt: Pieces) -> tuple[int, ...]:
        """The chosen positions of one prompt, from 0, rising.

        Raises:
            SelectionError: Nothing is chosen, or more than was asked for.
        """

    def resolve(self, tokens: Any, tokenizer: Any = None) -> tuple[int, ...]:
        """The chosen positions of one prompt.

        Args:
            tokens: Token ids, `(pos,)` or `(1, pos)`; a text or chat messages.
            tokenizer: The tokenizer, where the selector goes by text.
        Raises:
            SelectionError: Nothing is chosen, or more than was asked for.
            TokenError: There is no tokenizer, or no chat template.
        """
        return self.find(Pieces(prompt_ids("tokens", tokens, tokenizer), tokenizer))

    @property
    def first(self) -> "Selector":
        """The first of the chosen positions."""
        return End(self, "first")

    @property
    def final(self) -> "Selector":
        """The last of the chosen positions: of a name of several tokens, the one that has read it all."""
        return End(self, "final")

    def __or__(self, other: "Selector") -> "Selector":
        if not isinstance(other, Selector):
            raise KindError(f"`|` must join two selectors. Got {other!r}. Write mp.pos.last | mp.pos.token(' Mary').")
        return Union(self, other)

    def __add__(self, offset: int) -> "Selector":
        if isinstance(offset, bool) or not isinstance(offset, int):
            raise KindError(f"`+` must have a number of positions. Got {offset!r}. To have both, write `a | b`.")
        return Shifted(self, offset)

    def __sub__(self, offset: int) -> "Selector":
        if isinstance(offset, bool) or not isinstance(offset, int):
            raise KindError(f"`-` must have a number of positions. Got {offset!r}.")
        return Shifted(self, -offset)


@dataclass(frozen=True, repr=False)
class Union(Selector):
    """The positions of both."""

    one: Selector
    other: Selector

    @override
    def find(self, prompt: Pieces) -> tuple[int, ...]:
        return tuple(sorted({*self.one.find(prompt), *self.other.find(prompt)}))

    @override
    def __repr__(self) -> str:
        return f"{self.one!r} | {self.other!r}"


@dataclass(frozen=True, repr=False)
class Shifted(Selector):
    """Positions so many further on."""

    selector: Selector
    offset: int

    @override
    def find(self, prompt: Pieces) -> tuple[int, ...]:
        moved = tuple(p + self.offset for p in self.selector.find(prompt))
        for position in moved:
            if not 0 <= position < len(prompt):
                raise SelectionError(
                    f"`pos` must lie in 0 to {len(prompt) - 1}. Got {position} from {self!r}. Choose a smaller offset."
                )
        return moved

    @override
    def __repr__(self) -> str:
        return f"{_joined(self.selector)} {'+' if self.offset >= 0 else '-'} {abs(self.offset)}"


@dataclass(frozen=True, repr=False)
class End(Selector):
    """The first or the last of some positions."""

    selector: Selector
    which: Literal["first", "final"]

    @override
    def find(self, prompt: Pieces) -> tuple[int, ...]:
        found = self.selector.find(prompt)
        return found[:1] if self.which == "first" else found[-1:]

    @override
    def __repr__(self) -> str:
        return f"{_joined(self.selector)}.{self.which}"


def _joined(selector: Selector) -> str:
    return f"({selector!r})" if isinstance(selector, Union | Shifted) else repr(selector)
