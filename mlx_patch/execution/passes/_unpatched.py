"""`UnpatchedRun`: the run without any cell's edits, once: its metrics, its past for later runs, and its stream.

Where the prompt is long, it runs in pieces over a prompt cache. That takes less memory, and of the last block only
what the metrics read: for the positions before, nothing needs more of it than its keys and values.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import mlx.core as mx
from mlx_lm.models.cache import make_prompt_cache

from mlx_patch.architectures import Layout
from mlx_patch.engine import ForwardPass, Hook, Snapshot, cached_arrays, can_truncate, snapshot
from mlx_patch.execution.cells import may_be_cut
from mlx_patch.execution.passes._forward import forward
from mlx_patch.execution.passes._splitting import split_points
from mlx_patch.execution.passes._tasks import FINAL_NORM, UnpatchedTask
from mlx_patch.execution.passes._unchanged import watch_of
from mlx_patch.execution.readouts import Readout
from mlx_patch.interventions import Span
from mlx_patch.model import LogitsOf, capture_hooks, edit_hooks, logits_of_tokens, refuse_unused, slice_hook
from mlx_patch.sites import Site


@dataclass
class UnpatchedRun:
    """The unpatched run of one group of prompts.

    Attributes:
        values: The metrics. Shape `(metric, batch)`.
        first: The first position of which the stream is kept.
        stream: The stream at the sites that were asked for. Shape `(batch, pos - first, d_model)` each.
        logits: At the positions that metrics read, where a pass begins behind one of them. Shape
            `(batch, len(at), d_vocab)`.
        past: What the prompt cache held before each start of a pass.
        token_layers: What was computed.
        unchanged: The numbers of the cells that change nothing.
        logits_of: How passes compute the logits of the tokens that metrics read, where they need no others.
    """

    values: mx.array
    first: int
    logits: mx.array | None = None
    stream: dict[Site, mx.array] = field(default_factory=dict)
    past: dict[int, Snapshot] = field(default_factory=dict)
    token_layers: int = 0
    unchanged: set[int] = field(default_factory=set)
    logits_of: LogitsOf | None = None


def run_unpatched(task: UnpatchedTask) -> UnpatchedRun:
    """Run the prompts of a task with its standing edits alone."""
    layout, tokens, readout, starts = task.layout, task.tokens, task.readout, task.starts
    batch, length = tokens.shape
    later_starts = sorted({start for start in starts if start})
    cuts = split_points(layout, readout, 0, length, task.piece)
    caches = _prompt_cache(layout, needed=bool(later_starts or cuts))
    truncates = caches is not None and can_truncate(caches)
    # A cache that cannot be cut back afterwards is copied when the run gets to each start.
    copied_starts = [] if truncates else later_starts
    edges = _edges(task, cuts, copied_starts)
    unpatched = UnpatchedRun(mx.array(0.0), max(edge for edge in edges if edge <= min(starts, default=0)))
    read_logits: list[mx.array] = []
    normed: dict[Site, mx.array] = {}
    streams: dict[Site, list[mx.array]] = {site: [] for site in task.sites}
    watch = watch_of(layout, task.cells, edges)
    standing_hooks = edit_hooks(layout, task.standing, _span_of(length, in_pieces=len(edges) > 2))
    for begin, end in pairwise(edges):
        if begin in copied_starts:
            unpatched.past[begin] = snapshot(caches or (), begin, batch)
        stream: dict[Site, mx.array] = {}
        hooks: list[Hook] = [*standing_hooks]
        if begin >= unpatched.first:
            hooks += [*capture_hooks(layout, task.sites, None, stream), *watch.hooks(begin, end)]
        positions = _read_between(readout, begin, end)
        if task.read_tokens and positions == readout.at:
            hooks += capture_hooks(layout, (FINAL_NORM,), readout.at, normed)
        if positions:
            hooks = [*hooks, slice_hook(layout, positions)]
        logits = forward(layout, tokens[:, begin:end], hooks, caches)
        if positions is None or positions:
            read_logits.append(logits)
        if end == length:
            _measure(unpatched, task, read_logits)
        mx.eval(stream, normed, cached_arrays(caches), unpatched.values, read_logits, watch.arrays())
        unpatched.token_layers += tokens[:, begin:end].size * len(layout.blocks)
        for site, array in stream.items():
            streams[site].append(array)
    refuse_unused(standing_hooks)
    if truncates:
        unpatched.past = {start: snapshot(caches or (), start, batch) for start in later_starts}
    if normed:
        unpatched.logits_of = logits_of_tokens(layout, task.read_tokens, normed[FINAL_NORM], read_logits[0])
    unpatched.unchanged = watch.unchanged()
    unpatched.stream = _joined(streams)
    mx.eval(unpatched.stream)
    return unpatched


def _edges(task: UnpatchedTask, cuts: Sequence[int], copied_starts: Sequence[int]) -> list[int]:
    """The positions at which the run is cut, with its ends: those that it must, and others if standing edits allow."""
    length = task.tokens.shape[1]
    needed = {0, *copied_starts, length}
    edges = {*needed, *cuts, min(task.starts, default=0)}
    if may_be_cut(task.layout, task.standing, length, sorted(edges - {0, length})):
        return sorted(edges)
    return sorted(needed)


def _span_of(length: int, in_pieces: bool) -> Callable[[ForwardPass], Span]:
    """The span of a forward pass of a prompt of some length."""
    return lambda forward_pass: Span(forward_pass.offset, forward_pass.length, length, pieces=in_pieces)


def _prompt_cache(layout: Layout, needed: bool) -> list[Any] | None:
    """A fresh prompt cache if a run needs one, or the model always has one; else None."""
    if needed or layout.family.cached:
        return make_prompt_cache(layout.model)
    return None


def _read_between(readout: Readout, begin: int, end: int) -> tuple[int, ...] | None:
    """The positions of a piece that metrics read; None is all."""
    if readout.at is None:
        return None
    return tuple(pos for pos in readout.at if begin <= pos < end)


def _measure(unpatched: UnpatchedRun, task: UnpatchedTask, read_logits: list[mx.array]) -> None:
    """Put in the metrics, unevaluated, and the logits where a pass begins behind a position that is read."""
    logits = mx.concatenate(read_logits, axis=1)
    unpatched.values = task.readout.measure(logits, task.tokens.shape[1])
    if max(task.starts, default=0) > task.readout.first:
        unpatched.logits = logits


def _joined(streams: Mapping[Site, list[mx.array]]) -> dict[Site, mx.array]:
    """The stream at each site, of which the pieces were captured one by one."""
    return {site: mx.concatenate(pieces, axis=1) for site, pieces in streams.items()}
