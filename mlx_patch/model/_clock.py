"""`Clock`: which step of a generation each forward pass is, and which tokens it reads."""

from mlx.core import array, concatenate

from mlx_patch.engine import ForwardPass
from mlx_patch.interventions import Moment, Span


class Clock:
    """What follows a generation, pass by pass.

    Args:
        prompt: The absolute position after the prompt's last token.
    """

    def __init__(self, prompt: int):
        self.prompt = prompt
        self.passes: list[ForwardPass] = []
        self._read: list[array] = []
        self._moment: Moment | None = None

    def begin(self, now: ForwardPass) -> None:
        """Note that a forward pass begins."""
        assert now.tokens is not None
        self.passes.append(now)
        self._read.append(now.tokens[0])
        last = now.offset + now.length - 1
        self._moment = Moment(max(0, last - self.prompt + 1), last, tuple(self._read))

    def span(self, now: ForwardPass) -> Span:
        """The positions of a forward pass, and its step."""
        return Span(now.offset, now.length, self.prompt, pieces=True, moment=self._moment)

    @property
    def tokens(self) -> array:
        """All tokens that the model has read. Shape `(1, pos)`."""
        return concatenate(self._read)[None]

    @property
    def end(self) -> int:
        """The absolute position after the last one that was read."""
        return self.passes[-1].offset + self.passes[-1].length
