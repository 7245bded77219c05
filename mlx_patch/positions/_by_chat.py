"""Selectors of positions by the messages of a chat."""

from dataclasses import dataclass

from typing_extensions import override

from mlx_patch.errors import SelectionError, listed, shown
from mlx_patch.positions._pieces import Pieces
from mlx_patch.positions._selector import Selector


@dataclass(frozen=True, repr=False)
class OfTurn(Selector):
    """The content of one message of a chat."""

    number: int

    @override
    def find(self, prompt: Pieces) -> tuple[int, ...]:
        turns = prompt.turns
        count = len(turns)
        if not -count <= self.number < count:
            raise SelectionError(
                f"`turn` must lie in {-count} to {count - 1}, the messages of this chat. Got {self.number}."
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
        turns_of_role = [turn for turn in turns if turn.role == self.role]
        if not turns_of_role:
            roles = listed(dict.fromkeys(turn.role for turn in turns))
            raise SelectionError(f"`role` must be one of this chat. Got {shown(self.role)}. It has: {roles}.")
        return tuple(sorted({position for turn in turns_of_role for position in turn.positions}))

    @override
    def __repr__(self) -> str:
        return f"role({self.role!r})"
