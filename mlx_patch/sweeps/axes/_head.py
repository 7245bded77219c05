"""`HeadAxis`: the heads that cells act at."""

from typing import final

from mlx_patch.sweeps.axes._unit import UnitAxis


@final
class HeadAxis(UnitAxis):
    """Heads, at sites that have them."""

    name = "head"
    keyword = "heads"
    order = 3
    counted = True
