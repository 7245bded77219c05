"""Tests of one mutant in a process of its own, forked from one that has imported what tests import.

MLX has threads of its own from the first evaluation on, and they do not come along: the process that forks therefore
imports neither mlx_patch nor any test, and evaluates nothing.
"""

import importlib
import json
import os
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import pytest
from mutations import Mutant

KILLED, SURVIVED, TIMED_OUT, CRASHED, NO_TESTS = "killed", "survived", "timed out", "crashed", "no tests"
"""What comes out. A process that dies has crashed."""


def import_ahead(names: Iterable[str]) -> None:
    """Import the modules of these names that are neither the package's nor tests'; leave out what cannot be imported.

    Raises:
        RuntimeError: One of them has made MLX evaluate, so that it hangs in a forked process.
    """
    left_out = ("mlx_patch", "conftest", "tests", "test_", "__main__", "mutant", "coverage", "pytest_", "xdist")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in names:
            if not name.startswith(left_out):
                try:
                    importlib.import_module(name)
                except (Exception, SystemExit):
                    continue
    if not _mlx_evaluates_in_a_fork():
        raise RuntimeError("MLX hangs in a forked process. Leave out the module that evaluates as it is imported.")


def _mlx_evaluates_in_a_fork(seconds: float = 20.0) -> bool:
    pid = os.fork()
    if pid == 0:
        import mlx.core as mx

        mx.eval(mx.ones((4, 4)) @ mx.ones((4, 4)))
        os._exit(0)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if os.waitpid(pid, os.WNOHANG)[0]:
            return True
        time.sleep(0.05)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return False


class Selected:
    """A plugin of pytest: these tests in this order, and what the first failure was."""

    def __init__(self, names: list[str]) -> None:
        self.order = {name: place for place, name in enumerate(names)}
        self.failure: tuple[str, str] | None = None
        self.n_run = 0

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items):
        items[:] = sorted((item for item in items if item.nodeid in self.order), key=lambda i: self.order[i.nodeid])

    def pytest_collectreport(self, report):
        self._note(report)

    def pytest_runtest_logreport(self, report):
        self.n_run += report.when == "call"
        self._note(report)

    def _note(self, report):
        if report.failed and self.failure is None:
            lines = [line for line in report.longreprtext.splitlines() if line.startswith("E")]
            self.failure = report.nodeid, (lines or [""])[0][1:].strip()[:200]


@dataclass
class Slot:
    """A copy of the tree that holds one mutant at a time.

    Args:
        tree: The copy.
        file: Where a child writes its result.
    """

    tree: Path
    file: Path = field(init=False)

    def __post_init__(self) -> None:
        self.file = self.tree.with_suffix(".json")
        for original in (self.tree / "mlx_patch").rglob("*.original"):  # of a campaign that was interrupted
            original.replace(original.with_suffix(".py"))

    def put(self, mutant: Mutant | None) -> None:
        """Write the mutant's source into the copy, without a compiled file that would hide it."""
        if mutant is not None:
            path = self.tree / mutant.path
            source = path.read_text(encoding="utf-8")
            path.with_suffix(".original").write_text(source, encoding="utf-8")
            path.write_text(mutant.applied(source), encoding="utf-8")
            self._forget_compiled(path)

    def restore(self, mutant: Mutant | None) -> None:
        """Undo `put`."""
        if mutant is not None:
            path = self.tree / mutant.path
            path.with_suffix(".original").replace(path)
            self._forget_compiled(path)

    def _forget_compiled(self, path: Path) -> None:
        for compiled in (path.parent / "__pycache__").glob(f"{path.stem}.*.pyc"):
            compiled.unlink()


@dataclass
class Run:
    """One child at work on a mutant's tests.

    Args:
        mutant: None runs the tests on the source as it is.
        deadline: When it is ended; a mutant that hangs is seen by that.
    """

    mutant: Mutant | None
    tests: list[str]
    slot: Slot
    seconds: float
    pid: int = 0
    deadline: float = 0.0

    def start(self) -> None:
        """Fork."""
        self.slot.put(self.mutant)
        self.slot.file.unlink(missing_ok=True)
        self.deadline = time.monotonic() + self.seconds
        self.pid = os.fork()
        if self.pid == 0:
            try:
                os.setsid()
                _run_tests(self.slot, self.tests)
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(1)

    def outcome(self) -> dict | None:
        """What came out; None while it runs."""
        pid, _ = os.waitpid(self.pid, os.WNOHANG)
        late = time.monotonic() > self.deadline
        if not pid and not late:
            return None
        self.end(ended=bool(pid))
        if self.slot.file.exists():
            return json.loads(self.slot.file.read_text(encoding="utf-8"))
        return {"outcome": TIMED_OUT if not pid else CRASHED, "test": "", "message": "", "n_run": 0}

    def end(self, ended: bool = False) -> None:
        """End the child, unless it has ended, and what its tests have left; undo the mutant."""
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        if not ended:
            os.waitpid(self.pid, 0)
        self.slot.restore(self.mutant)


def _plugin_options() -> list[str]:
    """The plugins that the project's settings and tests need, of all that would be loaded, without their deadlines."""
    options: list[str] = []
    with suppress(ImportError):
        from hypothesis import settings

        settings.register_profile("mutants", deadline=None)
        settings.load_profile("mutants")
        options += ["-p", "_hypothesis_pytestplugin"]
    if find_spec("pytest_timeout"):
        options += ["-p", "pytest_timeout", "--timeout=0"]
    return options


def _run_tests(slot: Slot, tests: list[str]) -> None:
    """In the child: pytest in the copy, up to the first failure."""
    output = os.open(slot.tree.with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.chdir(slot.tree)
    sys.path.insert(0, str(slot.tree))
    os.environ |= {"PYTHONPATH": str(slot.tree), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    selected = Selected(tests)
    files = list(dict.fromkeys(test.split("::")[0] for test in tests))
    options = ["-x", "-q", "-p", "no:cacheprovider", "-W", "ignore::pytest.PytestAssertRewriteWarning"]
    options += [f"--basetemp={slot.tree.with_suffix('.tmp')}", *_plugin_options()]
    code = pytest.main([*options, *files], plugins=[selected])
    test, message = selected.failure or ("", "")
    if code == pytest.ExitCode.OK:
        outcome = SURVIVED
    elif selected.failure or code == pytest.ExitCode.USAGE_ERROR:
        outcome = KILLED
    else:
        outcome = NO_TESTS
    result = {"outcome": outcome, "test": test, "message": message, "n_run": selected.n_run}
    slot.file.write_text(json.dumps(result), encoding="utf-8")
    sys.stdout.flush()
    os._exit(0)
