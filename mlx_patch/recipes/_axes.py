"""The axes that recipes add to those of sweeps, and cells as places along axes."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, final

import mlx.core as mx
from typing_extensions import override

from mlx_patch.interventions import Intervention, PositionChoice, Replace
from mlx_patch.sweeps import SweepAxis, SweepResult


@final
@dataclass(frozen=True)
class SourceLayerAxis(SweepAxis):
    """The layers that activations come from, where they go to another prompt.

    Attributes:
        by_layer: The activations of each.
    """

    name = "source_layer"
    order = 20
    counted = True
    label = "layer of the source"
    by_layer: Mapping[int, mx.array] = field(default_factory=dict, compare=False)

    @override
    def changed(self, intervention: Intervention, choice: int) -> Intervention:
        return Replace(self.by_layer[choice])


@final
@dataclass(frozen=True)
class KeysAxis(SweepAxis):
    """Groups of key positions, by the names that a caller gives them.

    Attributes:
        by_name: The positions of each.
    """

    name = "keys"
    order = 21
    ordered = False
    by_name: Mapping[str, PositionChoice] = field(default_factory=dict, compare=False)

    @override
    def where(self, choice: str) -> dict[str, Any]:
        return {"key": self.by_name[choice]}


@final
@dataclass(frozen=True)
class SubspaceAxis(SweepAxis):
    """Subspaces that are exchanged, by the names that a caller gives them.

    Attributes:
        by_name: An orthonormal basis of each. Shape `(d_model, direction)`.
    """

    name = "subspace"
    order = 22
    ordered = False
    by_name: Mapping[str, mx.array] = field(default_factory=dict, compare=False)

    @override
    def changed(self, intervention: Any, choice: str) -> Intervention:
        return Replace(intervention.source, basis=self.by_name[choice])


def along_axes(result: SweepResult, coords: Mapping[str, Iterable[Any]]) -> SweepResult:
    """A sweep over a list of cells, with the cells as the places along some axes, the last axis fastest."""
    labels = {axis: tuple(places) for axis, places in coords.items()}
    shape = tuple(map(len, labels.values()))
    inner_axes = result.axes[1:]
    inner_coords = {axis: result.coords[axis] for axis in inner_axes}
    return replace(
        result,
        values=result.values.reshape(*shape, *result.values.shape[1:]),
        run_mask=result.run_mask.reshape(*shape, *result.run_mask.shape[1:]),
        axes=(*labels, *inner_axes),
        coords={**labels, **inner_coords},
    )
