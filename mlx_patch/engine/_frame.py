"""`Frame`: a context that puts one run's hooks in force and always removes them."""

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from mlx_patch.engine import _tap
from mlx_patch.engine._hook_state import HookState
from mlx_patch.engine._owner import Owner
from mlx_patch.engine._visit import visit


class Frame(HookState, AbstractContextManager):
    """The hooks of one run of a model, in force inside the `with`.

    Frames nest: at one place the outer frame's edits come first. Code that an edit calls sees no frames, so it may run
    the model itself. It may be entered again after it was left. Arguments and errors are those of `HookState`.
    """

    def __enter__(self) -> "Frame":
        try:
            self.owner = Owner(sys._getframe(1))
            _tap.put_in(self, visit)
            return self
        except BaseException:  # an interrupt, of which `with` tells `__exit__` nothing
            _tap.take_out(self)
            raise

    def __exit__(self, *_: object) -> None:
        try:
            _tap.take_out(self)
        finally:
            _tap.take_out(self)  # again, if an interrupt came in between
        self.owner.let_go()

    def around(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call a function inside this context, and return its result; no interrupt leaves the context open."""
        try:
            with self:
                return function(*args, **kwargs)
        finally:
            _tap.take_out(self)
