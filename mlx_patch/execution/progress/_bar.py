"""How far a sweep is: a bar on a terminal and in a notebook, a function of yours, or nothing."""

import sys
from collections.abc import Callable
from importlib.util import find_spec
from time import monotonic
from types import TracebackType
from typing import Any

from mlx_patch.errors import KindError, MissingExtraError

ProgressChoice = Callable[[int, int], object] | bool | None
"""A function of the cells that are done and of all; True for a bar, False for none; None for one on a terminal or in a
notebook."""


BAR_INTERVAL = 0.25
"""Seconds between two steps inside a pass, at least. Shorter passes are shown when they are finished."""


class Progress:
    """A context in which the cells that are done are shown.

    Args:
        choice: What the caller asked for.
        total: All cells.
        done: Those that were done before.
    Raises:
        KindError: `choice` is none.
        MissingExtraError: A bar is asked for, and tqdm is not installed.
    """

    def __init__(self, choice: ProgressChoice, total: int, done: int = 0):
        if not (choice is None or isinstance(choice, bool) or callable(choice)):
            raise KindError(
                f"`progress` must be a function of (done, total), a bool or None. Got {type(choice).__name__}. "
                "Leave it out for a bar on a terminal or in a notebook."
            )
        if choice is True and not find_spec("tqdm"):
            raise MissingExtraError(
                "`progress` must be a function where tqdm is not installed. Got True. Run `pip install tqdm`."
            )
        self.told = choice if callable(choice) else None
        self.wants_bar = choice is True or (choice is None and (_on_terminal() or _in_notebook()))
        self.total, self.done = total, done
        self.bar: Any = None

    @property
    def seen(self) -> bool:
        """Whether anybody sees it."""
        return self.bar is not None or self.told is not None

    def __enter__(self) -> "Progress":
        if self.wants_bar and find_spec("tqdm"):
            from tqdm import tqdm

            self.bar = tqdm(total=self.total, initial=self.done, unit="cell", desc="sweep", leave=False)
        return self

    def more(self, cells: int) -> None:
        """Show that so many more cells are done."""
        self.done += cells
        if self.bar is not None:
            self.bar.update(cells)
        if self.told is not None:
            self.told(self.done, self.total)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bar is not None:
            self.bar.close()


def _in_notebook() -> bool:
    """Whether this is a cell of a notebook: IPython has a shell with a kernel, which draws what is written to it."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return sys.stderr is not None and getattr(shell, "kernel", None) is not None


class Within:
    """How far a pass of many cells is, while it runs.

    Args:
        more: Shows that so many more cells are done; None where nobody sees it.
    """

    def __init__(self, more: Callable[[int], object] | None):
        self.more = more
        self.cells, self.last = 0, monotonic()

    def reached(self, share: float, cells: int) -> None:
        """A share of a pass of so many cells is computed: show it, if it is time."""
        now, done = monotonic(), min(int(share * cells), cells - 1)
        if self.more is not None and done > self.cells and now - self.last >= BAR_INTERVAL:
            self.more(done - self.cells)
            self.cells, self.last = done, now

    def rest(self, cells: int) -> int:
        """How many cells of a pass that is finished have not been shown."""
        left = cells - self.cells
        self.cells, self.last = 0, monotonic()
        return left


def _on_terminal() -> bool:
    """Whether somebody reads what is written to the standard error; programs without a console have none."""
    return sys.stderr is not None and sys.stderr.isatty()
