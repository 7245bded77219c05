"""`SiteAxis`: where cells act."""

from collections.abc import Sequence
from typing import Any, Self, final

from typing_extensions import override

from mlx_patch.errors import ValueRefusedError, listed, shown
from mlx_patch.sweeps.axes._axis import SweepAxis, SweepScope


@final
class SiteAxis(SweepAxis):
    """The sites that `at` names: several along this axis, else one for all cells."""

    name = "site"
    keyword = "at"
    order = 0
    ordered = False

    @override
    def where(self, choice: Any) -> dict[str, Any]:
        return {"site": choice}

    @override
    def parsed(self, scope: SweepScope) -> Self:
        if self.choices is not None:
            raise ValueRefusedError(f"`at` must have the sites. Got {shown(self)} in `over`. Write over='site'.")
        return self

    @override
    def full_range(self, scope: SweepScope) -> Sequence[str]:
        return scope.sites

    @override
    def fixed(self, scope: SweepScope) -> dict[str, Any]:
        if len(scope.sites) != 1:
            raise ValueRefusedError(
                f"`at` must be one site unless `over` has 'site'. Got {listed(scope.sites)}. Add 'site'."
            )
        return {"site": scope.sites[0]}
