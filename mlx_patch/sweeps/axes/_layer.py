"""`LayerAxis`: the layers that cells act at."""

from collections.abc import Sequence
from typing import final

from typing_extensions import override

from mlx_patch.errors import SelectionError, listed
from mlx_patch.model import HookedModel
from mlx_patch.sites import SITES
from mlx_patch.sweeps.axes._axis import SweepScope
from mlx_patch.sweeps.axes._place import PlaceAxis


@final
class LayerAxis(PlaceAxis):
    """Layers; all that have every one of the sites."""

    name = "layer"
    keyword = "layers"
    order = 1
    counted = True

    @override
    def size(self, scope: SweepScope) -> int:
        return scope.model.n_layers

    @override
    def full_range(self, scope: SweepScope) -> Sequence[int]:
        return _find_common_layers(scope.sites, scope.model)


def _find_common_layers(sites: Sequence[str], model: HookedModel) -> list[int]:
    """The layers that have every one of the sites."""
    for name in sites:
        if name not in SITES or not SITES[name].layered:
            raise SelectionError(
                f"`over` must not have 'layer' at {name!r}, which is not a site of blocks. "
                "Leave 'layer' out, or name the site without its layer."
            )
    layers_by_site = [{site.layer for site in model.layout.select(name, None)} for name in sites]
    shared_layers = set.intersection(*layers_by_site)
    common = sorted(layer for layer in shared_layers if layer is not None)
    if not common:
        raise SelectionError(
            f"`at` must be sites that occur together in a layer. Got {listed(sites)}. Sweep them one by one."
        )
    return common
