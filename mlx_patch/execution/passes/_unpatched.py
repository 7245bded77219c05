"""`UnpatchedRun`: the run without edits, once: its metrics, its past for runs that go on from it, and its stream.

It is run in pieces over a prompt cache where the prompt is long. That takes less memory, and of the last block only
what the metrics read: for the positions before, nothing needs more of it than its keys and values.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import mlx.core as mx
from mlx_lm.models.cache import make_prompt_cache

from mlx_patch.architectures import Layout
from mlx_patch.engine import Frame, Snapshot, cached_arrays, can_truncate, snapshot
from mlx_patch.execution.passes._splitting import split_points
from mlx_patch.execution.readouts import Readout
from mlx_patch.model import capture_hooks, slice_hook
from mlx_patch.sites import Site


@dataclass
class UnpatchedRun:
    """The unedited run of one group of prompts.

    Attributes:
        values: The metrics. Shape `(metric, batch)`.
        first: The first position of which the stream is kept.
        stream: The stream at the sites that were asked for. Shape `(batch, pos - first, d_model)` each.
        logits: At the positions that metrics read, where a pass begins behind one of them. Shape
            `(batch, len(at), d_vocab)`.
        past: What the prompt cache held before each start of a pass.
        token_layers: What was computed.
    """

    values: mx.array
    first: int
    logits: mx.array | None = None
    stream: dict[Site, mx.array] = field(default_factory=dict)
    past: dict[int, Snapshot] = field(default_factory=dict)
    token_layers: int = 0


def run_unpatched(
    layout: Layout, tokens: mx.array, readout: Readout, starts: Sequence[int], sites: Sequence[Site], piece: int
) -> UnpatchedRun:
    """Run the prompts unedited.

    Args:
        layout: The model's layout.
        tokens: Shape `(batch, pos)`.
        readout: What the metrics read.
        starts: The positions at which passes begin; where that is not 0, they need the past.
        sites: Where rows enter whose activation there is the unedited run's.
        piece: Positions that run at once, at most, where the prompt may be split.
    """
    batch, length = tokens.shape
    later = sorted({start for start in starts if start})
    cut = split_points(layout, readout, 0, length, piece)
    caches = make_prompt_cache(layout.model) if later or cut or layout.family.cached else None
    cuttable = caches is not None and can_truncate(caches)
    unpatched = UnpatchedRun(mx.array(0.0), min(starts, default=0))
    read: list[mx.array] = []
    streams: dict[Site, list[mx.array]] = {site: [] for site in sites}
    edges = {0, *cut, length, unpatched.first, *(() if cuttable else later)}
    for begin, end in pairwise(sorted(edges)):
        if begin in later and not cuttable:
            unpatched.past[begin] = snapshot(caches or (), begin, batch)
        kept: dict[Site, mx.array] = {}
        hooks = capture_hooks(layout, sites if begin >= unpatched.first else (), None, kept)
        here = None if readout.at is None else tuple(pos for pos in readout.at if begin <= pos < end)
        logits = _piece(layout, tokens[:, begin:end], hooks, caches, here)
        if here is None or here:
            read.append(logits)
        if end == length:
            whole = mx.concatenate(read, axis=1)
            unpatched.values = readout.measure(whole, length)
            unpatched.logits = whole if max(starts, default=0) > readout.first else None
        mx.eval(kept, cached_arrays(caches), unpatched.values, read)
        unpatched.token_layers += tokens[:, begin:end].size * len(layout.blocks)
        for site, stream in kept.items():
            streams[site].append(stream)
    if cuttable:
        unpatched.past = {start: snapshot(caches or (), start, batch) for start in later}
    unpatched.stream = {site: mx.concatenate(pieces, axis=1) for site, pieces in streams.items()}
    mx.eval(unpatched.stream)
    return unpatched


def _piece(layout: Layout, tokens: mx.array, hooks: list, caches: list[Any] | None, here: tuple[int, ...] | None):
    """The logits of a piece of the prompt, lazily, at the positions that are read there; None is all."""
    if here:
        hooks = [*hooks, slice_hook(layout, here)]
    with Frame(layout.model, hooks):
        return layout.model(tokens, **({} if caches is None else {"cache": caches}))
