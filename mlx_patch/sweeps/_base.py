"""`Base`: the unedited run, once: its metrics, its past for what goes on from it, and its stream for rows that enter."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import mlx.core as mx
from mlx_lm.models.cache import make_prompt_cache

from mlx_patch.architectures import Layout
from mlx_patch.engine import Snapshot, arrays_of, can_be_cut, note_offset, snapshot
from mlx_patch.model import run
from mlx_patch.sites import Site
from mlx_patch.sweeps._reading import Reading


@dataclass
class Base:
    """The unedited run of one group of prompts.

    Attributes:
        values: The metrics. Shape `(metric, batch)`.
        first: The first position of which the stream is kept.
        stream: The stream at the sites that were asked for. Shape `(batch, pos - first, d_model)` each.
        past: What the prompt cache held before each start of a pass.
        token_layers: What was computed.
    """

    values: mx.array
    first: int
    stream: dict[Site, mx.array] = field(default_factory=dict)
    past: dict[int, Snapshot] = field(default_factory=dict)
    token_layers: int = 0


def run_base(
    layout: Layout, tokens: mx.array, reading: Reading, starts: Sequence[int], sites: Sequence[Site]
) -> Base:
    """Run the prompts unedited.

    Args:
        layout: The model's layout.
        tokens: Shape `(batch, pos)`.
        reading: What the metrics read.
        starts: The positions at which passes begin; where that is not 0, they need the past.
        sites: Where rows enter whose activation there is the unedited run's.
    """
    batch, length = tokens.shape
    later = sorted({start for start in starts if start})
    first = min(starts, default=0)
    if not later:
        return _whole(layout, tokens, reading, sites)
    caches = make_prompt_cache(layout.model)
    base = Base(mx.array(0.0), first)
    if first:
        _take_in(layout, tokens[:, :first], caches)
    pieces: list[dict[Site, mx.array]] = []
    logits = mx.array(0.0)
    cuttable = can_be_cut(caches)
    edges = [first, *(() if cuttable else later[first in later :]), length]
    for begin, end in pairwise(edges):
        if begin and not cuttable:
            base.past[begin] = snapshot(caches, begin, batch)
        read = reading.at if end == length else (end - 1,)  # no metric reads before the last start
        ran = run(layout, tokens[:, begin:end], sites=tuple(sites), prompt_cache=caches, logits_at=read)
        pieces.append(ran.activations)
        logits = ran.logits
    base.stream = {site: mx.concatenate([piece[site] for piece in pieces], axis=1) for site in sites}
    if cuttable:
        base.past = {start: snapshot(caches, start, batch) for start in later}
    base.values = reading.measure(logits, length)
    base.token_layers = batch * length * len(layout.blocks)
    mx.eval(base.values)
    return base


def _whole(layout: Layout, tokens: mx.array, reading: Reading, sites: Sequence[Site]) -> Base:
    ran = run(layout, tokens, sites=tuple(sites), logits_at=reading.at)
    values = reading.measure(ran.logits, tokens.shape[1])
    mx.eval(values)
    return Base(values, 0, ran.activations, {}, tokens.size * len(layout.blocks))


def _take_in(layout: Layout, tokens: mx.array, caches: list[Any]) -> None:
    """Fill a prompt cache. What only the logits need is never computed."""
    layout.model(tokens, cache=caches)
    note_offset(caches, tokens.shape[1])
    mx.eval(arrays_of(caches))
