"""From a case that differs to the smallest that still does."""

from mlx_patch.model import HookedModel
from mlx_patch.testing._fuzz._case import Case
from mlx_patch.testing._fuzz._check import Difference, check_case

_MOST_TRIES = 60


def shrunk(model: HookedModel, case: Case, differences: tuple[Difference, ...]) -> tuple[Case, tuple[Difference, ...]]:
    """The case with as much as may be left out of it, and what still differs in it by the same way."""
    how, tries = differences[0].how.split(",")[0].split(" of ")[0], 0
    smaller = True
    while smaller and tries < _MOST_TRIES:
        smaller = False
        for simpler in case.simpler():
            tries += 1
            left = tuple(one for one in check_case(model, simpler).differences if one.how.startswith(how))
            if left:
                case, differences, smaller = simpler, left, True
                break
            if tries >= _MOST_TRIES:
                break
    return case, differences
