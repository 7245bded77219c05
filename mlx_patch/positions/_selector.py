"""`Selector`: positions chosen by their text or role, and combinations of selectors."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Literal

from typing_extensions import override

from mlx_patch import arguments
from mlx_patch.errors import KindError, SelectionError, shown
from mlx_patch.positions._pieces import Pieces, prompt_ids


class Selector(ABC):
    """Positions of a prompt, chosen by their text or role. `mp.pos` makes them.

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
            raise KindError(
                f"`|` must join two selectors. Got {shown(other)}. Write mp.pos.last | mp.pos.token(' Mary')."
            )
        return Union(self, other)

    def __add__(self, offset: int) -> "Selector":
        remedy = "To have both, write `a | b`."
        return Shifted(self, arguments.whole_number("+", offset, counted=" positions", remedy=remedy))

    def __sub__(self, offset: int) -> "Selector":
        return Shifted(self, -arguments.whole_number("-", offset, counted=" positions"))


@dataclass(frozen=True, repr=False)
class Union(Selector):
    """The positions of both."""

    left: Selector
    right: Selector

    @override
    def find(self, prompt: Pieces) -> tuple[int, ...]:
        positions = {*self.left.find(prompt), *self.right.find(prompt)}
        return tuple(sorted(positions))

    @override
    def __repr__(self) -> str:
        return f"{self.left!r} | {self.right!r}"


@dataclass(frozen=True, repr=False)
class Shifted(Selector):
    """Positions so many further on."""

    selector: Selector
    offset: int

    @override
    def find(self, prompt: Pieces) -> tuple[int, ...]:
        moved = tuple(position + self.offset for position in self.selector.find(prompt))
        for position in moved:
            if not 0 <= position < len(prompt):
                raise SelectionError(
                    f"`pos` must lie in 0 to {len(prompt) - 1}. Got {position} from {self!r}. Choose a smaller offset."
                )
        return moved

    @override
    def __repr__(self) -> str:
        sign = "+" if self.offset >= 0 else "-"
        return f"{_bracketed(self.selector)} {sign} {abs(self.offset)}"


@dataclass(frozen=True, repr=False)
class End(Selector):
    """The first or the last of some positions."""

    selector: Selector
    side: Literal["first", "final"]

    @override
    def find(self, prompt: Pieces) -> tuple[int, ...]:
        positions = self.selector.find(prompt)
        if self.side == "first":
            return positions[:1]
        return positions[-1:]

    @override
    def __repr__(self) -> str:
        return f"{_bracketed(self.selector)}.{self.side}"


def _bracketed(selector: Selector) -> str:
    if isinstance(selector, Union | Shifted):
        return f"({selector!r})"
    return repr(selector)
