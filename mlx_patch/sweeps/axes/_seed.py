"""`SeedAxis`: the seeds of what draws random numbers: cells' interventions, and standing edits."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, final

from typing_extensions import override

from mlx_patch.errors import KindError, SelectionError, shown
from mlx_patch.interventions import Edit, Intervention
from mlx_patch.sweeps.axes._axis import SweepAxis
from mlx_patch.sweeps.axes._choices import parse_index


@final
class SeedAxis(SweepAxis):
    """Seeds: in the cells of a choice, all that draws random numbers does so from it."""

    name = "seed"
    keyword = "seeds"
    order = 6
    ordered = False
    label = "seed of the draw"
    if_missing = "Write range(5)."
    if_fixed = "Give one to Ablate, or several with over=('layer', 'seed')."

    @override
    def changed(self, intervention: Intervention, choice: Any) -> Intervention:
        if not intervention.draws:  # then the standing edits draw
            return intervention
        return intervention.with_seed(choice)

    @override
    def standing(self, edits: Sequence[Edit], choice: Any) -> tuple[Edit, ...]:
        return tuple(_with_seed(edit, choice) for edit in edits)

    @override
    def check(self, interventions: Sequence[Intervention], standing: Sequence[Edit]) -> None:
        if not any(intervention.draws for intervention in interventions) and not any(map(_draws, standing)):
            raise KindError(
                "`over` must not have 'seed' where nothing draws random numbers. "
                f"Got {shown(interventions[0])}, and {len(standing)} standing edits. Use mp.Ablate('noise')."
            )

    @override
    def parse_choice(self, value: Any) -> int:
        seed = parse_index(self.title, value)
        if seed < 0:
            raise SelectionError(f"`seeds` must be 0 or more. Got {seed}. Write range(5).")
        return seed


def _draws(edit: Edit) -> bool:
    return isinstance(edit.intervention, Intervention) and edit.intervention.draws


def _with_seed(edit: Edit, seed: int) -> Edit:
    if not isinstance(edit.intervention, Intervention) or not edit.intervention.draws:
        return edit
    return replace(edit, intervention=edit.intervention.with_seed(seed))
