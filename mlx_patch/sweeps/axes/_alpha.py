"""`AlphaAxis`: how far an interpolation goes."""

from typing import Any, final

import mlx.core as mx
from typing_extensions import override

from mlx_patch import arguments
from mlx_patch.errors import SelectionError
from mlx_patch.interventions import Intervention
from mlx_patch.sweeps.axes._axis import SweepAxis


@final
class AlphaAxis(SweepAxis):
    """Strengths of an intervention that has one."""

    name = "alpha"
    keyword = "alphas"
    order = 5
    label = "alpha (share of the source)"
    if_missing = "Write [0.0, 0.5, 1.0]."
    if_fixed = "Give one to Interpolate, or several with over=('alpha',)."

    @override
    def changed(self, intervention: Intervention, choice: Any) -> Intervention:
        return intervention.with_strength(choice)

    @override
    def parse_choice(self, value: Any) -> float:
        if isinstance(value, mx.array) and value.ndim == 0:
            value = value.item()
        return arguments.number("alphas", value, remedy="Write [0.0, 0.5, 1.0].", kind_error=SelectionError)
