"""The report over the zoo: what each model's line says, and that no model ends the report."""

import sys

import pytest

from mlx_patch.errors import UnknownNameError
from mlx_patch.laws import Finding, Report
from mlx_patch.testing import EXCEPTIONS, ZooLine, ZooReport, _zoo_worker, check_zoo

HELD = Finding(2, "blocks.0.hook_resid_post", 1e-7, 4e-7)
EXACT = Finding(3, "z", 0.0, 0.0)
BROKEN = Finding(5, "embed, before", 0.5, 1e-6)


def test_a_green_line_says_how_near_its_tolerance_a_check_came():
    line = _zoo_worker.line_of("llama", Report("", (EXACT, HELD)))
    assert line == ZooLine("llama", "green", 2, 0.25, "law 2, blocks.0.hook_resid_post")


def test_a_red_line_says_what_does_not_hold():
    again = Finding(5, "z, before", 0.7, 1e-6)
    line = _zoo_worker.line_of("llama", Report("", (HELD, BROKEN, again)))
    assert (line.outcome, line.checks) == ("red", 3)
    assert line.says == "2 of 3 checks do not hold: law 5, embed, before: 0.5 > 1e-06"


def test_an_exception_counts_for_its_own_laws_and_no_other():
    known = _zoo_worker.line_of("phi3small", Report("", (HELD, BROKEN)))
    assert known.outcome == "known"
    assert EXCEPTIONS["phi3small"] in known.says
    other = Finding(2, "blocks.0.hook_resid_post", 0.5, 1e-6)
    assert _zoo_worker.line_of("phi3small", Report("", (BROKEN, other))).outcome == "red"
    assert _zoo_worker.line_of("bitnet", Report("", (BROKEN,))).outcome == "red"


def test_a_report_is_short_and_counts_what_it_does_not_show():
    lines = (
        ZooLine("llama", "green", 10, 0.2, "law 7, z"),
        ZooLine("qwen3", "green", 10, 0.4, "law 2, z"),
        ZooLine("gpt2", "red", 10, says="1 of 10 checks do not hold: law 3, z: 1 > 0"),
        ZooLine("bitnet", "not run", says="RuntimeError: no kernel"),
    )
    report = ZooReport("float32", lines, 61.0)
    assert not report.ok
    assert str(report).splitlines()[2:] == [
        "the zoo: tiny models of mlx_lm's classes with random weights, float32",
        "  red     gpt2: 1 of 10 checks do not hold: law 3, z: 1 > 0",
        "  not run bitnet: RuntimeError: no kernel",
        "4 models: 2 green, 1 red, 0 known, 1 not run; 30 checks in 61 seconds",
        "nearest to its tolerance: 0.4 of it, qwen3, law 2, z",
    ]
    assert ZooReport("float32", lines[:2] + lines[3:], 1.0).ok


def test_models_are_checked_in_another_process():
    """Every law of one, and one that cannot run here and prints what it lacks."""
    seen = []
    lines = check_zoo(["olmo", "mamba2"], progress=seen.append)
    assert list(lines) == seen
    assert [(line.name, line.outcome) for line in lines] == [("olmo", "not run"), ("mamba2", "green")]
    assert lines[0].says.startswith("ArchitectureError: ")
    assert lines[1].checks > 50
    assert 0 < lines[1].nearest <= 1


WORKER = """
import json, os, sys, time
for name in sys.argv[2:]:
    if name == "gpt2":
        print("something went wrong", file=sys.stderr, flush=True)
        {end}
    print(json.dumps({{"name": name, "outcome": "green"}}), flush=True)
"""


@pytest.mark.parametrize(
    ("end", "status"), [("os.abort()", -6), ("sys.exit(3)", 3), ("time.sleep(60)", -9)], ids=["abort", "exit", "hang"]
)
def test_a_process_that_ends_is_a_line(end, status, monkeypatch, tmp_path):
    """And the next model has another."""
    (tmp_path / "stand_in.py").write_text(WORKER.format(end=end))
    monkeypatch.setattr("mlx_patch.testing._zoo_report._WORKER", "stand_in")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    lines = check_zoo(["llama", "gpt2", "qwen3"], limit=5.0)
    assert [(line.name, line.outcome) for line in lines] == [("llama", "green"), ("gpt2", "red"), ("qwen3", "green")]
    assert lines[1].says == f"the process ended with status {status}: something went wrong"


def test_a_name_that_is_not_in_the_zoo_is_refused_first(monkeypatch):
    """Before anything runs."""
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    with pytest.raises(UnknownNameError, match=r"`names` must be models of the zoo\. Got 'lama'\. .*llama"):
        check_zoo(["gpt2", "lama"])
