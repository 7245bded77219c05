"""Plans for any cells and any bounds: nothing is lost, nothing is done twice, and the cost is what it must be."""

import json
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_patch.execution.executors import executors
from mlx_patch.execution.plan import Bounds, Plan, PromptGroup, make_plan

EXECUTORS = ("grow", "rows", "reference")


@dataclass(frozen=True)
class Cell:
    """Where a cell begins, which is all that a plan knows."""

    entry: int | None
    start: int
    runs_modules_again: bool = False


@dataclass(frozen=True)
class Case:
    """What a plan is made from."""

    cells: list[list[Cell]]
    groups: list[PromptGroup]
    n_layers: int
    bounds: Bounds

    def plan(self, executor: str) -> Plan:
        return make_plan(self.cells, self.groups, self.n_layers, executors()[executor], self.bounds, memory_of)


def memory_of(group, one):
    """More for each row and position, and for what a cache holds of the positions before."""
    return len(one.cells) * group.batch * (3 * (group.length - one.start) + one.start)


@st.composite
def cases(draw, unknown: bool = False) -> Case:
    n_layers, n_cells = draw(st.integers(1, 6)), draw(st.integers(1, 30))
    groups = draw(st.lists(st.builds(PromptGroup, st.integers(1, 12), st.integers(1, 3)), min_size=1, max_size=4))
    entry = st.integers(0, n_layers)
    entries = st.one_of(st.none(), entry) if unknown else entry
    cells = [[Cell(draw(entries), draw(st.integers(0, group.length - 1))) for _ in range(n_cells)] for group in groups]
    memory = st.one_of(st.none(), st.integers(0, 200))
    bounds = draw(st.builds(Bounds, st.integers(1, 20), st.integers(1, 100), memory))
    return Case(cells, groups, n_layers, bounds)


def simulated(case: Case) -> int:
    """The least, counted one by one: the unpatched prompts, and what of each cell differs from them."""
    touched = 0
    for group, cells in zip(case.groups, case.cells, strict=True):
        for _row in range(group.batch):
            for layer in range(case.n_layers):
                for pos in range(group.length):
                    touched += 1 + sum(layer >= (cell.entry or 0) and pos >= cell.start for cell in cells)
    return touched


@given(cases(unknown=True), st.sampled_from(EXECUTORS))
def test_every_cell_is_in_exactly_one_pass(case, executor):
    if executor == "grow":
        case = Case([[Cell(c.entry or 0, c.start) for c in own] for own in case.cells], *list(vars(case).values())[1:])
    met = Counter((one.group, i) for one in case.plan(executor).passes for i in one.cells)
    assert met == Counter((n, i) for n, own in enumerate(case.cells) for i in range(len(own)))


@given(cases(), st.sampled_from(EXECUTORS))
def test_a_pass_computes_all_that_differs_in_its_cells(case, executor):
    for one in case.plan(executor).passes:
        for i, entry in zip(one.cells, one.entries, strict=True):
            cell = case.cells[one.group][i]
            assert one.start <= cell.start
            assert entry <= cell.entry


@given(cases(), st.sampled_from(EXECUTORS))
def test_entries_within_a_pass_never_go_down(case, executor):
    for one in case.plan(executor).passes:
        assert list(one.entries) == sorted(one.entries)


@given(cases(), st.sampled_from(EXECUTORS))
def test_no_pass_of_several_cells_is_larger_than_the_bounds(case, executor):
    bounds = case.bounds
    for one in case.plan(executor).passes:
        group = case.groups[one.group]
        if len(one.cells) > 1:
            assert len(one.cells) <= bounds.rows
            assert len(one.cells) * group.batch * (group.length - one.start) <= bounds.tokens
            assert bounds.memory is None or memory_of(group, one) <= bounds.memory


@given(cases())
def test_passes_are_as_few_as_their_bounds_allow(case):
    """Two passes of one start are two because one cell more would not have fitted into the first."""
    passes = case.plan("grow").passes
    for one, two in pairwise(passes):
        if (one.group, one.start) == (two.group, two.start):
            group, more = case.groups[one.group], len(one.cells) + 1
            tokens = more * group.batch * (group.length - one.start)
            memory = memory_of(group, one) // len(one.cells) * more
            too_much = case.bounds.memory is not None and memory > case.bounds.memory
            assert more > case.bounds.rows or tokens > case.bounds.tokens or too_much


@settings(deadline=None)
@given(cases())
def test_growing_costs_the_least_whatever_the_bounds(case):
    plan = case.plan("grow")
    assert plan.token_layers == plan.minimum == simulated(case)


@given(cases(unknown=True))
def test_executors_cost_between_the_least_and_a_pass_a_cell(case):
    """A forward pass of the whole model for each cell is the most."""
    rows, reference = case.plan("rows"), case.plan("reference")
    assert rows.minimum <= rows.token_layers <= reference.token_layers == reference.reference == rows.reference


@given(cases(unknown=True), st.sampled_from(EXECUTORS[1:]))
def test_a_plan_is_what_its_data_says(case, executor):
    plan = case.plan(executor)
    assert Plan.from_dict(plan.as_dict()) == plan
    assert Plan.from_dict(json.loads(json.dumps(plan.as_dict()))) == plan


@given(cases(unknown=True), st.sampled_from(EXECUTORS[1:]))
def test_a_plan_is_the_same_each_time(case, executor):
    assert case.plan(executor) == case.plan(executor)
    assert f"{sum(map(len, case.cells))} cell" in str(case.plan(executor))
