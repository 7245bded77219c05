"""Which layout a model is read with. Without a table it is a guess, which stands only if short runs bear it out.

The runs are of a few tokens: nothing that they show is true by construction, and a model of which one thing is not so
is refused.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import mlx.core as mx
import mlx.nn as nn

from mlx_patch.architectures import (
    FAMILIES,
    Family,
    Layout,
    Place,
    Point,
    guessed,
    layout_of,
    refuse_missing_blocks,
    registered_family,
    without_table,
)
from mlx_patch.engine import Action, Frame, Hook, Phase
from mlx_patch.errors import ArchitectureError, PatchError, listed
from mlx_patch.interventions import Replace, Scale
from mlx_patch.model._running import run
from mlx_patch.sites import Site

_SHAPE = (2, 5)
"""Rows and positions of the runs, unlike each other so that their axes are not taken for one another."""

_RAISED = (PatchError, TypeError, ValueError, RuntimeError, AttributeError, LookupError)
"""What a model's own code raises when it is not called as it wants."""


def layout_for(model: nn.Module, family: Family | None = None) -> Layout:
    """The layout of a model: by a given table, by the registered one, or by a guess that held.

    Raises:
        ArchitectureError: There is no table for it, and the guess did not hold; the message says what was not so. Or
            some of its blocks are on other ranks.
    """
    refuse_missing_blocks(model)
    if known := family or registered_family(model):
        return _by_table(model, known)
    guess = layout_of(model, guessed(model))
    if outside := _blocks_outside(guess):
        raise ArchitectureError(without_table(model, outside))
    try:
        sized = _sized(guess)
        broken = next(_broken(sized), None)
    except _RAISED as error:
        raise ArchitectureError(without_table(model, f"in a short run, {_clause(error)}")) from error
    if broken:
        raise ArchitectureError(without_table(model, broken))
    return sized


def _by_table(model: nn.Module, family: Family) -> Layout:
    """The layout by a table; of a part of a model the table does not hold, and the whole is asked for."""
    try:
        return layout_of(model, _with_positions(model, family))
    except ArchitectureError as error:
        if (whole := _whole(model)) is None:
            raise
        raise ArchitectureError(
            f"`model` must be a whole model, with its unembedding. Got {type(model).__name__}, which is a part of "
            f"{whole.__module__}.{whole.__name__}. Pass the model that holds it, which mlx_lm.load returns."
        ) from error


def _whole(model: nn.Module) -> type | None:
    """mlx_lm's class of whole models, where a model is a part of one."""
    whole = getattr(sys.modules.get(type(model).__module__), "Model", None)
    is_part = isinstance(whole, type) and not isinstance(model, whole)
    return whole if is_part and type(model).__module__.startswith("mlx_lm.models.") else None


def _blocks_outside(layout: Layout) -> str:
    """Whether there are modules of the kind of the blocks that are neither among them nor inside one, as a clause."""
    kinds = {type(block) for block in layout.blocks}
    inside = {id(module) for block in layout.blocks for module in block.modules()}
    alike = [(path, module) for path, module in layout.model.named_modules() if type(module) in kinds]
    others = sorted(path for path, module in alike if id(module) not in inside)
    if not others:
        return ""
    return f"its blocks seem to be at {layout.family.blocks!r}, and there are more of their kind: {listed(others)}"


def _clause(error: BaseException) -> str:
    text = next(iter(str(error).splitlines()), "").rstrip(". ")
    return text if isinstance(error, PatchError) else f"it raised {type(error).__name__}: {text}"


@dataclass
class _Walk:
    """What a run came by.

    Attributes:
        order: The numbers of the blocks that were called, in order; of many calls of one block, the first two.
        shapes: The shapes of the arrays that they were given first and that they returned.
    """

    order: list[int] = field(default_factory=list)
    shapes: list[tuple[int, ...]] = field(default_factory=list)

    def hooks(self, layout: Layout) -> Iterator[Hook]:
        """What notes it."""
        for layer, block in enumerate(layout.blocks):
            for call in (0, 1):
                for side in ("input", "output"):
                    place = Place(Site("resid_pre", layer), block, Point("", side, call=call), block)
                    yield Hook(place, self._note(layer, starts=side == "input"), Phase.READ)

    def _note(self, layer: int, starts: bool) -> Action:
        def note(value: mx.array, now: object) -> None:
            self.shapes.append(value.shape)
            if starts:
                self.order.append(layer)

        return note


