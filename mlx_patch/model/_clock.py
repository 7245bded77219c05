"""`Clock`: which step of a generation each forward pass is, and which tokens it reads."""

from mlx.core import array, concatenate

from mlx_patch.engine import ForwardPass
from mlx_patch.interventions import Moment, Span


class Clock:
    """Record of the forward passes of a generation.

    Args:
        prompt: The absolute position after the prompt's last token.
    """

    def __init__(self, prompt: int):
        self.prompt = prompt
        self.passes: list[ForwardPass] = []
        self._read: list[array] = []
        self._moment: Moment | None = None

    def begin(self, forward_pass: ForwardPass) -> None:
        """Record a forward pass that begins."""
        assert forward_pass.tokens is not None
        self.passes.append(forward_pass)
        self._read.append(forward_pass.tokens[0])
        last = forward_pass.offset + forward_pass.length - 1
        step = max(0, last - self.prompt + 1)
        self._moment = Moment(step, last, tuple(self._read))

    def span(self, forward_pass: ForwardPass) -> Span:
        """The positions of a forward pass, and its step."""
        return Span(forward_pass.offset, forward_pass.length, self.prompt, pieces=True, moment=self._moment)

    @property
    def tokens(self) -> array:
        """All tokens that the model has read. Shape `(1, pos)`."""
        return concatenate(self._read)[None]

    @property
    def end(self) -> int:
        """The absolute position after the last token that was read."""
        latest = self.passes[-1]
        return latest.offset + latest.length
