"""`PlaceAxis`: an axis along which a choice of `Intervention.at` differs: numbers, and groups of numbers."""

from dataclasses import replace
from typing import Any, Self, cast

from typing_extensions import override

from mlx_patch.positions import Selector
from mlx_patch.sweeps.axes._axis import SweepAxis, SweepScope
from mlx_patch.sweeps.axes._choices import PlaceChoice, count_from_start, flatten, is_group, parse_index


class PlaceAxis(SweepAxis):
    """An axis along which cells act at different numbers, or groups of them, of what has its name in `.at`."""

    @override
    def where(self, choice: Any) -> dict[str, Any]:
        return {self.name: choice}

    @override
    def parse_choice(self, value: Any) -> PlaceChoice:
        if is_group(value):
            return tuple(parse_index(self.title, number) for number in value)
        return parse_index(self.title, value)

    def size(self, scope: SweepScope) -> int | None:
        """The length of the axis, where that is known before `over` is; else None."""
        del scope
        return None

    @override
    def parsed(self, scope: SweepScope) -> Self:
        size = self.size(scope)
        choices = self.parse(self.choices, size)
        if size is not None and choices is not None:
            places = cast("tuple[PlaceChoice, ...]", choices)  # `parse_choice` has made them
            choices = count_from_start(self.title, places, size)
        return replace(self, choices=choices)

    @override
    def fixed(self, scope: SweepScope) -> dict[str, Any]:
        if self.choices is None:
            return {}
        return {self.name: self.merged()}

    def merged(self) -> tuple[int, ...] | Selector:
        """All choices as one argument of `Intervention.at`.

        Raises:
            SelectionError: They cannot be one.
        """
        return flatten(self.choices)
