"""Random sweeps against one plain run a cell: the numbers are the same, or both refuse.

`FUZZ_SEED=7 FUZZ_CASES=20000 python -m pytest -n 2 tests/fuzz` runs more of them, from another seed.
"""

import os

import pytest

from mlx_patch.errors import ValueRefusedError
from mlx_patch.testing import fuzz_sweeps

SEED = int(os.environ.get("FUZZ_SEED", "0"))
CASES = int(os.environ.get("FUZZ_CASES", "2000"))
PARTS = 16
"""Tests that the cases are divided over, so that processes can share them."""


@pytest.mark.parametrize("part", range(PARTS))
def test_a_sweep_gives_what_plain_runs_give(part, record_property):
    report = fuzz_sweeps(SEED * PARTS + part, cases=CASES // PARTS)
    record_property("fuzz", str(report).splitlines()[0])
    print(report)
    assert report.ok, report
    assert report.compared > 0.7 * report.cases
    assert report.unstable <= 0.02 * report.cases


def test_no_cases_are_refused():
    with pytest.raises(ValueRefusedError, match=r"`cases` must be 1 or more\. Got 0"):
        fuzz_sweeps(cases=0)
