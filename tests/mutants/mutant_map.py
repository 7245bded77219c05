"""Which tests execute which lines, and how long each takes: measured once by coverage.py, with a context a test.

As a plugin of pytest (`-p mutant_map`) it writes the outcome and the seconds of each test, and the modules that were
imported, into the folder that `MUTANT_MAP` names.
"""

import json
import os
import sys
from collections import defaultdict
from pathlib import Path

from mutations import Mutant

_seconds: defaultdict[str, float] = defaultdict(float)
_outcomes: dict[str, str] = {}


def pytest_runtest_logreport(report):
    """Adds up setup, call and teardown; one failure or skip decides."""
    _seconds[report.nodeid] += report.duration
    if not report.passed or report.nodeid not in _outcomes:
        _outcomes[report.nodeid] = report.outcome


def pytest_sessionfinish(session):
    """Only the process that hears of every test writes the times."""
    folder = Path(os.environ["MUTANT_MAP"])
    worker = os.environ.get("PYTEST_XDIST_WORKER", "")
    (folder / f"modules{worker}.json").write_text(json.dumps(sorted(sys.modules)), encoding="utf-8")
    if not worker:
        tests = {name: [_outcomes[name], _seconds[name]] for name in _outcomes}
        (folder / "tests.json").write_text(json.dumps(tests, indent=0), encoding="utf-8")


class TestMap:
    """The tests that reach a mutant.

    Args:
        folder: What the plugin wrote, and the data of coverage.py beside it.
        tree: The folder that held the source when it was measured.
    """

    __test__ = False

    def __init__(self, folder: Path, tree: Path) -> None:
        from coverage import CoverageData

        tests = json.loads((folder / "tests.json").read_text(encoding="utf-8"))
        self.seconds = {name: seconds for name, (outcome, seconds) in tests.items() if outcome == "passed"}
        self.tree = tree
        self._data = CoverageData(str(folder / "coverage"))
        self._data.read()
        self._lines: dict[str, dict[int, set[str]]] = {}

    def reaching(self, mutant: Mutant) -> list[str]:
        """Passing tests that execute the mutant's lines: near ones first, the laws last, quick ones before slow ones.

        Where only an import executes them (a default, a field, a table), these are the tests that execute anything
        else of the file, or failing these the unit tests of the package.
        """
        lines = self._tests_by_line(mutant.path)
        names = set().union(*(lines.get(line, set()) for line in range(mutant.line, mutant.last_line + 1)))
        if not names - {""}:
            names = set().union(*lines.values())
        near = f"tests/unit/{mutant.path.split('/')[1]}/"
        if not names - {""}:
            names = {name for name in self.seconds if name.startswith(near)}
        passing = [name for name in names if name in self.seconds]

        def turn(name: str) -> tuple:
            far = not name.startswith(near)
            return far, name.startswith("tests/laws"), self.seconds[name], name  # to collect the laws takes seconds

        return sorted(passing, key=turn)

    def executed(self, mutant: Mutant) -> bool:
        """Whether a test executes the mutant's lines, beyond the import of the module."""
        lines = self._tests_by_line(mutant.path)
        return any(lines.get(line, set()) - {""} for line in range(mutant.line, mutant.last_line + 1))

    def _tests_by_line(self, path: str) -> dict[int, set[str]]:
        if path not in self._lines:
            contexts = self._data.contexts_by_lineno(str(self.tree / path))
            self._lines[path] = {line: {name.split("|")[0] for name in names} for line, names in contexts.items()}
        return self._lines[path]
