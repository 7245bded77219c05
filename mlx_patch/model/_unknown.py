"""The layout of a model. Without a table it is a guess, which is used only if short runs confirm it.

The runs are of a few tokens. Nothing that they check is true by construction, and a model that fails one check is
refused.
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
"""Rows and positions of the runs: different numbers, so that the axes cannot be confused."""

_LOGITS = "what it returns must be logits (batch, pos, d_vocab)"

_RAISED = (PatchError, TypeError, ValueError, RuntimeError, AttributeError, LookupError)
"""Errors that a model's own code raises when it is called in an unsupported way."""


def layout_for(model: nn.Module, family: Family | None = None) -> Layout:
    """The layout of a model: by a given table, by the registered one, or by a guess that was confirmed.

    Raises:
        ArchitectureError: There is no table for it, and a check of the guess failed; the message says which. Or some
            of its blocks are on other ranks.
    """
    refuse_missing_blocks(model)
    if table := family or registered_family(model):
        return _layout_by_table(model, table)
    guess = layout_of(model, guessed(model))
    if problem := _blocks_elsewhere(guess):
        raise ArchitectureError(without_table(model, problem))
    try:
        layout = _measure_sizes(guess)
        problem = next(_failed_checks(layout), None)
    except _RAISED as error:
        raise ArchitectureError(without_table(model, f"in a short run, {_clause(error)}")) from error
    if problem:
        raise ArchitectureError(without_table(model, problem))
    return layout


def _layout_by_table(model: nn.Module, family: Family) -> Layout:
    """The layout by a table. A part of a model, such as one without unembedding, does not fit its table."""
    try:
        return layout_of(model, _with_positions(model, family))
    except ArchitectureError as error:
        model_class = _class_around(model)
        if model_class is None:
            raise
        raise ArchitectureError(
            f"`model` must be a whole model, with its unembedding. Got {type(model).__name__}, which is a part of "
            f"{model_class.__module__}.{model_class.__name__}. Pass the model that mlx_lm.load returns."
        ) from error


def _class_around(model: nn.Module) -> type | None:
    """mlx_lm's class of whole models, if a model is a part of one."""
    module = type(model).__module__
    if not module.startswith("mlx_lm.models."):
        return None
    model_class = getattr(sys.modules.get(module), "Model", None)
    if not isinstance(model_class, type) or isinstance(model, model_class):
        return None
    return model_class


def _blocks_elsewhere(layout: Layout) -> str:
    """A clause that names modules of the blocks' classes that are neither a block nor inside one; "" if none is."""
    classes = {type(block) for block in layout.blocks}
    in_blocks = {id(module) for block in layout.blocks for module in block.modules()}
    paths = []
    for path, module in layout.model.named_modules():
        if type(module) in classes and id(module) not in in_blocks:
            paths.append(path)
    if not paths:
        return ""
    return (
        f"its blocks seem to be at {layout.family.blocks!r}, but there are more modules of that kind: "
        f"{listed(sorted(paths))}"
    )


def _clause(error: BaseException) -> str:
    text = next(iter(str(error).splitlines()), "").rstrip(". ")
    if isinstance(error, PatchError):
        return text
    return f"it raised {type(error).__name__}: {text}"


@dataclass
class _Walk:
    """Record of the calls of blocks in a run.

    Attributes:
        order: The numbers of the blocks that were called, in order; of many calls of a block, the first two.
        shapes: The shapes of their first arguments and of the arrays that they returned.
    """

    order: list[int] = field(default_factory=list)
    shapes: list[tuple[int, ...]] = field(default_factory=list)

    def hooks(self, layout: Layout) -> Iterator[Hook]:
        """The hooks that record."""
        for layer, block in enumerate(layout.blocks):
            for call in (0, 1):
                for side in ("input", "output"):
                    place = Place(Site("resid_pre", layer), block, Point("", side, call=call), block)
                    yield Hook(place, self._note(layer, starts=side == "input"), Phase.READ)

    def _note(self, layer: int, starts: bool) -> Action:
        def note(value: mx.array, forward_pass: object) -> None:
            self.shapes.append(value.shape)
            if starts:
                self.order.append(layer)

        return note


def _measure_sizes(layout: Layout) -> Layout:
    """The layout with the width and the vocabulary of a run. The run is lazy: shapes need no computation.

    Raises:
        ArchitectureError: The blocks are not called in order, once each, or not with the stream.
    """
    walk, where = _Walk(), f"the modules at {layout.family.blocks!r}"
    frame = Frame(layout.model, walk.hooks(layout))
    logits = frame.around(layout.model, mx.zeros(_SHAPE, dtype=mx.int32))
    if walk.order != list(range(len(layout.blocks))):
        order = listed(walk.order) or "none of them"
        raise ArchitectureError(f"{where} must be called in order, once each. Got {order}")
    shapes = sorted(set(walk.shapes))
    if len(shapes) > 1 or not _is_batch(shapes[0]):
        raise ArchitectureError(f"{where} must take and return arrays (batch, pos, d_model). Got {listed(shapes)}")
    if not isinstance(logits, mx.array):
        raise ArchitectureError(f"{_LOGITS}. Got {type(logits).__name__}")
    if not _is_batch(logits.shape):
        raise ArchitectureError(f"{_LOGITS}. Got {logits.shape}")
    family = replace(layout.family, width=shapes[0][-1], vocabulary=logits.shape[-1])
    return layout_of(layout.model, replace(family, positions=learned_positions(layout.model)))