def _sized(layout: Layout) -> Layout:
    """The layout with the width and the vocabulary that a run has. Nothing is computed: shapes are enough.

    Raises:
        ArchitectureError: The blocks are not called in order, once each, or not with the stream.
    """
    walk, where = _Walk(), f"the modules at {layout.family.blocks!r}"
    logits = Frame(layout.model, walk.hooks(layout)).around(layout.model, mx.zeros(_SHAPE, dtype=mx.int32))
    if walk.order != list(range(len(layout.blocks))):
        got = listed(walk.order) or "none of them"
        raise ArchitectureError(f"{where} must be called in order, once each. Got {got}")
    shapes = sorted({*walk.shapes})
    if len(shapes) > 1 or len(shapes[0]) != 3 or shapes[0][:2] != _SHAPE:
        raise ArchitectureError(f"{where} must take and return arrays (batch, pos, d_model). Got {listed(shapes)}")
    if not isinstance(logits, mx.array) or logits.ndim != 3 or logits.shape[:2] != _SHAPE:
        got = logits.shape if isinstance(logits, mx.array) else type(logits).__name__
        raise ArchitectureError(f"what it returns must be logits (batch, pos, d_vocab). Got {got}")
    family = replace(layout.family, width=shapes[0][-1], vocabulary=logits.shape[-1])
    return layout_of(layout.model, replace(family, positions=learned_positions(layout.model)))


def _with_positions(model: nn.Module, family: Family) -> Family:
    """A table with the number of learned positions, for those that came from elsewhere and may not say it."""
    if family in FAMILIES or family.positions:
        return family
    try:
        learned = learned_positions(model)
    except _RAISED:  # the first run says what is wrong
        return family
    return replace(family, positions=learned) if learned else family


def learned_positions(model: nn.Module) -> int:
    """How many positions a model has learned; 0 if none of its embeddings is given positions.

    A short run of one token again and again tells: what counts up there is no token. Only what embeddings are given is
    computed.
    """
    kinds = (nn.Embedding, nn.QuantizedEmbedding)
    tables = {path: module for path, module in model.named_modules() if isinstance(module, kinds)}
    given: dict[str, mx.array] = {}

    def note(path: str) -> Action:
        def keep(indices: mx.array, now: object) -> None:
            given[path] = indices

        return keep

    places = {path: Place(Site("embed"), table, Point(path, "input", call=0), model) for path, table in tables.items()}
    with Frame(model, [Hook(place, note(path), Phase.READ) for path, place in places.items()]):
        model(mx.zeros(_SHAPE, dtype=mx.int32))
    room = [tables[path].weight.shape[0] - first for path, indices in given.items() if (first := _counts(indices)) >= 0]
    return min(room, default=0)


def _counts(indices: mx.array) -> int:
    """From which number indices count up along the positions, in every row; -1 if they do not."""
    length = _SHAPE[1]
    if indices.size % length:
        return -1
    rows = indices.reshape(-1, length)
    first = int(rows[0, 0])
    return first if mx.array_equal(rows, mx.broadcast_to(mx.arange(first, first + length), rows.shape)).item() else -1


def _broken(layout: Layout) -> Iterator[str]:
    """What is not as it must be, as clauses."""
    rows, length = _SHAPE
    tokens = mx.arange(rows * length).reshape(_SHAPE) % layout.d_vocab
    other = (tokens + max(1, layout.d_vocab // 2)) % layout.d_vocab
    plain = layout.model(tokens)
    own = run(layout, tokens, sites=layout.sites)
    if not _same(own.logits, plain):
        yield "its logits are not the same when its blocks are watched"
    for layer in range(len(layout.blocks) - 1):
        left, entered = Site("resid_post", layer), Site("resid_pre", layer + 1)
        if not _same(own.activations[left], own.activations[entered]):
            yield f"what enters block {layer + 1} is not what leaves block {layer}"
    last = Site("resid_post", len(layout.blocks) - 1)
    donor = run(layout, other, sites=(last,))
    if _same(donor.logits, plain):
        yield "its logits are the same for other tokens, so that nothing can be checked"
    patched = run(layout, tokens, [Replace(donor.activations[last]).at(last)])
    if not _same(patched.logits, donor.logits):
        yield "what leaves its last block does not decide its logits"
    yield from _mixed(layout, tokens, other)


def _mixed(layout: Layout, tokens: mx.array, other: mx.array) -> Iterator[str]:
    """What reads other rows, or reads other positions outside of the blocks, as clauses."""
    first, last = Site("resid_pre", 0), Site("resid_post", len(layout.blocks) - 1)
    own = run(layout, tokens, sites=(first, last))
    row = run(layout, mx.concatenate([tokens[:1], other[1:]], axis=0))
    if not _near(row.logits[:1], own.logits[:1]):
        yield "the logits of a row depend on what other rows hold"
    begun = run(layout, mx.concatenate([other[:, :1], tokens[:, 1:]], axis=1), sites=(first,))
    if not _near(begun.activations[first][:, 1:], own.activations[first][:, 1:]):
        yield "what enters block 0 depends on other positions, so that there are more blocks before it"
    ended = run(layout, tokens, [Scale(0.5).at(last, pos=0)])
    if not _near(ended.logits[:, 1:], own.logits[:, 1:]):
        yield "what follows its last block reads other positions, so that there are more blocks behind it"


def _same(one: mx.array, other: mx.array) -> bool:
    return bool(mx.array_equal(one, other).item())


def _near(one: mx.array, other: mx.array) -> bool:
    """Whether two arrays are the same up to rounding, which may differ where rows are put in another order."""
    size = mx.max(mx.abs(other))
    return bool((mx.max(mx.abs(one - other)) <= mx.finfo(other.dtype).eps ** 0.5 * size).item())
