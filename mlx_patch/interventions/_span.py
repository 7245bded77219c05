"""Absolute positions: which ones one forward pass computes, and where in it a given one lies."""

from dataclasses import dataclass

from mlx_patch.errors import SelectionError
from mlx_patch.interventions._moment import Moment
from mlx_patch.positions import Selector


@dataclass(frozen=True)
class Span:
    """The positions that one forward pass computes.

    Attributes:
        offset: The absolute position of the first one: what a prompt cache held before.
        length: How many there are.
        prompt: The positions of the whole prompt, from whose end negative ones count. None where nobody knows.
        pieces: Whether other passes bring other positions (generation), so that one that is not here may come.
        moment: Which step of a generation it is; None where nobody knows of one.

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
                f"`pos` must be positions where the prompt is not known. Got {pos!r}. Resolve it first, "
                f"pos=mp.pos.{pos!r}.resolve(tokens, tokenizer), or pass the edits to `model.run` or `model.generate`."
            )
        if isinstance(pos, slice):
            return tuple(p - self.offset for p in self._sliced(pos))
        return tuple(p - self.offset for p in self._listed(pos) if self.offset <= p < self.end)

    def _sliced(self, pos: slice) -> range:
        """The positions of a slice that lie in this pass. It clips, and a missing end runs on with generation."""
        start, stop = (self._bound(bound) for bound in (pos.start, pos.stop))
        chosen = range(self.end)[start : stop : pos.step]
        skipped = max(0, -(-(self.offset - chosen.start) // chosen.step))
        return chosen[skipped:]

    def _bound(self, bound: int | None) -> int | None:
        return bound if bound is None or bound >= 0 else max(0, bound + self._prompt(bound))

    def _listed(self, pos: tuple[int, ...]) -> tuple[int, ...]:
        absolute = tuple(p if p >= 0 else p + self._prompt(p) for p in pos)
        for given, p in zip(pos, absolute, strict=True):
            if p < 0 or not self.pieces:
                self._refuse_outside(given, p)
        refuse_repeats("pos", pos, absolute)
        return absolute

    def _prompt(self, p: int) -> int:
        if self.prompt is None:
            raise SelectionError(
                f"`pos` must be 0 or more where the prompt comes in pieces. Got {p}. Negative positions count from "
                "the end of the prompt, which is not known here: pass the edits to `model.run` or `model.generate`."
            )
        return self.prompt

    def _refuse_outside(self, given: int, p: int) -> None:
        end = self.end if self.prompt is None or not self.pieces else self.prompt
        if not 0 <= p < end:
            raise SelectionError(f"`pos` must lie in {-end} to {end - 1}, the {end} positions. Got {given}.")
        if p < self.offset:
            raise SelectionError(
                f"`pos` must be {self.offset} or more: the prompt cache holds the positions before, and what is in it "
                f"is computed already. Got {given}. Run the prompt without the prompt cache."
            )


def refuse_repeats(what: str, given: tuple[int, ...], absolute: tuple[int, ...]) -> None:
    """Refuse a choice that names one thing twice, be it as 9 and as -1.

    Raises:
        SelectionError: It does.
    """
    if len(set(absolute)) < len(absolute):
        raise SelectionError(f"`{what}` must not name anything twice. Got {given}, which are {absolute}.")
