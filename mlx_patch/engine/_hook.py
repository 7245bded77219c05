"""`Hook`: one action at one place of a model, and its phase."""

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

import mlx.core as mx

from mlx_patch.architectures import Place, keep_bits
from mlx_patch.engine._box import Box


@dataclass(frozen=True)
class ForwardPass:
    """The positions that the forward pass under way computes.

    Attributes:
        offset: The absolute position of the first one: how many a prompt cache held before.
        length: How many there are.
        cached: Whether there is a prompt cache, so that more of the same prompt may have come before or may follow.
        tokens: What the model is given. Shape `(batch, pos)`.
        prompt_cache: What holds the positions before.
    """

    offset: int
    length: int
    cached: bool = False
    tokens: mx.array | None = field(default=None, compare=False, repr=False)
    prompt_cache: Any = field(default=None, compare=False, repr=False)


Action = Callable[[mx.array, ForwardPass], mx.array | Box | None]
"""From a site's array to the new one or a box with it; None leaves the array as it is."""


SHARED_PAST = "shared past"
"""The event of a hook that lets many rows attend to one past without copies of it."""


class Phase(IntEnum):
    """The order in which hooks at one place act, over all nested runs."""

    GROW = -1
    """Rows of the batch begin here, before anything else sees them."""

    REJOIN = 0
    """An edited stream takes the skip connection's place before anything else sees it."""
    EDIT = 1
    CARRY = 2
    """An edited stream is read for a `REJOIN` later on."""
    EDIT_ARGUMENT = 3
    """A raw path is edited where a named site is the stream: the module alone is given it, not the skip connection."""
    READ = 4
    """The value that is final is read for a `REJOIN` later on."""
    CAPTURE = 5
    SLICE = 6
    """Only the positions that the caller wants go on to the unembedding."""
    BOX = 7
    """The stream is put in a box, in which later edits change it."""
    SHARE = 8
    """Nothing is read or written: attention may compute in the way that suits rows with a shared past."""
    STOP = 9
    """Nothing is read or written: indices that the module sorts out of values are constants to a gradient."""


@dataclass(eq=False)
class Hook:
    """One action at one place.

    Attributes:
        place: The place.
        action: The action.
        phase: When it acts, among the hooks at the same place.
        met: How often a forward pass reached the place.
        acted: How often the action gave a new value.
        beside: What the module beside it returned, in the forward pass under way.
    """

    place: Place
    action: Action
    phase: Phase
    met: int = 0
    acted: int = 0
    beside: mx.array | None = None

    @property
    def event(self) -> str:
        """The event at its module that the hook waits for: "input", "output", or the name of a site inside it."""
        if self.phase is Phase.SHARE:
            return SHARED_PAST
        side = self.place.point.side
        return self.place.site.name if side == "inside" else side

    def keep_beside(self, value: mx.array, forward_pass: ForwardPass) -> None:
        """Keep the output of the module beside it; an action of that module's hook."""
        self.beside = value

    def on(self, raw: mx.array, forward_pass: ForwardPass) -> mx.array | Box:
        """The raw array after this hook."""
        point, block = self.place.point, self.place.block
        self.met += 1
        total = raw
        if self.beside is not None:
            total = raw + self.beside
        shaped = total
        if point.flat:
            shaped = total.reshape(-1, forward_pass.length, *raw.shape[1:])
        new = self.action(point.view.read(shaped, block), forward_pass)
        if new is None:
            return raw
        self.acted += 1
        if isinstance(new, Box):
            return new
        written = point.view.write(shaped, new, block)
        if point.flat:
            written = written.reshape(raw.shape)
        if self.beside is None:
            return written
        # Subtracting rounds, so the values of the sum that the edit left alone keep their raw ones, bit for bit.
        return keep_bits(raw, written - self.beside, written == total)
