"""`Edit`: an intervention at a place. What `Intervention.at` makes and `HookedModel.run` takes."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from operator import index as as_int
from typing import Any, Protocol, SupportsIndex, cast

import mlx.core as mx
from typing_extensions import override

from mlx_patch.errors import KindError, SelectionError
from mlx_patch.interventions._fitted import fitted
from mlx_patch.interventions._moment import Moment
from mlx_patch.interventions._span import Span, refuse_repeats
from mlx_patch.interventions._steps import Steps
from mlx_patch.interventions._where import ActivationChange, Pick, Where, axis_of, refuse_no_positions
from mlx_patch.positions import Alignment, Selector
from mlx_patch.sites import SITES, Site

Choice = int | Sequence[int] | range | None
PositionChoice = int | Sequence[int] | range | slice | Selector | None

_AXES = ("batch", "pos", "head", "neuron")


class Transformation(Protocol):
    """What an edit needs of its intervention. `Intervention`, which builds on `Edit`, is the class of it."""

    def __call__(self, own: mx.array, where: Where) -> mx.array:
        """The new values of the picked part."""
        ...

    @property
    def by_position(self) -> bool:
        """Whether what it gives for some positions depends on these alone."""
        ...

    @property
    def by_row(self) -> bool:
        """Whether what it gives for a row of the batch depends on that row alone."""
        ...

    @property
    def covers(self) -> tuple[int, ...] | None:
        """The positions that it has values for, if not for all."""
        ...

    def aligned(self, alignment: Alignment) -> Any:
        """The same with its source at the positions of another prompt."""
        ...

    def check(self, sites: Iterable[Site]) -> None:
        """Refuse a source that does not serve these sites."""
        ...

    def at(
        self,
        site: str | Site,
        layer: Choice = None,
        pos: PositionChoice = None,
        head: Choice = None,
        neuron: Choice = None,
        batch: Choice = None,
    ) -> "Edit":
        """It at another place."""
        ...


@dataclass(frozen=True, repr=False)
class Edit:
    """An intervention and the part of the model's activations that it acts on. Made by `Intervention.at`.

    Attributes:
        intervention: What to do.
        site: The short name of a site, or a raw module path with a side.
        layer: Blocks; None is every block that has the site. Always None for sites without a layer.
        pos: Absolute positions or a slice of them, or a selector that a run resolves; None is all.
        head: Heads; None is all.
        neuron: Indices along the last axis; None is all.
        batch: Rows of the batch; None is all.
        steps: When it acts in a generation; None is always. `during` gives it.
    """

    intervention: Transformation
    site: str
    layer: tuple[int, ...] | None = None
    pos: tuple[int, ...] | slice | Selector | None = None
    head: tuple[int, ...] | None = None
    neuron: tuple[int, ...] | None = None
    batch: tuple[int, ...] | None = None
    steps: Steps | None = None

    @property
    def parts(self) -> "tuple[Edit, ...]":
        """The edits that this one consists of, where rows of the batch have edits of their own; else itself."""
        return (self,)

    def check(self, sites: Iterable[Site]) -> None:
        """Refuse a source that does not serve these sites; see `Intervention.check`."""
        sites = tuple(sites)
        for part in self.parts:
            part.intervention.check(sites)

    def during(self, steps: Steps) -> "Edit":
        """The same edit, which acts only in some forward passes of a generation. Twice is where both hold.

        Args:
            steps: `mp.steps.prompt`, `mp.steps.generated`, `mp.steps.every(n)`, `mp.steps.when(fn)`, joined with `&`.
        Raises:
            KindError: It is none of them.
        Example:
            >>> from mlx_patch.interventions._scale import Scale
            >>> from mlx_patch.interventions import steps
            >>> Scale(0.5).at("z", layer=3).during(steps.every(2))
            Scale(0.5).at('z', layer=3).during(steps.every(2))
        """
        if not isinstance(steps, Steps):
            raise KindError(f"`steps` must be a choice of steps. Got {steps!r}. Write mp.steps.generated, say.")
        return replace(self, steps=steps if self.steps is None else self.steps & steps)

    def apply(self, activation: mx.array, site: Site, span: Span) -> mx.array | None:
        """The edited activation, a new array; None where none of the positions is in this pass.

        Args:
            activation: With the axes of `site`.
            site: The site that it is.
            span: The positions of this forward pass.
        Raises:
            SelectionError: A position, head, neuron or row that is not there.
            ShapeError: What the intervention gives does not fit.
            KindError: It acts during some steps, and this is no pass of a generation.
        """
        change = self.change(activation, site, span)
        return None if change is None else change.put(activation)

    def change(self, activation: mx.array, site: Site, span: Span) -> ActivationChange | None:
        """What the edit changes of an activation; None where none of its positions is in this pass.

        Args, Raises:
            As of `apply`.
        """
        if self.steps is not None and not self.steps.holds(self._moment(span)):
            return None
        picks = self._picks(activation.shape, site, span)
        if any(pick == () for pick in picks):
            return None
        where = Where(site, activation, picks, span)
        own = where.own()
        return ActivationChange(where, fitted(self.intervention(own, where), own, self.intervention))

    def _moment(self, span: Span) -> Moment:
        refuse_steps(self, span.moment is not None)
        return cast("Moment", span.moment)

    def _picks(self, shape: tuple[int, ...], site: Site, span: Span) -> tuple[Pick, ...]:
        picks: list[Pick] = [None] * len(shape)
        for what in _AXES:
            wanted = getattr(self, what)
            if wanted is None:
                continue
            axis = len(shape) - 1 if what == "neuron" else axis_of(site, what)
            if what == "pos":
                refuse_no_positions(site, shape, span)
                picks[axis] = span.local(wanted)
                continue
            lowest = 1 if what == "neuron" else 0
            if not lowest <= axis < len(shape) or picks[axis] is not None:
                raise SelectionError(f"`{what}` must be None at {site}, whose shape is {shape}. Got {wanted}.")
            picks[axis] = _inside(what, wanted, shape[axis])
        return tuple(picks)

    @override
    def __hash__(self) -> int:  # the one that dataclass makes needs a hashable slice: Python 3.12
        pos = ("slice", self.pos.start, self.pos.stop, self.pos.step) if isinstance(self.pos, slice) else self.pos
        return hash((self.intervention, self.site, self.layer, pos, self.head, self.neuron, self.batch, self.steps))

    @override
    def __repr__(self) -> str:
        chosen = ((f.name, getattr(self, f.name)) for f in fields(self)[2:-1])
        said = "".join(f", {name}={_plain(value)}" for name, value in chosen if value is not None)
        whole = repr(self.intervention)
        during = "" if self.steps is None else f".during({self.steps!r})"
        return f"{f'({whole})' if ' | ' in whole else whole}.at({self.site!r}{said}){during}"


def refuse_steps(edit: Edit, generation: bool) -> None:
    """Refuse an edit of some steps where it is not known what is the prompt and what is generated.

    Raises:
        KindError: It is one.
    """
    if any(part.steps is not None for part in edit.parts) and not generation:
        raise KindError(
            f"`edits` must not say `during` where mlx_patch does not generate. Got {edit!r}. Pass it to "
            "`model.generate`, `model.stream` or `model.generate_with_cache`, which know where the prompt ends."
        )


def make_edit(
    intervention: Transformation,
    site: str | Site,
    *,
    layer: Choice,
    pos: PositionChoice,
    head: Choice,
    neuron: Choice,
    batch: Choice,
) -> Edit:
    """What `Intervention.at` returns: its arguments checked and put in one form."""
    name, layers = _site_and_layers(site, layer)
    template = Site(name, 0) if name in SITES and SITES[name].layered else Site(name)
    chosen = {
        "pos": as_positions(intervention.covers if pos is None else pos),
        "head": _numbers("head", head),
        "neuron": _numbers("neuron", neuron),
        "batch": _numbers("batch", batch),
    }
    for what, wanted in chosen.items():
        if wanted is not None and axis_of(template, what) < 0:
            has = " ".join(template.axes or ("batch", "pos", "..."))
            raise SelectionError(f"`{what}` must be None at {name!r}, whose axes are: {has}. Got {wanted!r}.")
    return Edit(intervention, name, layers, **chosen)


def _site_and_layers(site: str | Site, layer: Choice) -> tuple[str, tuple[int, ...] | None]:
    layers = _numbers("layer", layer)
    if isinstance(site, str) and site in SITES:
        if layers is not None and not SITES[site].layered:
            raise SelectionError(f"`layer` must be None for {site!r}, of which there is one. Got {layer!r}.")
        return site, layers
    parsed = Site.parse(site)
    if layers is not None:
        raise SelectionError(f"`layer` must be None where the site says it ({site}). Got {layer!r}.")
    return parsed.name, None if parsed.layer is None else (parsed.layer,)


def as_positions(pos: PositionChoice) -> tuple[int, ...] | slice | Selector | None:
    """A choice of positions in the form that `Span` takes, once selectors are resolved.

    Raises:
        SelectionError: It is not an int, a slice or a list of ints, or it is empty, names something twice or goes
            backwards.
    """
    if isinstance(pos, Selector):
        return pos
    return _slice(pos) if isinstance(pos, slice) else _numbers("pos", pos)


def _numbers(what: str, given: Choice | slice) -> tuple[int, ...] | None:
    """One int, or some, as a tuple."""
    if given is None:
        return None
    try:
        many = tuple(_int(n) for n in given) if isinstance(given, Iterable) else (_int(given),)
    except TypeError:
        raise SelectionError(f"`{what}` must be an int or a list of ints. Got {given!r}.") from None
    if not many:
        raise SelectionError(f"`{what}` must choose something. Got {given!r}. Leave it out to choose all.")
    if len(set(many)) < len(many):
        raise SelectionError(f"`{what}` must not name anything twice. Got {given!r}.")
    return many


def _int(given: object) -> int:
    """An int that is not a bool: a mask is not a list of indices."""
    if isinstance(given, bool):
        raise TypeError
    return as_int(cast("SupportsIndex", given))


def _slice(pos: slice) -> slice:
    """A slice of ints that goes forward and can hold something."""
    try:
        start, stop, step = (None if n is None else _int(n) for n in (pos.start, pos.stop, pos.step))
    except TypeError:
        raise SelectionError(f"`pos` must be a slice of ints. Got {pos!r}.") from None
    if step is not None and step < 1:
        raise SelectionError(
            f"`pos` must be a slice that goes forward. Got {pos!r}. Turn it round: what it holds is a set."
        )
    backwards = start is not None and stop is not None and (start < 0) == (stop < 0) and start >= stop
    if backwards or stop == 0:
        raise SelectionError(f"`pos` must choose something. Got {pos!r}. Leave it out to choose all.")
    return slice(start, stop, step)


def _inside(what: str, wanted: tuple[int, ...], size: int) -> tuple[int, ...]:
    for n in wanted:
        if not -size <= n < size:
            raise SelectionError(f"`{what}` must lie in {-size} to {size - 1}. Got {n}.")
    absolute = tuple(n % size for n in wanted)
    refuse_repeats(what, wanted, absolute)
    return absolute


def _plain(value: object) -> str:
    if isinstance(value, tuple):
        return repr(value[0]) if len(value) == 1 else repr(value)
    if isinstance(value, slice):
        return f"slice({value.start}, {value.stop}, {value.step})"
    return repr(value)
