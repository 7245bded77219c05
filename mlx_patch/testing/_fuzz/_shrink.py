"""From a case that differs to the smallest that still does."""

from mlx_patch.model import HookedModel
from mlx_patch.testing._fuzz._case import Case
from mlx_patch.testing._fuzz._check import Difference, check_case

_MOST_TRIES = 60


def shrink(model: HookedModel, case: Case, differences: tuple[Difference, ...]) -> tuple[Case, tuple[Difference, ...]]:
    """The smallest case found that still differs in the same way, and its differences."""
    way = differences[0].how.split(",")[0].split(" of ")[0]
    n_tries = 0
    was_shrunk = True
    while was_shrunk and n_tries < _MOST_TRIES:
        was_shrunk = False
        for simpler in case.simpler():
            n_tries += 1
            outcome = check_case(model, simpler)
            remaining = tuple(difference for difference in outcome.differences if difference.how.startswith(way))
            if remaining:
                case, differences, was_shrunk = simpler, remaining, True
                break
            if n_tries >= _MOST_TRIES:
                break
    return case, differences
