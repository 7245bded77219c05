"""`Editing`: a block in which every run of a model is edited."""

from contextlib import AbstractContextManager, ContextDecorator
from typing import Generic, TypeVar

from typing_extensions import override

from mlx_patch.architectures import Layout
from mlx_patch.engine import Frame
from mlx_patch.errors import KindError
from mlx_patch.interventions import Edit
from mlx_patch.model._hooks import edit_hooks, refuse_unused, unknown_pieces
from mlx_patch.model._plain import check_pass

Value = TypeVar("Value")


class Editing(AbstractContextManager, ContextDecorator, Generic[Value]):
    """A block to be entered once, or a decorator whose every call enters a block of its own.

    Args:
        value: What `as` gives.
        layout: Of the model that is edited.
        edits: The edits.
    """

    def __init__(self, value: Value, layout: Layout, edits: tuple[Edit, ...]):
        self._value, self._layout, self._edits = value, layout, edits
        self._frame: Frame | None = None

    @override
    def __enter__(self) -> Value:
        if self._frame is not None:
            raise KindError(
                "`editing` must be entered once. Got a block that was entered before. "
                "Write `with model.editing(...)` again for another one."
            )
        hooks = edit_hooks(self._layout, self._edits, unknown_pieces)
        self._frame = Frame(self._layout.model, hooks, check_pass(self._layout))
        self._frame.__enter__()
        return self._value

    @override
    def __exit__(self, failed: type[BaseException] | None, *_: object) -> None:
        if self._frame is None:
            raise KindError("`editing` must be entered before it is left. Write `with model.editing(...)`.")
        self._frame.__exit__()
        if failed is None:
            refuse_unused(self._frame.hooks)

    def _recreate_cm(self) -> "Editing[Value]":
        """What `ContextDecorator` enters at each call."""
        return Editing(self._value, self._layout, self._edits)
