"""Hooks of the engine, from the edits and sites of a caller."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import product
from typing import Any, NoReturn

import mlx.core as mx
import mlx.nn as nn

from mlx_patch import arguments
from mlx_patch.architectures import Layout, Place, Point, attribute_at, refuse_parts
from mlx_patch.engine import Action, Box, ForwardPass, Hook, Phase
from mlx_patch.errors import ArchitectureError, EditNotUsedError, KindError, UnknownNameError, shown
from mlx_patch.interventions import (
    Apply,
    Edit,
    Edits,
    Path,
    PositionChoice,
    Span,
    Where,
    as_positions,
    call_hook,
    pos_axis,
    refuse_steps,
)
from mlx_patch.positions import Selector
from mlx_patch.sites import SITES, Site, short_name

SpanOf = Callable[[ForwardPass], Span]
HookFunction = Callable[..., mx.array | None]
"""`fn(activation, site)`; TransformerLens's `fn(activation, hook)` as well."""

SiteChoice = str | Site | Iterable[str | Site] | Callable[[Site], bool]


def whole_prompt(forward_pass: ForwardPass) -> Span:
    """The span of a pass that ends the prompt, with no pass after it: that of `run`."""
    return Span(forward_pass.offset, forward_pass.length, forward_pass.offset + forward_pass.length)


def unknown_pieces(forward_pass: ForwardPass) -> Span:
    """The span of a pass of other code than `run`. Its prompt ends where the pass does, unless there is a cache."""
    prompt = forward_pass.length
    if forward_pass.cached:
        prompt = None
    return Span(forward_pass.offset, forward_pass.length, prompt, pieces=True)


def chosen_sites(layout: Layout, sites: SiteChoice) -> tuple[Site, ...]:
    """The sites that a caller names, without duplicates.

    Raises:
        UnknownNameError, MissingSiteError, SelectionError: A name that is none, or that this model does not have.
    """
    if callable(sites) and not isinstance(sites, type):
        return tuple(site for site in layout.sites if sites(site))
    if isinstance(sites, str) and sites == "all":
        return layout.sites
    if isinstance(sites, str | Site):
        return tuple(dict.fromkeys(_select_sites(layout, sites)))
    chosen: dict[Site, None] = {}
    for name in arguments.entries("sites", sites, "names or Sites"):
        chosen.update(dict.fromkeys(_select_sites(layout, name)))
    return tuple(chosen)


def _select_sites(layout: Layout, name: str | Site) -> tuple[Site, ...]:
    if not isinstance(name, str | Site):
        raise UnknownNameError(f"`sites` must hold names or Sites. Got {shown(name)}.")
    if isinstance(name, str) and short_name(name) in SITES:
        return layout.select(short_name(name), None)
    site = Site.parse(name)
    if site.layer is None:
        return layout.select(site.name, None)
    return layout.select(site.name, (site.layer,))


