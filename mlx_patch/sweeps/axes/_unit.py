"""`UnitAxis`: heads or neurons, of which sites and layers may have different numbers."""

from collections.abc import Sequence
from typing import Any

from typing_extensions import override

from mlx_patch.sweeps.axes._axis import SweepScope
from mlx_patch.sweeps.axes._choices import count_from_start, flatten
from mlx_patch.sweeps.axes._place import PlaceAxis


class UnitAxis(PlaceAxis):
    """Units of a site; all of them, where the sites and layers of a sweep agree in how many they have."""

    @override
    def full_range(self, scope: SweepScope) -> Sequence[int]:
        return range(scope.shapes.size(self.name, scope.sites, _layer_numbers(scope)))

    @override
    def places(self, scope: SweepScope) -> tuple[Any, ...]:
        """The choices counted from 0. Where sites or layers differ in how many they have, they stay as they are."""
        places = super().places(scope)
        if min(flatten(places)) >= 0:
            return places
        sizes = scope.shapes.sizes(self.name, scope.sites, _layer_numbers(scope))
        by_size = [count_from_start(self.title, places, size) for size in sorted(sizes)]
        if len(by_size) > 1:
            return places
        return by_size[0]


def _layer_numbers(scope: SweepScope) -> tuple[int, ...] | None:
    """The layers that are chosen; None is all."""
    layers = scope.axes["layer"].choices
    if layers is None:
        return None
    return flatten(layers)
