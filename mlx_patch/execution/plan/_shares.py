"""Which passes of a plan each rank runs. Pure: it sees no model, no array and no other rank."""

from collections.abc import Sequence

from mlx_patch.execution.plan._packing import Plan


def shares(plan: Plan, ranks: int) -> tuple[int, ...]:
    """The rank of each pass, so that the one with the most to do has as little as possible. The same on every rank.

    A rank that has passes of a group of prompts runs these unedited as well. So two ways are tried: groups stay
    together, or passes are dealt one by one.

    Args:
        plan: The plan, which is the same on every rank.
        ranks: How many there are.
    """
    numbers = range(len(plan.passes))
    groups = [[n for n in numbers if plan.passes[n].group == group] for group in range(len(plan.groups))]
    ways = [_dealt(plan, ranks, parts) for parts in (groups, [[n] for n in numbers])]
    return min(ways, key=lambda way: max(loads(plan, ranks, way)))


def loads(plan: Plan, ranks: int, rank_of: Sequence[int]) -> list[int]:
    """The token-layers that each rank computes, and one layer more for each cell, which is unembedded."""
    load, groups = [0] * ranks, [set[int]() for _ in range(ranks)]
    for one, rank in zip(plan.passes, rank_of, strict=True):
        load[rank] += plan.cost(one) + len(one.cells) + _unedited(plan, one.group) * (one.group not in groups[rank])
        groups[rank].add(one.group)
    return load


def _dealt(plan: Plan, ranks: int, parts: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """The rank of each pass: parts go, the dearest first, to the rank that then has the least to do."""
    rank_of = [0] * len(plan.passes)
    load, groups = [0] * ranks, [set[int]() for _ in range(ranks)]
    cost = [sum(plan.cost(plan.passes[n]) + len(plan.passes[n].cells) for n in part) for part in parts]
    for i in sorted((i for i, part in enumerate(parts) if part), key=lambda i: (-cost[i], i)):
        group = plan.passes[parts[i][0]].group
        after = [load[r] + cost[i] + _unedited(plan, group) * (group not in groups[r]) for r in range(ranks)]
        rank = after.index(min(after))
        load[rank] = after[rank]
        groups[rank].add(group)
        for n in parts[i]:
            rank_of[n] = rank
    return tuple(rank_of)


def _unedited(plan: Plan, group: int) -> int:
    """The token-layers of a group's unedited run."""
    prompts = plan.groups[group]
    return prompts.batch * prompts.length * plan.n_layers
