"""`Moment`: one forward pass of a generation, on which conditions on steps decide."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import mlx.core as mx
import numpy as np

from mlx_patch.errors import KindError, shown


@dataclass(frozen=True)
class Moment:
    """One forward pass of a generation.

    Attributes:
        step: 0 while the prompt is read, be it in several passes; n while the n-th generated token is read.
        position: The absolute position of the last token of the pass.
    """

    step: int
    position: int
    _read: Sequence[mx.array] = field(default=(), repr=False, compare=False)
    _answers: dict[int, bool] = field(default_factory=dict, repr=False, compare=False)

    @property
    def tokens(self) -> tuple[int, ...]:
        """The token ids so far, those of this pass too: the prompt's, then the generated ones."""
        arrays = map(np.array, self._read)
        return tuple(token for array in arrays for token in array.tolist())

    def ask(self, fn: "Callable[[Moment], bool]") -> bool:
        """The answer of a function for this pass; it is called once, however many edits use it.

        Raises:
            KindError: It does not return True or False.
        """
        if id(fn) not in self._answers:
            answer = fn(self)
            if not isinstance(answer, bool | np.bool_):
                raise KindError(f"`when` must be a function that returns True or False. Got {shown(answer)} from it.")
            self._answers[id(fn)] = bool(answer)
        return self._answers[id(fn)]
