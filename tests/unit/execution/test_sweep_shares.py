"""Which passes each rank runs."""

from hypothesis import given
from hypothesis import strategies as st

from mlx_patch.execution.plan import Pass, Plan, PromptGroup, loads, shares

N_LAYERS = 4


def plan_of(groups: list[PromptGroup], passes: list[Pass]) -> Plan:
    return Plan("grow", "", N_LAYERS, tuple(groups), tuple(passes), 1, 1, 256, 0)


def layers_of_one_prompt(n: int) -> Plan:
    """A pass for each layer, each of one row; the unpatched run costs as much as the first."""
    return plan_of([PromptGroup(10, 1)], [Pass(0, 0, (i,), (i % N_LAYERS,)) for i in range(n)])


def test_one_rank_runs_everything():
    assert shares(layers_of_one_prompt(5), 1) == (0,) * 5


def test_two_ranks_have_about_the_same_to_do():
    # costs 41, 31, 21, 11 with the unembedding: 0 and 3 for one rank, 1 and 2 for the other, 52 each
    assert shares(layers_of_one_prompt(4), 2) == (0, 1, 1, 0)


def test_prompts_of_one_length_stay_on_one_rank():
    """Where running them unpatched twice costs more."""
    groups = [PromptGroup(10, 1), PromptGroup(10, 1)]
    passes = [Pass(group, 0, (i,), (2,)) for group in (0, 1) for i in range(2)]
    assert shares(plan_of(groups, passes), 2) == (0, 0, 1, 1)


drawn = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 4), st.integers(0, 4)), max_size=30)


@given(drawn, st.integers(1, 5))
def test_no_rank_has_much_more_than_its_share(chosen: list, ranks: int):
    """At most a pass and the unpatched prompts more."""
    own = [Pass(group, start, (0,), (entry,)) for group, start, entry in chosen]
    plan = plan_of([PromptGroup(5, 2), PromptGroup(6, 1)], own)
    of = shares(plan, ranks)
    assert len(of) == len(own)
    assert all(0 <= rank < ranks for rank in of)
    costs = [plan.cost(one) + 1 for one in own]
    assert max(loads(plan, ranks, of)) <= sum(costs) / ranks + max(costs, default=0) + 2 * plan.base


def test_loads_are_passes_and_unpatched_prompts():
    plan = layers_of_one_prompt(3)  # 41, 31, 21; unpatched 40
    assert loads(plan, 3, (0, 2, 0)) == [41 + 21 + 40, 0, 31 + 40]
