"""Which passes of a plan each rank runs. Pure: it sees no model, no array and no other rank."""

from collections.abc import Sequence

from mlx_patch.execution.plan._packing import Pass, Plan
from mlx_patch.execution.plan._plan import token_layers_of


def shares(plan: Plan, ranks: int) -> tuple[int, ...]:
    """The rank of each pass, chosen so that the largest load of a rank is small. The same on every rank.

    A rank that has passes of a group of prompts runs these without edits as well. So two ways are tried: groups stay
    together, or passes are dealt one by one.

    Args:
        plan: The plan, which is the same on every rank.
        ranks: How many there are.
    """
    indices = range(len(plan.passes))
    passes_by_group = [
        [index for index in indices if plan.passes[index].group == group] for group in range(len(plan.groups))
    ]
    single_passes = [[index] for index in indices]
    divisions = [_deal(plan, ranks, bundles) for bundles in (passes_by_group, single_passes)]
    return min(divisions, key=lambda rank_of: max(loads(plan, ranks, rank_of)))


def loads(plan: Plan, ranks: int, rank_of: Sequence[int]) -> list[int]:
    """The token-layers that each rank computes, and one layer more for each cell, which is unembedded."""
    load = [0] * ranks
    groups_by_rank = [set[int]() for _ in range(ranks)]
    for pass_, rank in zip(plan.passes, rank_of, strict=True):
        load[rank] += _cost(plan, pass_)
        if pass_.group not in groups_by_rank[rank]:
            load[rank] += _unpatched_cost(plan, pass_.group)
            groups_by_rank[rank].add(pass_.group)
    return load


def _deal(plan: Plan, ranks: int, bundles: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """The rank of each pass, where the passes of a bundle stay together."""
    # To divide exactly is NP-hard, so the dearest bundle that is left goes to the rank that then has the least to do.
    # No rank ends up with more than its share by more than one bundle and the unpatched runs. Which rank that is
    # depends on the group: a rank that has none of it yet would run its prompts unpatched as well, which can cost
    # more than the bundle. Every rank computes this for itself, so equal costs are settled by index, never by chance.
    rank_of = [0] * len(plan.passes)
    load = [0] * ranks
    groups_by_rank = [set[int]() for _ in range(ranks)]
    costs = [sum(_cost(plan, plan.passes[index]) for index in bundle) for bundle in bundles]
    dearest_first = sorted(range(len(bundles)), key=lambda index: (-costs[index], index))
    for bundle_index in dearest_first:
        bundle = bundles[bundle_index]
        if not bundle:
            continue
        group = plan.passes[bundle[0]].group
        load_after = [total + costs[bundle_index] for total in load]
        for rank in range(ranks):
            if group not in groups_by_rank[rank]:
                load_after[rank] += _unpatched_cost(plan, group)
        chosen_rank = load_after.index(min(load_after))
        load[chosen_rank] = load_after[chosen_rank]
        groups_by_rank[chosen_rank].add(group)
        for index in bundle:
            rank_of[index] = chosen_rank
    return tuple(rank_of)


def _cost(plan: Plan, pass_: Pass) -> int:
    """The token-layers of a pass, and one layer more for each cell, which is unembedded."""
    return plan.cost(pass_) + len(pass_.cells)


def _unpatched_cost(plan: Plan, group: int) -> int:
    """The token-layers of a group's unpatched run."""
    return token_layers_of(plan.groups[group], plan.n_layers)
