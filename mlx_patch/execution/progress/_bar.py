"""Progress of a sweep: a bar on a terminal or in a notebook, a function of the caller's, or nothing."""

import sys
from collections.abc import Callable
from importlib.util import find_spec
from time import monotonic
from types import TracebackType
from typing import Any

from mlx_patch.errors import KindError, MissingExtraError

ProgressChoice = Callable[[int, int], object] | bool | None
"""A function of the number of finished cells and of all cells; True for a bar, False for none; None for one on a
terminal or in a notebook."""


BAR_INTERVAL = 0.25
"""Seconds between two steps inside a pass, at least. Shorter passes are shown when they are finished."""


class Progress:
    """A context in which the number of finished cells is shown.

    Args:
        choice: The argument `progress` of a sweep.
        total: The number of cells.
        n_done: How many were finished before.
    Raises:
        KindError: `choice` is none.
        MissingExtraError: A bar is asked for, and tqdm is not installed.
    """

    def __init__(self, choice: ProgressChoice, total: int, n_done: int = 0):
        if not (choice is None or isinstance(choice, bool) or callable(choice)) or isinstance(choice, type):
            raise KindError(
                f"`progress` must be a function of (done, total), a bool or None. Got {type(choice).__name__}. "
                "Leave it out for a bar on a terminal or in a notebook."
            )
        if choice is True and not find_spec("tqdm"):
            raise MissingExtraError("`progress=True` needs tqdm. Run `pip install tqdm`, or pass a function.")
        self.callback: Callable[[int, int], object] | None = None
        if callable(choice):
            self.callback = choice
        self.wants_bar = choice is True
        if choice is None:
            self.wants_bar = _on_terminal() or _in_notebook()
        self.total = total
        self.n_done = n_done
        self.bar: Any = None

    @property
    def is_shown(self) -> bool:
        """Whether progress is shown anywhere."""
        return self.bar is not None or self.callback is not None

    def __enter__(self) -> "Progress":
        if self.wants_bar and find_spec("tqdm"):
            from tqdm import tqdm

            self.bar = tqdm(total=self.total, initial=self.n_done, unit="cell", desc="sweep", leave=False)
        return self

    def add(self, cells: int) -> None:
        """Show that so many more cells are finished."""
        self.n_done += cells
        if self.bar is not None:
            self.bar.update(cells)
        if self.callback is not None:
            self.callback(self.n_done, self.total)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bar is not None:
            self.bar.close()


def _in_notebook() -> bool:
    """Whether this process runs a notebook: IPython has a shell with a kernel, which draws what is written to it."""
    if sys.stderr is None:
        return False
    ipython = sys.modules.get("IPython")
    get_shell = getattr(ipython, "get_ipython", None)
    if get_shell is None:
        return False
    return getattr(get_shell(), "kernel", None) is not None


class PassProgress:
    """Progress inside a pass of many cells, while it runs.

    Args:
        show: Shows that so many more cells are finished; None where progress is not shown.
    """

    def __init__(self, show: Callable[[int], object] | None):
        self.show = show
        self._start()

    def _start(self) -> None:
        self.n_shown = 0
        self.last_shown_at = monotonic()

    def reached(self, share: float, cells: int) -> None:
        """Show how many cells a computed share of a pass stands for, if the last time is long enough ago."""
        time = monotonic()
        n_done = min(int(share * cells), cells - 1)  # the last one is shown when the pass is finished
        if self.show is None or n_done <= self.n_shown:
            return
        if time - self.last_shown_at >= BAR_INTERVAL:
            self.show(n_done - self.n_shown)
            self.n_shown = n_done
            self.last_shown_at = time

    def rest(self, cells: int) -> int:
        """How many cells of a finished pass have not been shown; the next pass starts from none."""
        n_unshown = cells - self.n_shown
        self._start()
        return n_unshown


def _on_terminal() -> bool:
    """Whether the standard error is a terminal; programs without a console have none."""
    return sys.stderr is not None and sys.stderr.isatty()
