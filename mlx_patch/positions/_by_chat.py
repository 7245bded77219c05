"""Selectors that go by the messages of a chat."""

from dataclasses import dataclass

from typing_extensions import override

from mlx_patch.errors import SelectionError, listed
from mlx_patch.positions._pieces import Pieces
from mlx_patch.positions._selector import Selector


@dataclass(frozen=True, repr=False)
class OfTurn(Selector):
    """The content of one message of a chat."""

    number: int

    @override
    def find(self, prompt: Pieces) -> tuple[int, ...]:
        turns = prompt.turns
        if not -len(turns) <= self.number < len(turns):
            raise SelectionError(
                f"`turn` must lie in {-len(turns)} to {len(turns) - 1}, the messages of this chat. Got {self.number}."
            )
        return turns[self.number].positions

    @override
    def __repr__(self) -> str:
        return f"turn({self.number})"


@dataclass(frozen=True, repr=False)
class OfRole(Selector):
    """The content of all messages of a role."""

    role: str

    @override
    def find(self, prompt: Pieces) -> tuple[int, ...]:
        turns = prompt.turns
        own = [turn for turn in turns if turn.role == self.role]
        if not own:
            has = listed(dict.fromkeys(turn.role for turn in turns))
            raise SelectionError(f"`role` must be one of this chat. Got {self.role!r}. It has: {has}.")
        return tuple(sorted({position for turn in own for position in turn.positions}))

    @override
    def __repr__(self) -> str:
        return f"role({self.role!r})"
