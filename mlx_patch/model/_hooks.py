"""From what a caller asks for, edits and sites, to the hooks that the engine knows."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import product

import mlx.core as mx

from mlx_patch.architectures import Layout, Place, Point, attribute, refuse_parts
from mlx_patch.engine import Action, Box, ForwardPass, Hook, Phase
from mlx_patch.errors import ArchitectureError, EditNotUsedError, KindError, UnknownNameError
from mlx_patch.interventions import (
    Apply,
    Edit,
    PositionChoice,
    Span,
    Where,
    as_positions,
    call_hook,
    pos_axis,
    refuse_steps,
)
from mlx_patch.positions import Selector
from mlx_patch.sites import SITES, Site

SpanOf = Callable[[ForwardPass], Span]
HookFunction = Callable[..., mx.array | None]
"""`fn(activation, site)`; TransformerLens's `fn(activation, hook)` as well."""

SiteChoice = str | Site | Iterable[str | Site] | Callable[[Site], bool]


def whole_prompt(now: ForwardPass) -> Span:
    """The span of a pass that is all that will come: what `run` has."""
    return Span(now.offset, now.length, now.offset + now.length)


def unknown_pieces(now: ForwardPass) -> Span:
    """The span of a pass that somebody else makes: its prompt ends where the pass does, unless there is a cache."""
    return Span(now.offset, now.length, None if now.cached else now.length, pieces=True)


def chosen_sites(layout: Layout, sites: SiteChoice) -> tuple[Site, ...]:
    """The sites that a caller names, each once.

    Raises:
        UnknownNameError, MissingSiteError, SelectionError: A name that is none, or that this model does not have.
    """
    if callable(sites):
        return tuple(site for site in layout.sites if sites(site))
    found: dict[Site, None] = {}
    for one in (sites,) if isinstance(sites, str | Site) else sites:
        found.update(dict.fromkeys(_chosen(layout, one)))
    return tuple(found)


def _chosen(layout: Layout, one: str | Site) -> tuple[Site, ...]:
    if not isinstance(one, str | Site):
        raise UnknownNameError(f"`sites` must hold names or Sites. Got {one!r}.")
    if isinstance(one, str) and one in SITES:
        return layout.select(one, None)
    site = Site.parse(one)
    return layout.select(site.name, None if site.layer is None else (site.layer,))


def edit_hooks(layout: Layout, edits: Iterable[Edit], span_of: SpanOf, generation: bool = False) -> list[Hook]:
    """The hooks that do some edits, in their order. Sources are checked here, before anything runs.

    Raises:
        KindError: Something is not an edit, or acts during some steps where there is no generation.
        UnknownNameError, MissingSiteError, SelectionError, ValueRefusedError: As `Intervention.at` and the sources say.
    """
    actions: list[tuple[Place, Action]] = []
    for edit in as_edits(edits):
        refuse_steps(edit, generation)
        sites = layout.select(edit.site, edit.layer)
        places = [layout.place(site) for site in sites]
        edit.check(sites)
        actions += [(place, _applied(edit, place.site, span_of)) for place in places]
    return action_hooks(layout, actions)


def action_hooks(layout: Layout, actions: Iterable[tuple[Place, Action]]) -> list[Hook]:
    """The hooks that edit some places, with all that carries each edit to whoever reads the same value elsewhere.

    Raises:
        MissingSiteError: Of a sharded model, this rank has only a part of a place.
    """
    edits = [Hook(place, action, Phase.EDIT) for place, action in actions]
    refuse_parts(layout, (edit.place for edit in edits))
    _put_arguments_last(edits)
    hooks = [hook for edit in edits for hook in _with_rejoin(layout, edit)]
    return [*hooks, *_boxing(layout, hooks)]


def _put_arguments_last(edits: Sequence[Hook]) -> None:
    """Let raw paths be edited behind the streams that are carried on past them, whichever cell each edit is of.

    An edit of the stream between mixer and MLP goes on along the skip connection; one of what the MLP's norm is given
    does not, though both are the same array.
    """
    streams = {_event(edit) for edit in edits if edit.place.point.carried or edit.place.point.boxed}
    for edit in edits:
        if edit.place.site.is_raw and _event(edit) in streams:
            edit.phase = Phase.EDIT_ARGUMENT


def _event(hook: Hook) -> tuple[int, str]:
    return id(hook.place.module), hook.event


def _boxing(layout: Layout, hooks: Sequence[Hook]) -> Iterator[Hook]:
    """What puts the stream in a box, and lets those who read it look in, where there are edits between two modules."""
    rule, edited = layout.family.boxing, {id(hook.place.block): hook.place for hook in hooks if hook.place.point.boxed}
    if rule is None or not edited:
        return
    blocks = {id(block): block for block in layout.blocks if rule.whole or id(block) in edited}
    site = next(iter(edited.values())).site
    for holder in (layout.model,) if rule.whole else blocks.values():
        yield Hook(Place(site, attribute(holder, rule.start.path), rule.start, holder), _boxed, Phase.BOX)
    for block, path, call in product(blocks.values(), rule.readers, range(layout.times)):
        point = Point(path, "input", call=call)
        yield Hook(Place(site, attribute(block, path), point, block), _nothing, Phase.READ)
    if rule.whole:
        norm = layout.final_norm
        yield Hook(Place(site, attribute(layout.model, norm), Point(norm, "input"), layout.model), _nothing, Phase.READ)


def _boxed(value: mx.array, now: ForwardPass) -> Box:
    return Box(value)


def _nothing(value: mx.array, now: ForwardPass) -> None:
    """Reads nothing; what reads a box needs a hook to be given what is in it."""


