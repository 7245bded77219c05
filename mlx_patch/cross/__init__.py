"""Patching from one model into another: compatibility, maps of layers and coordinates, and the 2 x 2 of halves."""

from mlx_patch._presence import shown_names as _shown_names
from mlx_patch.cross._compatibility import Compatibility as Compatibility
from mlx_patch.cross._compatibility import compatibility as compatibility
from mlx_patch.cross._layer_map import LayerMap as LayerMap
from mlx_patch.cross._linear_map import LinearMap as LinearMap
from mlx_patch.cross._linear_map import fit_maps as fit_maps
from mlx_patch.cross._patch import capture as capture
from mlx_patch.cross._patch import cross_patch as cross_patch
from mlx_patch.cross._two_by_two import TwoByTwo as TwoByTwo
from mlx_patch.cross._two_by_two import two_by_two as two_by_two


def __dir__() -> list[str]:
    """What is meant for the user of the module."""
    return _shown_names(globals())
