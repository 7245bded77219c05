"""Sweeps whose passes are divided over two ranks of `mlx.launch`."""

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "errors" / "RankError.md"
NAMES = ("llama", "jamba", "qwen3_next")


@pytest.mark.parametrize("name", NAMES)
def test_two_ranks_find_bit_for_bit_what_one_process_finds(two_ranks, name: str):
    first, second = (rank[name] for rank in two_ranks("divided"))
    for part in ("values", "baseline"):
        assert first["shared"][part] == second["shared"][part] == first["alone"][part] == second["alone"][part]
    assert first["file"] == second["file"]


@pytest.mark.parametrize("name", NAMES)
def test_the_passes_are_divided(two_ranks, name: str):
    ranks = two_ranks("divided")
    alone = ranks[0][name]["calls"][0]
    calls = [rank[name]["calls"][1] for rank in ranks]
    assert sum(calls) == alone + 1  # each rank runs the prompt unpatched
    assert max(calls) < 0.75 * alone


def test_token_layers_are_those_of_all_ranks(two_ranks):
    ranks = two_ranks("divided")
    first, second = (rank["llama"]["shared"]["token_layers"] for rank in ranks)
    assert first == second == ranks[0]["llama"]["alone"]["token_layers"] + 8 * 3  # 8 tokens, 3 layers, unpatched


def test_several_lengths_and_nan_metrics_come_through(two_ranks):
    """Prompts of several lengths, and metrics that are NaN."""
    first, second = two_ranks("prompts")
    assert first["some NaN"]
    for part in ("values", "baseline"):
        assert first["shared"][part] == second["shared"][part] == first["alone"][part]


@pytest.mark.parametrize("metric", ["sequence", "written"])
def test_long_answers_and_written_texts_come_through(two_ranks, metric: str):
    """Answers of several tokens, and texts that the model writes."""
    first, second = (rank[metric] for rank in two_ranks("answers"))
    assert first["differ"] > 1
    for part in ("values", "baseline"):
        assert first["shared"][part] == second["shared"][part] == first["alone"][part]
    assert first["shared"]["token_layers"] == second["shared"]["token_layers"] >= first["alone"]["token_layers"]


def test_standing_edits_that_draw_are_drawn_alike_on_all_ranks(two_ranks):
    """Noise with three seeds in every run, baselines of each seed included."""
    first, second = two_ranks("standing")
    assert first["differ"] > 3
    for part in ("values", "baseline", "seeds"):
        assert first["shared"][part] == second["shared"][part] == first["alone"][part]


@pytest.mark.parametrize("path", ["logits all", "logits attention", "q all", "q attention"])
def test_paths_are_those_of_one_process(two_ranks, path: str):
    first, second = (rank[path] for rank in two_ranks("paths"))
    assert first["differ"] > 3
    for part in ("values", "baseline"):
        assert first["shared"][part] == second["shared"][part] == first["alone"][part]


def test_progress_counts_the_cells_of_all_ranks(two_ranks):
    for rank in two_ranks("prompts"):
        done, total = rank["told"][-1]
        assert done == total


FAILED = {
    "metric": ("ArithmeticError", "the fourth cell is bad"),
    "set up": ("SelectionError", "must lie in"),
    "progress": ("ValueError", "no screen"),
}


@pytest.mark.parametrize("what", FAILED)
def test_what_fails_on_one_rank_fails_on_all_and_says_where(two_ranks, what: str):
    other, own = (rank[what] for rank in two_ranks("failing"))
    kind, message = FAILED[what]
    assert own[0] == kind
    assert message in own[1]
    assert other[0] == "RankError"
    expected = rf"Rank 1 of 2 failed: {kind}: .*\. Restart the sweep on all ranks\."
    assert re.fullmatch(expected, other[1], re.DOTALL)
    assert message in other[1]


def test_a_failure_is_heard_of_before_all_passes_have_run(two_ranks):
    first, second = two_ranks("failing")
    assert second["ran"] == 4
    assert first["ran"] <= 6


OTHER = {"tokens": "another prompt", "cells": "other cells"}


@pytest.mark.parametrize("what", OTHER)
def test_ranks_that_run_other_sweeps_are_refused(two_ranks, what: str):
    for rank in two_ranks("failing"):
        kind, message = rank[what]
        assert kind == "RankError"
        assert message == (
            f"Every rank must run the same sweep. Got {OTHER[what]} on rank 1 than on rank 0. "
            "Use the same model, arguments and checkpoints on every rank."
        )


def test_after_a_failure_the_ranks_can_go_on_together(two_ranks):
    first, second = two_ranks("failing")
    assert first["again"] == second["again"] == first["last"] == second["last"]


def test_the_rank_with_the_least_memory_decides_the_plan(two_ranks):
    first, second = two_ranks("failing")
    assert first["least memory"] == second["least memory"] == first["again"]


def test_ctrl_c_on_one_rank_returns_what_all_have_done(two_ranks):
    first, second = two_ranks("failing")
    assert first["interrupted"] == second["interrupted"]
    _, complete, n_cells = first["interrupted"]
    assert not complete
    assert 0 < n_cells


def test_ctrl_c_on_a_rank_that_waits_stops_the_others(two_ranks):
    first, second = two_ranks("failing")
    assert first["while it waits"] == second["while it waits"]
    _, complete, n_cells = first["while it waits"]
    assert not complete
    assert n_cells >= 3  # all of the rank that waits


def test_ctrl_c_before_anything_is_done_interrupts_all_ranks(two_ranks):
    assert [rank["at once"][0] for rank in two_ranks("failing")] == ["KeyboardInterrupt"] * 2


CODE_AND_MESSAGE = re.compile(r"^```python\n(.*?)^```$.*?^```text\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("number", [0, 1])
def test_the_page_of_errors_says_what_two_ranks_say(printed, tmp_path, number: int):
    """Its code, on two ranks; line breaks aside."""
    code, message = CODE_AND_MESSAGE.findall(PAGE.read_text(encoding="utf-8"))[number]
    script = tmp_path / "ranks.py"
    script.write_text(code, encoding="utf-8")
    assert " ".join(message.split()) in " ".join(printed(script).split())


def test_the_page_of_errors_says_what_is_said_of_lost_ranks(survivor):
    """Numbers of seconds aside."""
    messages = re.findall(r"^```text\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for scenario, message in zip(("killed", "stopped"), messages[2:], strict=True):
        said = f"mlx_patch.errors.RankError: {survivor(scenario).found['raised'][1]}"
        assert re.sub(r"\d+ s:", "s:", " ".join(message.split())) == re.sub(r"\d+ s:", "s:", said)