def function_edits(functions: Iterable[tuple[str | Site, HookFunction]]) -> list[Edit]:
    """The edits that plain functions make; where one returns None the activation stays."""
    return [Apply(_kept_on_none(function), name=_name(function)).at(site) for site, function in functions]


def _kept_on_none(function: HookFunction) -> Callable[[mx.array, Site], mx.array]:
    def apply(activation: mx.array, site: Site) -> mx.array:
        new = call_hook(function, activation, site)
        return activation if new is None else new  # with what it wrote into it, as in TransformerLens

    return apply


def _name(function: HookFunction) -> str:
    return getattr(function, "__name__", repr(function))


def as_edits(edits: Iterable[Edit]) -> tuple[Edit, ...]:
    """One edit, or several, as a tuple.

    Raises:
        KindError: Something is not an edit.
    """
    many = (edits,) if isinstance(edits, Edit) else tuple(edits)
    for edit in many:
        if not isinstance(edit, Edit):
            raise KindError(
                f"`edits` must hold edits, which `.at(...)` makes. Got {edit!r}. "
                "Write mp.Ablate('zero').at('z', layer=3), say."
            )
    return many


def _applied(edit: Edit, site: Site, span_of: SpanOf) -> Action:
    return lambda value, now: edit.apply(value, site, span_of(now))


def _with_rejoin(layout: Layout, edit: Hook) -> list[Hook]:
    """An edit, and what carries it past the module that it was made before.

    The stream between mixer and MLP is read at the MLP's norm, and goes on along the skip connection, which no module
    computes. So the block's output is made again: the edited stream plus what the MLP adds, the sum that the block's
    own code ends with.
    """
    carried, site = edit.place.point.carried, edit.place.site
    if carried is None:
        return [edit]
    kept: dict[str, mx.array] = {}
    rule, end = layout.family.stream, layout.place(Site("resid_post", site.layer))
    added = layout.place(Site(carried, site.layer))

    def keep(name: str) -> Action:
        return lambda value, now: kept.update({name: value})

    def rejoined(value: mx.array, now: ForwardPass) -> mx.array:
        if not {"stream", "added"} <= kept.keys():
            raise ArchitectureError(
                f"`family` must have {site} and {added.site} before {end.site}. Got a table by which they come after."
            )
        return rule.post(**kept, block=end.block)

    hooks = [
        edit,
        Hook(edit.place, keep("stream"), Phase.CARRY),
        Hook(added, keep("added"), Phase.READ),
        Hook(end, rejoined, Phase.REJOIN),
    ]
    for path in rule.readers:
        if place := layout.inner(site, path, "input"):
            hooks.append(Hook(place, lambda value, now: kept["stream"], Phase.REJOIN))
    if place := layout.inner(site, rule.last, "input"):
        hooks.append(Hook(place, lambda value, now: kept["stream"] + kept["added"], Phase.REJOIN))
    if place := layout.inner(site, rule.more, "output"):
        hooks.append(Hook(place, keep("more"), Phase.READ))
    return hooks


def capture_hooks(layout: Layout, sites: Iterable[Site], pos: PositionChoice, into: dict[Site, mx.array]) -> list[Hook]:
    """The hooks that keep what stands at some sites, at all positions or at some.

    What is kept is contiguous, and so does not hold on to the larger array that it may be a part of.

    Raises:
        MissingSiteError: Of a sharded model, this rank has only a part of a site.
    """
    chosen = as_positions(pos)

    def kept(site: Site) -> Action:
        def keep(value: mx.array, now: ForwardPass) -> None:
            into[site] = mx.contiguous(_at(chosen, value, site, now))

        return keep

    places = {site: layout.place(site) for site in sites}
    refuse_parts(layout, places.values())
    return [Hook(place, kept(site), Phase.CAPTURE) for site, place in places.items()]


def slice_hook(layout: Layout, logits_at: PositionChoice) -> Hook:
    """The hook that lets only some positions through to the unembedding; where that is unknown, out of the model."""
    chosen, site = as_positions(logits_at), Site("final_norm")
    known = layout.family.final_norm is not None
    place = layout.place(site) if known else Place(site, layout.model, Point("", "output"), layout.model)
    return Hook(place, lambda value, now: _at(chosen, value, site, now), Phase.SLICE)


def _at(pos: tuple[int, ...] | slice | Selector | None, value: mx.array, site: Site, now: ForwardPass) -> mx.array:
    """The rows of a site's array at some positions."""
    if pos is None:
        return value
    span = whole_prompt(now)
    local, along = span.local(pos), pos_axis(site)
    picks = tuple(local if axis == along else None for axis in range(value.ndim))
    return Where(site, value, picks, span).own()


def refuse_unused(hooks: Sequence[Hook]) -> None:
    """Raise if a hook was never met, or an edit never acted.

    Raises:
        EditNotUsedError: The message names the place and the reason.
    """
    for hook in hooks:
        if hook.met == 0:
            raise EditNotUsedError(
                f"`{hook.place.site}` must come to pass in a run to be read or edited. It did not: "
                f"{_named(hook.place)} was not called. Choose a module that runs."
            )
        if hook.phase in (Phase.EDIT, Phase.EDIT_ARGUMENT) and hook.acted == 0:
            raise EditNotUsedError(
                f"`edits` must each act. The edit at {hook.place.site} did not: none of its positions was computed, "
                "or none of its steps came. Choose positions of this prompt, or leave `pos` and `during` out."
            )


def _named(place: Place) -> str:
    return f"the module at {place.point.path!r}" if place.point.path else "the block"
