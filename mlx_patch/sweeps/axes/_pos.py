"""`PosAxis`: the positions that cells act at."""

from collections.abc import Sequence
from dataclasses import replace
from functools import reduce
from operator import or_
from typing import Any, Self, final

from typing_extensions import override

from mlx_patch.errors import SelectionError, ValueRefusedError, listed
from mlx_patch.interventions import Intervention
from mlx_patch.positions import Selector
from mlx_patch.sweeps._alignment import apply_alignment
from mlx_patch.sweeps.axes._axis import SweepScope
from mlx_patch.sweeps.axes._choices import PlaceChoice, count_from_start, flatten
from mlx_patch.sweeps.axes._place import PlaceAxis
from mlx_patch.tokens import Batch


@final
class PosAxis(PlaceAxis):
    """Positions, also as selectors, and by an alignment; all of the prompt, where prompts are of one length."""

    name = "pos"
    keyword = "positions"
    order = 2
    counted = True
    label = "position"

    @override
    def parse_choice(self, value: Any) -> PlaceChoice:
        if isinstance(value, Selector):
            return value
        return super().parse_choice(value)

    @override
    def size(self, scope: SweepScope) -> int | None:
        if len(scope.batches) > 1:
            return None
        return scope.batches[0].length

    @override
    def aligned(self, interventions: list[Intervention], batches: Sequence[Batch]) -> tuple[list[Intervention], Self]:
        interventions, positions = apply_alignment(interventions, self.choices, batches)
        return interventions, replace(self, choices=positions)

    @override
    def parsed(self, scope: SweepScope) -> Self:
        axis = super().parsed(scope)
        if axis.choices is not None:
            for length in sorted({batch.length for batch in scope.batches}):
                count_from_start(self.title, axis.choices, length)  # refuses positions that its prompts do not have
        return axis

    @override
    def full_range(self, scope: SweepScope) -> Sequence[int]:
        if len(scope.batches) > 1:
            raise ValueRefusedError(
                "`positions` must be given if prompts differ in length. Got None. Count from the end: [-2, -1]."
            )
        return range(scope.batches[0].length)

    @override
    def merged(self) -> tuple[int, ...] | Selector:
        selectors = [choice for choice in self.choices if isinstance(choice, Selector)]
        if not selectors:
            return flatten(self.choices)
        if len(selectors) < len(self.choices):
            raise SelectionError(
                "`positions` must be all selectors or all numbers if `over` has no 'pos'. "
                f"Got both: {listed(self.choices)}. Write mp.pos.last for -1."
            )
        return reduce(or_, selectors)
