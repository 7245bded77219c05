"""`Choices`: the choices of a caller along the axes of a sweep, and all that there is along axes without one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mlx_patch.errors import KindError, SelectionError, ValueRefusedError, listed
from mlx_patch.execution.cells import Shapes
from mlx_patch.model import HookedModel
from mlx_patch.positions import Selector
from mlx_patch.results import AXES, CHOSEN_AXES
from mlx_patch.sites import SITES, Site
from mlx_patch.sweeps._grid import AxisChoice, flatten, parse_choices, refuse_repeated_choices
from mlx_patch.sweeps._variation import Variation
from mlx_patch.tokens import Batch


@dataclass(frozen=True, eq=False)
class Choices:
    """The choices of a caller along the axes of a sweep.

    Attributes:
        model: The model.
        batches: The prompts, in groups of equal length.
        sites: Where to patch.
        chosen: Layers, positions and so on, by the name of the axis; None is all.
        shapes: The numbers of heads and neurons.
    """

    model: HookedModel
    batches: Sequence[Batch]
    sites: Sequence[str]
    chosen: Mapping[str, Sequence[AxisChoice] | None]
    shapes: Shapes

    def axis_range(self, name: str) -> Sequence[AxisChoice]:
        """All that there is along an axis.

        Raises:
            SelectionError: A site has no such axis, or the layers differ in how much there is.
            ValueRefusedError: Only the caller can say.
        """
        if name == "layer":
            return _find_common_layers(self.sites, self.model)
        if name == "pos":
            return self._positions()
        if name == "alpha":
            raise ValueRefusedError("`alphas` must be given if `over` has 'alpha'. Got None. Write [0.0, 0.5, 1.0].")
        return range(self.shapes.size(name, self.sites, self._layer_numbers()))

    def count_from_start(self, over: Sequence[str]) -> Mapping[str, Sequence[AxisChoice] | None]:
        """The choices, with heads and neurons that vary counted from 0 as layers and positions are.

        Where sites or layers differ in how many they have, those that count from the end stay as they are.

        Raises:
            SelectionError: Somewhere one of them is chosen twice, as 3 and as -1, or is not there.
        """
        choices = dict(self.chosen)
        for axis in ("head", "neuron"):
            if axis in over:
                choices[axis] = self._count_axis_from_start(axis)
        return choices

    def _count_axis_from_start(self, axis: str) -> Sequence[AxisChoice] | None:
        choices = self.chosen[axis]
        if choices is None or min(flatten(choices)) >= 0:
            return choices
        sizes = self.shapes.sizes(axis, self.sites, self._layer_numbers())
        argument = AXES[axis].argument
        by_size = [_count_from_start(argument, choices, size) for size in sorted(sizes)]
        if len(by_size) > 1:
            return choices
        return by_size[0]

    def _layer_numbers(self) -> tuple[int, ...] | None:
        layers = self.chosen["layer"]
        if layers is None:
            return None
        return flatten(layers)

    def _positions(self) -> Sequence[AxisChoice]:
        if len(self.batches) > 1:
            raise ValueRefusedError(
                "`positions` must be given if prompts differ in length. Got None. Count from the end: [-2, -1]."
            )
        return range(self.batches[0].length)


def choices_by_axis(variation: Variation) -> dict[str, object]:
    """The caller's arguments, unchanged, by the name of the axis."""
    return {axis.name: getattr(variation, axis.argument) for axis in CHOSEN_AXES}


def chosen_by_axis(
    arguments: Mapping[str, object], n_layers: int, batches: Sequence[Batch]
) -> dict[str, Sequence[AxisChoice] | None]:
    """The choices of a caller, by the name of the axis: numbers from 0 wherever the length of the axis is known.

    Args:
        arguments: As the caller passed them, by the name of the axis.
        n_layers: The number of layers.
        batches: The prompts. Where they differ in length, negative positions stay negative.
    Raises:
        SelectionError: It is no choice, names something twice, or something that is not there.
    """
    lengths = sorted({batch.length for batch in batches})
    is_one_batch = len(batches) == 1
    sizes = {"layer": n_layers}
    if is_one_batch:
        sizes["pos"] = lengths[0]
    choices: dict[str, Sequence[AxisChoice] | None] = {}
    for axis in CHOSEN_AXES:
        choices[axis.name] = parse_choices(axis.argument, arguments[axis.name], sizes.get(axis.name))
    # Also where the result is not used: each length refuses positions that its prompts do not have.
    by_length = [_count_from_start("positions", choices["pos"], length) for length in lengths]
    choices["layer"] = _count_from_start("layers", choices["layer"], n_layers)
    if is_one_batch:
        choices["pos"] = by_length[0]
    return choices


def site_names(at: object) -> tuple[str, ...]:
    """The names of the sites in `at`, as `Intervention.at` takes them.

    Raises:
        KindError: Something is no site.
        ValueRefusedError: A site is there twice.
    """
    if at is None:
        sites = ()
    elif isinstance(at, list | tuple):
        sites = tuple(at)
    else:
        sites = (at,)
    if not all(isinstance(site, str | Site) for site in sites):
        raise KindError(f"`at` must be a site, or several. Got {at!r}. Write at='resid_post', say.")
    names = tuple(map(_site_name, sites))
    if len(set(map(_spell_out, names))) < len(names):
        raise ValueRefusedError(f"`at` must name each site once. Got {listed(names)}. Leave one of them out.")
    return names


def _site_name(site: object) -> str:
    if isinstance(site, Site) and site.layer is None:
        return site.name
    return str(site)


def _spell_out(name: str) -> str:
    """A site in its canonical spelling, so that "z.0" and "blocks.0.attn.hook_z" are recognised as the same."""
    if name in SITES:
        return name
    return str(Site.parse(name))


def _count_from_start(name: str, choices: Sequence[AxisChoice] | None, size: int) -> tuple[AxisChoice, ...] | None:
    """The choices with numbers from 0 in place of those that count from the end."""
    if choices is None:
        return None
    from_start = tuple(_count_choice_from_start(name, choice, size) for choice in choices)
    refuse_repeated_choices(name, list(choices), from_start)
    return from_start


def _count_choice_from_start(name: str, choice: AxisChoice, size: int) -> AxisChoice:
    if isinstance(choice, Selector):
        return choice
    if isinstance(choice, tuple):
        return tuple(_count_number_from_start(name, number, size) for number in choice)
    return _count_number_from_start(name, int(choice), size)


def _count_number_from_start(name: str, number: int, size: int) -> int:
    if not -size <= number < size:
        raise SelectionError(f"`{name}` must lie in {-size} to {size - 1}. Got {number}.")
    return number % size


def _find_common_layers(sites: Sequence[str], model: HookedModel) -> list[int]:
    """The layers that have every one of the sites."""
    for name in sites:
        if name not in SITES or not SITES[name].layered:
            raise SelectionError(
                f"`over` must not have 'layer' at {name!r}, which is not a site of blocks. Leave 'layer' out, or name "
                "the site without its layer."
            )
    layers_by_site = [{site.layer for site in model.layout.select(name, None)} for name in sites]
    shared_layers = set.intersection(*layers_by_site)
    common = sorted(layer for layer in shared_layers if layer is not None)
    if not common:
        raise SelectionError(
            f"`at` must be sites that occur together in a layer. Got {listed(sites)}. Sweep them one by one."
        )
    return common
