"""`Edit`: an intervention at a place, made by `Intervention.at` and taken by `HookedModel.run`."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Protocol, cast, runtime_checkable

import mlx.core as mx
from typing_extensions import override

from mlx_patch import arguments
from mlx_patch.errors import KindError, SelectionError, shown
from mlx_patch.interventions._fitted import fitted
from mlx_patch.interventions._moment import Moment
from mlx_patch.interventions._span import Span, refuse_repeats
from mlx_patch.interventions._steps import Steps
from mlx_patch.interventions._where import ActivationChange, Pick, Where, axis_of, refuse_no_positions
from mlx_patch.interventions.receivers import Path, Receiver, receivers_of
from mlx_patch.positions import Alignment, Selector
from mlx_patch.sites import SITES, Site, short_name

Choice = int | Sequence[int] | range | None
PositionChoice = int | Sequence[int] | range | slice | Selector | None

_AXES = ("batch", "pos", "head", "neuron", "key")


@runtime_checkable
class Transformation(Protocol):
    """The interface that an edit needs of its intervention; the class `Intervention` itself builds on `Edit`."""

    def __call__(self, own: mx.array, where: Where) -> mx.array:
        """The new values of the picked part."""
        ...

    @property
    def by_position(self) -> bool:
        """Whether its result for some positions depends on these alone."""
        ...

    @property
    def by_row(self) -> bool:
        """Whether its result for a row of the batch depends on that row alone."""
        ...

    @property
    def in_pieces(self) -> bool:
        """Whether an edit without `pos` may be made piece by piece."""
        ...

    @property
    def overwrites(self) -> bool:
        """Whether the result ignores the old activation."""
        ...

    @property
    def elementwise(self) -> bool:
        """Whether each entry of its result depends on the same entry alone."""
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
        key: PositionChoice = None,
    ) -> "Edit":
        """The same intervention at another place."""
        ...


@dataclass(frozen=True, repr=False)
class Edit:
    """An intervention and the part of the model's activations that it acts on. Made by `Intervention.at`.

    Attributes:
        intervention: The intervention.
        site: The short name of a site, or a raw module path with a side.
        layer: Blocks; None is every block that has the site. Always None for sites without a layer.
        pos: Absolute positions or a slice of them, or a selector that a run resolves; None is all.
        head: Heads; None is all.
        neuron: Indices along the last axis; None is all.
        batch: Rows of the batch; None is all.
        key: Key positions of scores and patterns, chosen as `pos` is; None is all.
        steps: When it acts in a generation; None is always. `during` gives it.
    """

    intervention: Transformation
    site: str
    layer: tuple[int, ...] | None = None
    pos: tuple[int, ...] | slice | Selector | None = None
    head: tuple[int, ...] | None = None
    neuron: tuple[int, ...] | None = None
    batch: tuple[int, ...] | None = None
    key: tuple[int, ...] | slice | Selector | None = None
    steps: Steps | None = None

    @property
    def parts(self) -> "tuple[Edit, ...]":
        """The edits that this one consists of, where rows of the batch have edits of their own; else itself."""
        return (self,)

    def check(self, sites: Iterable[Site]) -> None:
        """Refuse a source that does not serve these sites; see `Intervention.check`."""
        sites = tuple(sites)
        for edit in self.parts:
            edit.intervention.check(sites)

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
            raise KindError(f"`steps` must be a choice of steps. Got {shown(steps)}. Write mp.steps.generated, say.")
        if self.steps is not None:
            steps = self.steps & steps
        return replace(self, steps=steps)

    def via(self, receiver: str | Receiver | Iterable[Receiver], layer: Choice = None, head: Choice = None) -> Path:
        """The path from this edit, the sender, into a receiver: what of the edit reaches it directly.

        Args:
            receiver: "q", "k", "v", "mlp", "mixer", "router" or "logits"; or `Receiver` values, which all receive.
            layer: The receiver's block; several receive together. None for "logits".
            head: Of "q", "k" and "v"; of the last two real KV heads. None is all.
        Returns:
            A path. `mp.sweep` takes it as a cell; `mp.paths.edits_of` makes edits of it.
        Raises:
            UnknownNameError: There is no such receiver.
            SelectionError: It has no layer, or has heads or a layer that it cannot have.
            KindError: It is no receiver.
        Source:
            Wang et al. 2022, https://arxiv.org/abs/2211.00593, section 3.1; Goldowsky-Dill et al. 2023,
            https://arxiv.org/abs/2304.05969, section 2.
        Example:
            >>> from mlx_patch.interventions._scale import Scale
            >>> Scale(0.5).at("z", layer=3, head=1).via("q", layer=5, head=0)
            Scale(0.5).at('z', layer=3, head=1).via('q', layer=5, head=0)
        """
        return Path(self, receivers_of(receiver, layer, head))

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
        """The change that the edit makes to an activation; None where none of its positions is in this pass.

        Args, Raises:
            As of `apply`.
        """
        if self.steps is not None and not self.steps.holds(self._moment(span)):
            return None
        picks = self.picks(activation.shape, site, span)
        if any(pick == () for pick in picks):
            return None
        where = Where(site, activation, picks, span)
        own = where.own()
        return ActivationChange(where, fitted(self.intervention(own, where), own, self.intervention))

    def _moment(self, span: Span) -> Moment:
        refuse_steps(self, span.moment is not None)
        return cast("Moment", span.moment)

    def picks(self, shape: tuple[int, ...], site: Site, span: Span) -> tuple[Pick, ...]:
        """The indices along each axis of an activation that the edit acts on; None is all of them.

        Args:
            shape: The shape of the activation.
            site: The site that it is.
            span: The positions of this forward pass.
        Raises:
            SelectionError: A position, head, neuron or row that is not there.
        """
        picks: list[Pick] = [None] * len(shape)
        for name in _AXES:
            choice = getattr(self, name)
            if choice is None:
                continue
            if name == "pos":
                refuse_no_positions(site, shape, span)
                picks[axis_of(site, name)] = span.local(choice)
                continue
            if name == "key":
                picks[axis_of(site, name)] = span.keys(choice, shape[-1])
                continue
            if name == "neuron":  # the last axis, which must not be the batch's
                axis, lowest = len(shape) - 1, 1
            else:
                axis, lowest = axis_of(site, name), 0
            if not lowest <= axis < len(shape) or picks[axis] is not None:
                raise SelectionError(f"`{name}` must be None at {site}, whose shape is {shape}. Got {choice}.")
            picks[axis] = _resolve_indices(name, choice, shape[axis])
        return tuple(picks)

    @override
    def __hash__(self) -> int:  # the one that dataclass makes needs a hashable slice: Python 3.12
        pos, key = map(_hashable, (self.pos, self.key))
        places = (self.layer, pos, self.head, self.neuron, self.batch, key)
        return hash((self.intervention, self.site, places, self.steps))

    @override
    def __repr__(self) -> str:
        text = repr(self.intervention)
        if " | " in text:
            text = f"({text})"
        arguments = repr(self.site)
        for field in fields(self)[2:-1]:
            choice = getattr(self, field.name)
            if choice is not None:
                arguments += f", {field.name}={_format_choice(choice)}"
        text = f"{text}.at({arguments})"
        if self.steps is not None:
            text += f".during({self.steps!r})"
        return text


def refuse_steps(edit: Edit, generation: bool) -> None:
    """Refuse an edit of some steps where prompt and generated tokens cannot be told apart.

    Raises:
        KindError: It is one.
    """
    if any(member.steps is not None for member in edit.parts) and not generation:
        raise KindError(
            f"`edits` must not use `during` unless mlx_patch generates the text. Got {shown(edit)}. Pass it to "
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
    key: PositionChoice = None,
) -> Edit:
    """An edit of checked arguments in one form, as `Intervention.at` returns it."""
    name, layers = _site_and_layers(site, layer)
    if pos is None:
        pos = intervention.covers
    choices = {
        "pos": as_positions(pos),
        "head": arguments.chosen_numbers("head", head),
        "neuron": arguments.chosen_numbers("neuron", neuron),
        "batch": arguments.chosen_numbers("batch", batch),
        "key": as_positions(key, "key"),
    }
    is_layered = name in SITES and SITES[name].layered
    template = Site(name, 0) if is_layered else Site(name)
    for axis_name, choice in choices.items():
        if choice is not None and axis_of(template, axis_name) < 0:
            axes = " ".join(template.axes or ("batch", "pos", "..."))
            raise SelectionError(
                f"`{axis_name}` must be None at {name!r}, whose axes are: {axes}. Got {shown(choice)}."
            )
    return Edit(intervention, name, layers, **choices)


def _site_and_layers(site: str | Site, layer: Choice) -> tuple[str, tuple[int, ...] | None]:
    layers = arguments.chosen_numbers("layer", layer)
    if isinstance(site, str):
        site = short_name(str(site))
    if isinstance(site, str) and site in SITES:
        if layers is not None and not SITES[site].layered:
            raise SelectionError(f"`layer` must be None for {site!r}, which the model has once. Got {shown(layer)}.")
        return site, layers
    parsed = Site.parse(site)
    if layers is not None:
        raise SelectionError(f"`layer` must be None if the site names it ({site}). Got {shown(layer)}.")
    if parsed.layer is None:
        return parsed.name, None
    return parsed.name, (parsed.layer,)


def as_positions(pos: PositionChoice, name: str = "pos") -> tuple[int, ...] | slice | Selector | None:
    """A choice of positions in the form that `Span` takes, once selectors are resolved.

    Args:
        pos: The choice.
        name: What the caller's argument is called.

    Raises:
        SelectionError: It is not an int, a slice or a list of ints, or it is empty, names something twice or goes
            backwards.
    """
    if isinstance(pos, Selector):
        return pos
    if isinstance(pos, slice):
        return _slice(pos, name)
    return arguments.chosen_numbers(name, pos)


def _slice(pos: slice, name: str) -> slice:
    """A slice of ints that goes forward and can hold something."""
    whole = arguments.checked_slice(name, pos)
    start, stop, step = whole.start, whole.stop, whole.step
    if step is not None and step < 1:
        raise SelectionError(
            f"`{name}` must be a slice that goes forward. Got {shown(pos)}. Reverse it: the order has no effect."
        )
    backwards = start is not None and stop is not None and (start < 0) == (stop < 0) and start >= stop
    if backwards or stop == 0:
        raise SelectionError(f"`{name}` must choose something. Got {shown(pos)}. Leave it out to choose all.")
    return slice(start, stop, step)


def _resolve_indices(name: str, choice: tuple[int, ...], size: int) -> tuple[int, ...]:
    """Indices from 0 along an axis of this size, where negative ones count from its end."""
    for index in choice:
        if not -size <= index < size:
            raise SelectionError(f"`{name}` must lie in {-size} to {size - 1}. Got {index}.")
    absolute = tuple(index % size for index in choice)
    refuse_repeats(name, choice, absolute)
    return absolute


def _hashable(choice: object) -> object:
    """A choice that has a hash: slices have none before Python 3.12."""
    if isinstance(choice, slice):
        return ("slice", choice.start, choice.stop, choice.step)
    return choice


def _format_choice(choice: object) -> str:
    if isinstance(choice, tuple) and len(choice) == 1:
        return repr(choice[0])
    if isinstance(choice, slice):
        return f"slice({choice.start}, {choice.stop}, {choice.step})"
    return repr(choice)