def edit_hooks(layout: Layout, edits: Iterable[Edit], span_of: SpanOf, generation: bool = False) -> list[Hook]:
    """The hooks of some edits, in order. Sources are checked here, before anything runs.

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
        actions += [(place, _action_of(edit, place.site, span_of)) for place in places]
    return action_hooks(layout, actions)


def action_hooks(layout: Layout, actions: Iterable[tuple[Place, Action]]) -> list[Hook]:
    """The hooks that edit some places, and those that carry each edit to other readers of the same value.

    Raises:
        MissingSiteError: The model is sharded, and this rank has only a part of a place.
    """
    edits = [Hook(place, action, Phase.EDIT) for place, action in actions]
    refuse_parts(layout, (edit.place for edit in edits))
    _put_arguments_last(edits)
    hooks = [hook for edit in edits for hook in _with_rejoin(layout, edit)]
    return [*hooks, *_box_hooks(layout, hooks)]


def _put_arguments_last(edits: Sequence[Hook]) -> None:
    """Make edits at raw paths act after edits of the stream at the same place.

    An edit of the stream between mixer and MLP continues along the skip connection; an edit of the input of the MLP's
    norm does not, though both are the same array.
    """
    streams: set[tuple[int, str]] = set()
    for edit in edits:
        point = edit.place.point
        if point.carried or point.boxed:
            streams.add(_event(edit))
    for edit in edits:
        if edit.place.site.is_raw and _event(edit) in streams:
            edit.phase = Phase.EDIT_ARGUMENT


def _event(hook: Hook) -> tuple[int, str]:
    return id(hook.place.module), hook.event


def _box_hooks(layout: Layout, hooks: Sequence[Hook]) -> Iterator[Hook]:
    """The hooks that put the stream in a box and unpack it for its readers, where edits are between two modules."""
    rule = layout.family.boxing
    edited = {id(hook.place.block): hook.place for hook in hooks if hook.place.point.boxed}
    if rule is None or not edited:
        return
    site = next(iter(edited.values())).site
    blocks = _unique(block for block in layout.blocks if rule.whole or id(block) in edited)
    holders = blocks
    if rule.whole:
        holders = [layout.model]
    for holder in holders:
        yield Hook(Place(site, attribute_at(holder, rule.start.path), rule.start, holder), _put_in_box, Phase.BOX)
    for block, path, call in product(blocks, rule.readers, range(layout.times)):
        yield _read_hook(site, block, Point(path, "input", call=call))
    if rule.whole:
        yield _read_hook(site, layout.model, Point(layout.final_norm, "input"))


def _unique(blocks: Iterable[nn.Module]) -> list[nn.Module]:
    """The blocks without duplicates: a model that loops has each block several times."""
    return list({id(block): block for block in blocks}.values())


def _read_hook(site: Site, holder: nn.Module, point: Point) -> Hook:
    return Hook(Place(site, attribute_at(holder, point.path), point, holder), _read_nothing, Phase.READ)


def _put_in_box(value: mx.array, forward_pass: ForwardPass) -> Box:
    return Box(value)


def _read_nothing(value: mx.array, forward_pass: ForwardPass) -> None:
    """Do nothing. A module that reads a box needs some hook, so that the engine unpacks the box for it."""


def function_edits(functions: Iterable[tuple[str | Site, HookFunction]]) -> list[Edit]:
    """The edits that plain functions make. A function that returns None leaves the activation as it is."""
    edits = []
    for pair in arguments.entries("fwd_hooks", functions, "a list of (site, function)"):
        site, function = _checked_hook(pair)
        name = getattr(function, "__name__", repr(function))
        edits.append(Apply(_keep_on_none(function), name=name).at(site))
    return edits


def _checked_hook(pair: Any) -> tuple[str | Site, HookFunction]:
    if not isinstance(pair, list | tuple) or len(pair) != 2:
        raise KindError(f"`fwd_hooks` must be a list of (site, function). Got {shown(pair)} in it.")
    site, function = pair
    if not isinstance(site, str | Site):
        raise KindError(f"`fwd_hooks` must be a list of (site, function). Got {shown(pair)} in it.")
    return site, arguments.function("fwd_hooks", function, "a list of (site, function)")


def _keep_on_none(function: HookFunction) -> Callable[[mx.array, Site], mx.array]:
    def apply(activation: mx.array, site: Site) -> mx.array:
        edited = call_hook(function, activation, site)
        if edited is None:
            return activation  # with what the function wrote into it, as in TransformerLens
        return edited

    return apply


def as_edits(edits: Iterable[Edit]) -> tuple[Edit, ...]:
    """One edit, or several, as a tuple.

    Raises:
        KindError: Something is not an edit.
    """
    if isinstance(edits, Edit):
        return (edits,)
    if isinstance(edits, Path):
        _refuse_path(edits)
    listed: list[Edit] = []
    for member in arguments.entries("edits", edits, "an edit, or a list of edits", "Write mp.Ablate('zero').at('z')."):
        if isinstance(member, Edits):
            listed += member
        else:
            listed.append(member)
    for edit in listed:
        if isinstance(edit, Path):
            _refuse_path(edit)
        if not isinstance(edit, Edit):
            raise KindError(
                f"`edits` must hold edits, which `.at(...)` makes. Got {shown(edit)}. "
                "Write mp.Ablate('zero').at('z', layer=3), say."
            )
    if type(edits) is tuple and list(map(id, edits)) == list(map(id, listed)):
        return edits  # itself, so that prompts with the same edits are seen to share them
    return tuple(listed)


def _refuse_path(path: Path) -> NoReturn:
    raise KindError(
        f"`edits` must hold edits, and no paths. Got {shown(path)}. Sweep it, or make edits of it for these tokens: "
        "mp.paths.edits_of(model, tokens, path)."
    )


def _action_of(edit: Edit, site: Site, span_of: SpanOf) -> Action:
    return lambda value, forward_pass: edit.apply(value, site, span_of(forward_pass))


def _with_rejoin(layout: Layout, edit: Hook) -> list[Hook]:
    """An edit, and the hooks that carry it past the module whose input it edits.

    The stream between mixer and MLP is read at the MLP's norm, and continues along the skip connection, which no module
    computes. So the block's output is computed again: the edited stream plus the MLP's output, the sum at the end of
    the block's own code.
    """
    carried, site = edit.place.point.carried, edit.place.site
    if carried is None:
        return [edit]
    terms: dict[str, mx.array] = {}  # filled during the run, with the names of the arguments of `Stream.post`
    rule = layout.family.stream
    end = layout.place(Site("resid_post", site.layer))
    added = layout.place(Site(carried, site.layer))

    def note(name: str) -> Action:
        return lambda value, forward_pass: terms.update({name: value})

    def rejoin(value: mx.array, forward_pass: ForwardPass) -> mx.array:
        if not {"stream", "added"} <= terms.keys():
            raise ArchitectureError(
                f"`family` must have {site} and {added.site} before {end.site}. Got a table where they come after it."
            )
        return rule.post(**terms, block=end.block)

    hooks = [
        edit,
        Hook(edit.place, note("stream"), Phase.CARRY),
        Hook(added, note("added"), Phase.READ),
        Hook(end, rejoin, Phase.REJOIN),
    ]
    for path in rule.readers:
        if place := layout.inner(site, path, "input"):
            hooks.append(Hook(place, lambda value, forward_pass: terms["stream"], Phase.REJOIN))
    if place := layout.inner(site, rule.last, "input"):
        hooks.append(Hook(place, lambda value, forward_pass: terms["stream"] + terms["added"], Phase.REJOIN))
    if place := layout.inner(site, rule.more, "output"):
        hooks.append(Hook(place, note("more"), Phase.READ))
    return hooks


def capture_hooks(layout: Layout, sites: Iterable[Site], pos: PositionChoice, into: dict[Site, mx.array]) -> list[Hook]:
    """The hooks that write the activations at some sites, at some positions or at all, into a dictionary.

    Captures are contiguous, so that they do not keep the larger array alive of which they may be a part.

    Raises:
        MissingSiteError: The model is sharded, and this rank has only a part of a site.
    """
    positions = as_positions(pos)

    def capture_into(site: Site) -> Action:
        def capture(value: mx.array, forward_pass: ForwardPass) -> None:
            into[site] = mx.contiguous(_slice_pass(value, site, positions, forward_pass))

        return capture

    places = {site: layout.place(site) for site in sites}
    refuse_parts(layout, places.values())
    return [Hook(place, capture_into(site), Phase.CAPTURE) for site, place in places.items()]


def slice_hook(layout: Layout, logits_at: PositionChoice) -> Hook:
    """The hook that lets only some positions through to the unembedding; where that is unknown, out of the model."""
    positions, site = as_positions(logits_at), Site("final_norm")
    if layout.family.final_norm is not None:
        place = layout.place(site)
    else:
        place = Place(site, layout.model, Point("", "output"), layout.model)
    return Hook(place, lambda value, forward_pass: _slice_pass(value, site, positions, forward_pass), Phase.SLICE)


def _slice_pass(
    value: mx.array, site: Site, pos: tuple[int, ...] | slice | Selector | None, forward_pass: ForwardPass
) -> mx.array:
    """The part of a site's array at some positions of a pass over a whole prompt."""
    if pos is None:
        return value
    span = whole_prompt(forward_pass)
    return at_positions(value, site, span, span.local(pos))


def at_positions(value: mx.array, site: Site, span: Span, indices: tuple[int, ...]) -> mx.array:
    """The part of a site's array at some indices along its position axis."""
    picks: list[tuple[int, ...] | None] = [None] * value.ndim
    picks[pos_axis(site)] = indices
    return Where(site, value, tuple(picks), span).own()


def refuse_unused(hooks: Sequence[Hook]) -> None:
    """Raise if a hook was never reached, or an edit never acted.

    Raises:
        EditNotUsedError: The message names the place and the reason.
    """
    for hook in hooks:
        if hook.met == 0:
            raise EditNotUsedError(
                f"`{hook.place.site}` must be computed in a run to be read or edited. It was not: "
                f"{_module_at(hook.place)} was not called. Choose a module that runs."
            )
        if hook.phase in (Phase.EDIT, Phase.EDIT_ARGUMENT) and hook.acted == 0:
            raise EditNotUsedError(
                f"`edits` must each act. The edit at {hook.place.site} did not: none of its positions was computed, "
                "or none of its steps came. Choose positions of this prompt, or leave `pos` and `during` out."
            )


def _module_at(place: Place) -> str:
    if not place.point.path:
        return "the block"
    return f"the module at {place.point.path!r}"
