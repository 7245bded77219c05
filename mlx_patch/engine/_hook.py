"""`Hook`: one thing to do at one place of a model, and when."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum

import mlx.core as mx

from mlx_patch.architectures import Place


@dataclass(frozen=True)
class Pass:
    """The positions that the forward pass under way computes.

    Attributes:
        offset: The absolute position of the first one: how many a prompt cache held before.
        length: How many there are.
        cached: Whether there is a prompt cache, so that more of the same prompt may have come before or may follow.
    """

    offset: int
    length: int
    cached: bool = False


Action = Callable[[mx.array, Pass], mx.array | None]
"""What to do with a site's array: the new one, or None to leave it as it is."""


class Phase(IntEnum):
    """In which order hooks at one place act, over all nested runs."""

    REJOIN = 0
    """An edited stream takes the skip connection's place before anything else sees it."""
    EDIT = 1
    READ = 2
    """The value that is final is read for a `REJOIN` later on."""
    CAPTURE = 3
    SLICE = 4
    """Only what the caller wants goes on to the unembedding."""


@dataclass(eq=False)
class Hook:
    """One thing to do at one place.

    Attributes:
        place: Where.
        action: What.
        phase: When, among the hooks at the same place.
        met: How often a forward pass came by.
        acted: How often the action gave a new value.
    """

    place: Place
    action: Action
    phase: Phase
    met: int = 0
    acted: int = 0

    @property
    def event(self) -> str:
        """What the hook waits for at its module: "input", "output", or the name of a site inside it."""
        side = self.place.point.side
        return self.place.site.name if side == "inside" else side

    def on(self, raw: mx.array, now: Pass) -> mx.array:
        """The raw array after this hook."""
        view, block = self.place.point.view, self.place.block
        self.met += 1
        new = self.action(view.read(raw, block), now)
        if new is None:
            return raw
        self.acted += 1
        return view.write(raw, new, block)
