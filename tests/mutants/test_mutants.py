"""The runner of README.md here: its faults compile and differ, and it tells killed from survived and from hanging."""

import ast
import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

from mutant_draw import FLOOR, draw, quotas
from mutations import mutants_of, sources

ROOT = Path(__file__).parents[2]

SOURCE = '''"""A module."""


def total(values: list[int], most: int = 100) -> int:
    """The sum, if it is not above `most`."""
    if not values:
        raise ValueError(f"`values` must have {1 + 1} numbers")
    place = len(values)
    while place > 0:
        most -= values[place - 1]
        place -= 1
    return 100 - most if most >= 0 else 0
'''

TESTS = """
from total import total

def test_a_sum():
    assert total([1, 2]) == 3
"""

RUNS = """
import json, sys, time
from pathlib import Path
from mutant_runs import Run, Slot, import_ahead
from mutations import mutants_of

tree = Path(sys.argv[1])
import_ahead(["json", "no_such_module"])
outcomes = {}
wanted = {"place -= 1", "not values", "place > 0", "0"}
found = {m.before: m for m in mutants_of((tree / "total.py").read_text(), "total.py") if m.before in wanted}
for name, mutant in {"the source": None, **found}.items():
    run = Run(mutant, ["test_total.py::test_a_sum"], Slot(tree), 30)
    run.start()
    if name == "place -= 1":
        run.deadline = time.monotonic() + 3
    while (outcome := run.outcome()) is None:
        time.sleep(0.05)
    outcomes[name] = outcome["outcome"], outcome["test"]
print(json.dumps(outcomes))
"""


def test_each_fault_compiles_and_is_one():
    n = 0
    for path, source in sources(ROOT, "paths"):
        same = ast.dump(ast.parse(source))
        for mutant in list(mutants_of(source, path))[::5]:
            assert ast.dump(ast.parse(mutant.applied(source))) != same
            compile(mutant.applied(source), path, "exec")
            n += 1
    assert n > 50


def test_texts_and_annotations_are_left_alone():
    places = {mutant.before for mutant in mutants_of(SOURCE, "total.py")}
    assert {"place > 0", "100", "place -= 1"} <= places
    assert not any("1 + 1" in place and not place.startswith("raise") for place in places)
    assert "list[int]" not in places


def test_a_draw_is_the_same_again_and_has_its_floor():
    packages = ("paths", "attribution")
    drawn = draw(ROOT, 3, 50, packages)
    assert drawn == draw(ROOT, 3, 50, packages)
    counts = Counter(mutant.name.split("-")[0] for mutant in drawn)
    assert counts == quotas(ROOT, 50, packages)
    assert min(counts.values()) >= FLOOR
    assert len({(mutant.path, mutant.line) for mutant in drawn}) == len(drawn)


def test_a_run_tells_killed_from_survived(tmp_path):
    """The source itself survives, and so does a fault that no test notices."""
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "total.py").write_text(SOURCE)
    (tree / "test_total.py").write_text(TESTS)
    shutil.copy(ROOT / "pyproject.toml", tree)  # whose settings name plugins
    environment = os.environ | {"PYTHONPATH": str(ROOT / "tests" / "mutants"), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    command = [sys.executable, "-c", RUNS, str(tree)]
    ran = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    test = "test_total.py::test_a_sum"
    assert json.loads(ran.stdout) == {
        "the source": ["survived", ""],
        "not values": ["killed", test],
        "place -= 1": ["timed out", ""],
        "place > 0": ["killed", test],
        "0": ["survived", ""],
    }
    assert (tree / "total.py").read_text() == SOURCE
