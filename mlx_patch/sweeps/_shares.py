"""Which passes of a plan each rank runs. Pure: it sees no model, no array and no other rank."""

from mlx_patch.sweeps._plan import Plan


def shares(plan: Plan, ranks: int) -> tuple[int, ...]:
    """The rank of each pass, so that all have about the same to do. The same on every rank.

    The dearest pass comes first, and each goes to the rank that then has the least to do. A rank that has passes of a
    group of prompts runs these unedited as well, so groups are kept together where that is cheaper.

    Args:
        plan: The plan, which is the same on every rank.
        ranks: How many there are.
    """
    load, groups = [0] * ranks, [set[int]() for _ in range(ranks)]
    rank_of = dict.fromkeys(range(len(plan.passes)), 0)
    for number in sorted(rank_of, key=lambda n: (-plan.cost(plan.passes[n]), n)):
        one = plan.passes[number]
        added = [plan.cost(one) + len(one.cells) + _base(plan, one.group) * (one.group not in has) for has in groups]
        rank = min(range(ranks), key=lambda r: (load[r] + added[r], r))
        load[rank] += added[rank]
        groups[rank].add(one.group)
        rank_of[number] = rank
    return tuple(rank_of.values())


def _base(plan: Plan, group: int) -> int:
    """The token-layers of a group's unedited run."""
    prompts = plan.groups[group]
    return prompts.batch * prompts.length * plan.n_layers
