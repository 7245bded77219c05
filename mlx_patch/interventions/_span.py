"""`Span`: the absolute positions that one forward pass computes, and their indices in it."""

from bisect import bisect_left
from dataclasses import dataclass

from mlx_patch.errors import SelectionError, shown
from mlx_patch.interventions._moment import Moment
from mlx_patch.positions import Selector


@dataclass(frozen=True)
class Span:
    """The positions that one forward pass computes.

    Attributes:
        offset: The absolute position of the first one: how many a prompt cache held before.
        length: The number of positions.
        prompt: The length of the whole prompt, from whose end negative positions count. None where it is not known.
        pieces: Whether other passes compute other positions (generation), so that an absent one may still come.
        moment: The step of a generation; None outside one.

    Example:
        >>> Span(offset=100, length=4, prompt=104).local((101, -1))
        (1, 3)
        >>> Span(offset=0, length=4, prompt=4).local(slice(-2, None))
        (2, 3)
    """

    offset: int
    length: int
    prompt: int | None
    pieces: bool = False
    moment: Moment | None = None

    @property
    def end(self) -> int:
        """The absolute position after the last one."""
        return self.offset + self.length

    def local(self, pos: slice | tuple[int, ...] | Selector) -> tuple[int, ...]:
        """The indices of absolute positions within this pass.

        Raises:
            SelectionError: A position that is not in the prompt, that is named twice, or that a prompt cache
                already holds.
        """
        if isinstance(pos, Selector):
            raise SelectionError(
                f"`pos` must hold numbers if the prompt is not known. Got {shown(pos)}. Resolve it first, "
                f"pos=mp.pos.{pos!r}.resolve(tokens, tokenizer), or pass the edits to `model.run` or `model.generate`."
            )
        if isinstance(pos, slice):
            return tuple(position - self.offset for position in self._sliced(pos))
        positions = self._listed(pos)
        return tuple(position - self.offset for position in positions if self.offset <= position < self.end)

    def keys(self, choice: slice | tuple[int, ...] | Selector, n_keys: int) -> tuple[int, ...]:
        """The indices of absolute positions along an axis of keys, which begins at position 0.

        Keys that are not there yet are left out where more passes follow.

        Args:
            choice: The positions; negative ones count from the end of the prompt.
            n_keys: The entries of the axis. Those behind the last position are no positions.
        Raises:
            SelectionError: A position that is not in the prompt, or that is named twice.
        """
        if isinstance(choice, Selector):
            raise SelectionError(
                f"`key` must hold numbers if the prompt is not known. Got {shown(choice)}. Resolve it first, "
                f"key=mp.pos.{choice!r}.resolve(tokens, tokenizer), or pass the edits to `model.run`."
            )
        count = min(n_keys, self.end)
        if isinstance(choice, slice):
            start, stop = (self._absolute_bound(bound, "key") for bound in (choice.start, choice.stop))
            return tuple(range(count)[start : stop : choice.step])
        positions = tuple(self._absolute(position, "key") for position in choice)
        end = max(count, self.prompt or 0) if self.pieces else count
        for number, position in zip(choice, positions, strict=True):
            is_past = position >= end and not (self.pieces and self.moment is not None)
            if position < 0 or is_past:
                raise SelectionError(f"`key` must lie in {-end} to {end - 1}, the {end} positions. Got {number}.")
        refuse_repeats("key", choice, positions)
        return tuple(position for position in positions if position < count)

    def _sliced(self, pos: slice) -> range:
        """The positions of a slice that lie in this pass. It clips, and a missing end runs on with generation."""
        start, stop = self._absolute_bound(pos.start), self._absolute_bound(pos.stop)
        chosen = range(self.end)[start : stop : pos.step]
        return chosen[bisect_left(chosen, self.offset) :]

    def _absolute_bound(self, bound: int | None, name: str = "pos") -> int | None:
        if bound is None:
            return None
        return max(0, self._absolute(bound, name))

    def _listed(self, pos: tuple[int, ...]) -> tuple[int, ...]:
        positions = tuple(map(self._absolute, pos))
        for choice, position in zip(pos, positions, strict=True):
            if position < 0 or not self.pieces:
                self._refuse_outside(choice, position)
        refuse_repeats("pos", pos, positions)
        return positions

    def _absolute(self, position: int, name: str = "pos") -> int:
        """A position counted from the start; still negative if it lies before the prompt."""
        if position >= 0:
            return position
        if self.prompt is None:
            raise SelectionError(
                f"`{name}` must be 0 or more if the prompt comes in pieces. Got {position}. Negative positions count "
                "from the end of the prompt, which is not known here: pass the edits to `model.run` or "
                "`model.generate`."
            )
        return position + self.prompt

    def _refuse_outside(self, choice: int, position: int) -> None:
        end = self.end
        if self.prompt is not None and self.pieces:
            end = self.prompt
        if not 0 <= position < end:
            raise SelectionError(f"`pos` must lie in {-end} to {end - 1}, the {end} positions. Got {choice}.")
        if position < self.offset:
            raise SelectionError(
                f"`pos` must be {self.offset} or more: the prompt cache already holds the positions before. Got "
                f"{choice}. Run the prompt without the prompt cache."
            )


def refuse_repeats(name: str, choice: tuple[int, ...], absolute: tuple[int, ...]) -> None:
    """Refuse a choice that names an index twice, as 9 and as -1 for example.

    Raises:
        SelectionError: It does.
    """
    if len(set(absolute)) < len(absolute):
        raise SelectionError(f"`{name}` must not name anything twice. Got {choice}, which are {absolute}.")