def _is_batch(shape: tuple[int, ...]) -> bool:
    """Whether a shape is that of the runs, with one axis more."""
    return len(shape) == 3 and shape[:2] == _SHAPE


def _with_positions(model: nn.Module, family: Family) -> Family:
    """A table with the number of learned positions, for tables of other packages, which may not say it."""
    if family in FAMILIES or family.positions:
        return family
    try:
        learned = learned_positions(model)
    except _RAISED:  # the first run raises the same, where the caller can see it
        return family
    if not learned:
        return family
    return replace(family, positions=learned)


def learned_positions(model: nn.Module) -> int:
    """How many positions a model has learned; 0 if none of its embeddings is given positions.

    A short run of a repeated token shows it: indices that count up are positions, not tokens. Only the inputs of
    embeddings are computed.
    """
    kinds = (nn.Embedding, nn.QuantizedEmbedding)
    tables = {path: module for path, module in model.named_modules() if isinstance(module, kinds)}
    inputs: dict[str, mx.array] = {}

    def note(path: str) -> Action:
        def note_input(indices: mx.array, forward_pass: object) -> None:
            inputs[path] = indices

        return note_input

    places = {path: Place(Site("embed"), table, Point(path, "input", call=0), model) for path, table in tables.items()}
    with Frame(model, [Hook(place, note(path), Phase.READ) for path, place in places.items()]):
        model(mx.zeros(_SHAPE, dtype=mx.int32))
    n_positions = []
    for path, indices in inputs.items():
        first = _first_position(indices)
        if first is not None:
            n_positions.append(tables[path].weight.shape[0] - first)
    return min(n_positions, default=0)


def _first_position(indices: mx.array) -> int | None:
    """The number from which indices count up along the positions, in every row; None if they do not."""
    length = _SHAPE[1]
    if indices.size % length:
        return None
    rows = indices.reshape(-1, length)
    first = int(rows[0, 0])
    if first < 0 or not _same(rows, mx.broadcast_to(mx.arange(first, first + length), rows.shape)):
        return None
    return first


def _failed_checks(layout: Layout) -> Iterator[str]:
    """The checks of a guess that fail, as clauses."""
    rows, length = _SHAPE
    tokens = mx.arange(rows * length).reshape(_SHAPE) % layout.d_vocab
    other_tokens = (tokens + max(1, layout.d_vocab // 2)) % layout.d_vocab
    unhooked_logits = layout.model(tokens)
    unpatched = run(layout, tokens, sites=layout.sites)
    if not _same(unpatched.logits, unhooked_logits):
        yield "its logits change when its blocks are captured"
    for layer in range(len(layout.blocks) - 1):
        output, next_input = Site("resid_post", layer), Site("resid_pre", layer + 1)
        if not _same(unpatched.activations[output], unpatched.activations[next_input]):
            yield f"what enters block {layer + 1} is not what leaves block {layer}"
    last = Site("resid_post", len(layout.blocks) - 1)
    donor = run(layout, other_tokens, sites=(last,))
    if _same(donor.logits, unhooked_logits):
        yield "its logits do not depend on the tokens, so nothing can be checked"
    patched = run(layout, tokens, [Replace(donor.activations[last]).at(last)])
    if not _same(patched.logits, donor.logits):
        yield "what leaves its last block does not decide its logits"
    yield from _failed_independence(layout, tokens, other_tokens)


def _failed_independence(layout: Layout, tokens: mx.array, other_tokens: mx.array) -> Iterator[str]:
    """The failed checks, as clauses, that rows, and positions outside of the blocks, do not depend on each other."""
    first, last = Site("resid_pre", 0), Site("resid_post", len(layout.blocks) - 1)
    unpatched = run(layout, tokens, sites=(first, last))
    other_row = run(layout, mx.concatenate([tokens[:1], other_tokens[1:]], axis=0))
    if not _near(other_row.logits[:1], unpatched.logits[:1]):
        yield "the logits of a row depend on other rows"
    other_start = run(layout, mx.concatenate([other_tokens[:, :1], tokens[:, 1:]], axis=1), sites=(first,))
    if not _near(other_start.activations[first][:, 1:], unpatched.activations[first][:, 1:]):
        yield "what enters block 0 depends on other positions, so there are more blocks before it"
    edited_end = run(layout, tokens, [Scale(0.5).at(last, pos=0)])
    if not _near(edited_end.logits[:, 1:], unpatched.logits[:, 1:]):
        yield "what follows its last block reads other positions, so there are more blocks after it"


def _same(array: mx.array, reference: mx.array) -> bool:
    return bool(mx.array_equal(array, reference).item())


def _near(array: mx.array, reference: mx.array) -> bool:
    """Whether two arrays are the same up to rounding, which depends on the order of rows."""
    tolerance = mx.finfo(reference.dtype).eps ** 0.5 * mx.max(mx.abs(reference))
    return bool((mx.max(mx.abs(array - reference)) <= tolerance).item())
