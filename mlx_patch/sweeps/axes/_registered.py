"""Which axes a sweep may have."""

from mlx_patch.results import known_axes
from mlx_patch.sweeps.axes._axis import SweepAxis


def sweep_axes() -> dict[str, type[SweepAxis]]:
    """The axes that `over` may name, in the order in which messages list them."""
    return {name: kind for name, kind in known_axes().items() if issubclass(kind, SweepAxis)}
