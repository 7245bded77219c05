"""`Choices`: what a caller chose along the axes of a sweep, and what there is where nothing was chosen."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mlx_patch.errors import KindError, SelectionError, ValueRefusedError, listed
from mlx_patch.execution.cells import Shapes
from mlx_patch.model import HookedModel
from mlx_patch.positions import Selector
from mlx_patch.sites import SITES, Site
from mlx_patch.sweeps._grid import Chosen, choices, flat, refuse_repeated_choices
from mlx_patch.tokens import Batch

ARGUMENTS = {"layer": "layers", "pos": "positions", "head": "heads", "neuron": "neurons", "alpha": "alphas"}
"""The argument that chooses along an axis, by the name of the axis."""


@dataclass(frozen=True, eq=False)
class Choices:
    """What a caller chose along the axes of a sweep.

    Attributes:
        model: The model.
        batches: The prompts, in groups of equal length.
        sites: Where to patch.
        chosen: Layers, positions and so on, by the name of the axis; None is all.
        shapes: What says how many heads and neurons there are.
    """

    model: HookedModel
    batches: Sequence[Batch]
    sites: Sequence[str]
    chosen: Mapping[str, Sequence[Chosen] | None]
    shapes: Shapes

    def every(self, name: str) -> Sequence[Chosen]:
        """All that there is along an axis.

        Raises:
            SelectionError: A site has no such axis, or the layers differ in how much there is.
            ValueRefusedError: Only the caller can say.
        """
        if name == "layer":
            return _layers(self.sites, self.model)
        if name == "pos":
            return self._positions()
        if name == "alpha":
            raise ValueRefusedError("`alphas` must be given where `over` has 'alpha'. Got None. Write [0.0, 0.5, 1.0].")
        layers = self.chosen["layer"]
        return range(self.shapes.size(name, self.sites, None if layers is None else flat(layers)))

    def counted(self, over: Sequence[str]) -> Mapping[str, Sequence[Chosen] | None]:
        """What was chosen, with heads and neurons that vary counted from 0 as layers and positions are.

        Where sites or layers differ in how many they have, those that count from the end stay as they are.

        Raises:
            SelectionError: Somewhere one of them is chosen twice, as 3 and as -1, or is not there.
        """
        from_0 = {axis: self._counted(axis) for axis in ("head", "neuron") if axis in over}
        return {**self.chosen, **from_0}

    def _counted(self, axis: str) -> Sequence[Chosen] | None:
        many, layers = self.chosen[axis], self.chosen["layer"]
        if many is None or min(flat(many)) >= 0:
            return many
        sizes = self.shapes.sizes(axis, self.sites, None if layers is None else flat(layers))
        by_size = [_absolute(ARGUMENTS[axis], many, size) for size in sorted(sizes)]
        return by_size[0] if len(by_size) == 1 else many

    def _positions(self) -> Sequence[Chosen]:
        if len(self.batches) > 1:
            raise ValueRefusedError(
                "`positions` must be given where prompts differ in length. Got None. Count from the end: [-2, -1]."
            )
        return range(self.batches[0].length)


def chosen_by_axis(
    given: Mapping[str, object], n_layers: int, batches: Sequence[Batch]
) -> dict[str, Sequence[Chosen] | None]:
    """What a caller chose, by the name of the axis: numbers from 0 wherever it is known from which end they count.

    Args:
        given: By the name of the axis.
        n_layers: How many layers there are.
        batches: The prompts. Where they differ in length, negative positions stay negative.
    Raises:
        SelectionError: It is no choice, names something twice, or something that is not there.
    """
    lengths = sorted({batch.length for batch in batches})
    sizes = {"layer": n_layers} | ({"pos": lengths[0]} if len(batches) == 1 else {})
    chosen: dict[str, Sequence[Chosen] | None] = {
        axis: choices(name, given[axis], sizes.get(axis)) for axis, name in ARGUMENTS.items()
    }
    by_length = [_absolute("positions", chosen["pos"], length) for length in lengths]
    chosen["layer"] = _absolute("layers", chosen["layer"], n_layers)
    return chosen if len(batches) > 1 else {**chosen, "pos": by_length[0]}


def site_names(at: object) -> tuple[str, ...]:
    """The sites that a caller names, as `Intervention.at` takes them.

    Raises:
        KindError: Something is no site.
        ValueRefusedError: A site is there twice.
    """
    many = () if at is None else tuple(at) if isinstance(at, list | tuple) else (at,)
    if not all(isinstance(one, str | Site) for one in many):
        raise KindError(f"`at` must be a site, or several. Got {at!r}. Write at='resid_post', say.")
    names = tuple(one.name if isinstance(one, Site) and one.layer is None else str(one) for one in many)
    if len(set(map(_spelt_out, names))) < len(names):
        raise ValueRefusedError(f"`at` must name each site once. Got {listed(names)}. Leave one of them out.")
    return names


def _spelt_out(name: str) -> str:
    """A site in its one spelling, so that "z.0" and "blocks.0.attn.hook_z" are seen to be the same."""
    return name if name in SITES else str(Site.parse(name))


def _absolute(name: str, given: Sequence[Chosen] | None, size: int) -> tuple[Chosen, ...] | None:
    """Numbers from 0 in place of those that count from the end."""
    if given is None:
        return None
    many = tuple(one if isinstance(one, Selector) else _of_one(name, one, size) for one in given)
    refuse_repeated_choices(name, list(given), many)
    return many


def _of_one(name: str, one: int | float | tuple[int, ...], size: int) -> Chosen:
    return tuple(_from_0(name, n, size) for n in one) if isinstance(one, tuple) else _from_0(name, int(one), size)


def _from_0(name: str, n: int, size: int) -> int:
    if not -size <= n < size:
        raise SelectionError(f"`{name}` must lie in {-size} to {size - 1}. Got {n}.")
    return n % size


def _layers(sites: Sequence[str], model: HookedModel) -> list[int]:
    """The layers that have all of some sites."""
    for name in sites:
        if name not in SITES or not SITES[name].layered:
            raise SelectionError(
                f"`over` must not have 'layer' at {name!r}, which is not one of a kind that blocks have. "
                "Leave 'layer' out, or name the site without its layer."
            )
    having = [{site.layer for site in model.layout.select(name, None)} for name in sites]
    common = sorted(layer for layer in set.intersection(*having) if layer is not None)
    if not common:
        raise SelectionError(
            f"`at` must be sites that a layer has together. Got {listed(sites)}. Sweep them one by one."
        )
    return common
