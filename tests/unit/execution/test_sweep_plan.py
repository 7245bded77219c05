"""Plans: which cells run together, what that costs, and how a stranger reads it."""

import ast
import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from mlx_patch.errors import KindError, ValueRefusedError
from mlx_patch.execution import plan
from mlx_patch.execution.executors import executors
from mlx_patch.execution.plan import Bounds, Footprint, Pass, Plan, PromptGroup, bounds_of, make_plan


@dataclass(frozen=True)
class Cell:
    """Where a cell begins, which is all that a plan knows."""

    entry: int | None
    start: int
    runs_modules_again: bool = False


EIGHT = PromptGroup(8, 1)


def planned(cells, executor="grow", groups=(EIGHT,), bounds=None, n_layers=4, why="", memory=lambda g, p: 0):
    return make_plan(cells, groups, n_layers, executors()[executor], bounds or Bounds(), memory, why)


@pytest.mark.parametrize("name", ["_packing.py", "_plan.py"])
def test_a_plan_is_made_without_arrays(name):
    tree = ast.parse((Path(plan.__file__).parent / name).read_text())
    found = [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    found += [name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names]
    ours = {"mlx_patch.execution.plan._plan"}
    assert set(found) <= {"collections.abc", "dataclasses", "itertools", "typing", "typing_extensions"} | ours


def test_cells_of_one_start_run_together():
    """In the order of their entries."""
    made = planned([[Cell(3, 0), Cell(1, 5), Cell(0, 0), Cell(1, 0), Cell(0, 5)]])
    assert made.passes == (Pass(0, 0, (2, 3, 0), (0, 1, 3)), Pass(0, 5, (4, 1), (0, 1)))
    assert made.token_layers == made.minimum == 8 * 4 + 8 * (4 + 3 + 1) + 3 * (4 + 3)
    assert made.reference == 8 * 4 * 6
    assert made.n_cells == 5


def test_cells_that_run_modules_again_have_passes_of_their_own():
    made = planned([[Cell(1, 0), Cell(2, 0, runs_modules_again=True), Cell(0, 0)]])
    assert made.passes == (Pass(0, 0, (2, 0), (0, 1)), Pass(0, 0, (1,), (2,)))


def test_rows_that_do_not_grow_run_through_all_blocks():
    made = planned([[Cell(3, 0), Cell(None, 5)]], "rows")
    assert made.passes == (Pass(0, 0, (0,), (0,)), Pass(0, 5, (1,), (0,)))
    assert made.token_layers == 8 * 4 + 8 * 4 + 3 * 4
    assert made.minimum == 8 * 4 + 8 + 3 * 4


def test_the_reference_is_a_pass_a_cell_over_the_whole_prompt():
    made = planned([[Cell(3, 7), Cell(0, 2)]], "reference")
    assert made.passes == (Pass(0, 0, (0,), (0,)), Pass(0, 0, (1,), (0,)))
    assert made.token_layers == made.reference == 3 * 8 * 4


@pytest.mark.parametrize(
    ("bounds", "sizes"),
    [
        (Bounds(rows=3), [3, 3, 1]),
        (Bounds(tokens=2 * 2 * 8), [2, 2, 2, 1]),
        (Bounds(memory=5), [5, 2]),
        (Bounds(tokens=1), [1] * 7),
        (Bounds(memory=0), [1] * 7),
    ],
)
def test_a_pass_is_as_large_as_its_bounds_allow(bounds, sizes):
    """But never less than a cell."""
    made = planned([[Cell(0, 0)] * 7], groups=[PromptGroup(8, 2)], bounds=bounds, memory=lambda g, one: len(one.cells))
    assert [len(one.cells) for one in made.passes] == sizes
    assert made.memory == max(sizes)


def test_prompts_of_different_lengths_never_share_a_pass():
    made = planned([[Cell(0, 0)] * 2, [Cell(0, 0)] * 2], groups=[PromptGroup(8, 1), PromptGroup(5, 3)])
    assert [(one.group, one.cells) for one in made.passes] == [(0, (0, 1)), (1, (0, 1))]
    assert made.base == 4 * (8 + 15)


def test_a_plan_comes_back_from_json():
    made = planned([[Cell(3, 0), Cell(1, 5)]], why="no", groups=[PromptGroup(8, 2)])
    assert Plan.from_dict(json.loads(json.dumps(made.as_dict()))) == made


def test_a_plan_says_what_it_costs():
    assert str(planned([[Cell(1, 4), Cell(2, 4)]])).splitlines() == [
        "2 cells in 1 pass",
        "prompts: 1 of 8 tokens; 4 layers",
        "executor: grow (each row begins at the first block that its cell changes)",
        "cost: 52 token-layers (one position of one row through one block), 32 of them unpatched",
        "the minimum that these cells can cost: 52, the same",
        "one full forward pass per cell would cost: 96, 1.85 times as many",
        "memory: about 0.0 MiB for the largest pass, beside the weights",
    ]


def test_a_plan_says_why_it_is_not_the_cheapest():
    text = str(planned([[Cell(2, 0)] * 3], "rows", bounds=Bounds(rows=2), why="blocks of rwkv7 read the tokens"))
    assert text.startswith("3 cells in 2 passes of up to 2\n")
    assert "executor: rows (every row runs through all blocks), because blocks of rwkv7 read the tokens\n" in text
    assert "the minimum that these cells can cost: 80, 1.60 times less\n" in text
    assert "one full forward pass per cell would cost: 128, the same\n" in text


def test_a_plan_of_many_lengths_says_how_many():
    two = str(planned([[Cell(0, 0)]] * 2, groups=[PromptGroup(8, 1), PromptGroup(1, 2)], n_layers=1))
    assert (
        "2 cells (1 for each of 2 lengths of prompts) in 2 passes\nprompts: 1 of 8 tokens, 2 of 1 token; 1 layer\n"
        in two
    )
    many = str(
        planned([[Cell(0, 0)]] * 4, groups=[PromptGroup(n, 2) for n in (7, 3, 9, 5)], memory=lambda g, p: 3 * 2**29)
    )
    assert "prompts: 8 of 3 to 9 tokens, in 4 groups of equal length; 4 layers" in many
    assert "memory: about 1.5 GiB" in many


def test_memory_bounds_passes():
    assert bounds_of(5) == Bounds(memory=5)
    assert bounds_of(None).memory is None or bounds_of(None).memory >= 0


def test_memory_must_be_a_number_of_bytes():
    with pytest.raises(ValueRefusedError, match=r"`memory` must be 1 byte or more\. Got 0\. Leave it out"):
        bounds_of(0)
    for wrong in (2.0**30, True, "4 GiB"):
        with pytest.raises(KindError, match=r"`memory` must be a whole number of bytes\. Got .* 4 GiB"):
            bounds_of(wrong)


def test_memory_grows_with_rows_positions_and_what_is_read():
    take = Footprint(d_model=64, d_hidden=256, d_vocab=96, itemsize=4, heads=4, past=512, read=1)
    one = take(PromptGroup(8, 1), Pass(0, 0, (0,), (0,)))
    assert (
        take(PromptGroup(8, 1), Pass(0, 0, (0, 1), (0, 0)))
        == take(PromptGroup(8, 2), Pass(0, 0, (0,), (0,)))
        == 2 * one
    )
    assert take(PromptGroup(8, 1), Pass(0, 7, (0,), (0,))) < one < take(PromptGroup(9, 1), Pass(0, 0, (0,), (0,)))
    whole = Footprint(d_model=64, d_hidden=256, d_vocab=96, itemsize=4, heads=4, past=512, read=None)
    assert whole(PromptGroup(8, 1), Pass(0, 0, (0,), (0,))) - one == 3 * 7 * 96 * 4
