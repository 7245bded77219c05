"""The list of seeded faults of sweeps. Each must turn law 8 red, where it says."""

from dataclasses import replace

import mlx.core as mx
import pytest
from faults import Fault

from mlx_patch import HookedModel
from mlx_patch.architectures import Layout
from mlx_patch.engine import Shared, Snapshot, _recipes, _shared_past, _snapshot, cached_arrays
from mlx_patch.errors import PatchError
from mlx_patch.execution import _execute
from mlx_patch.execution.cells import cell_of
from mlx_patch.execution.passes import CellRows, PassRun, _pass_run, _unpatched
from mlx_patch.execution.plan import make_plan
from mlx_patch.execution.readouts import Readout
from mlx_patch.laws import bench_of
from mlx_patch.sites import Site
from mlx_patch.sweeps import _experiment
from mlx_patch.testing import exact_sweeps, tiny_model

run, act, edited = PassRun.run, CellRows.act, CellRows.apply_edit
snapshot, opened, attend_shared, slice_hook = (
    _snapshot.snapshot,
    Snapshot.opened,
    _shared_past.attend_shared,
    _pass_run.slice_hook,
)
unpatched_stream = PassRun._unpatched_stream


def rows_exchanged(self, base, reading, grow):
    return run(self, base, reading, grow)[::-1]


def examples_exchanged(self, base, reading, grow):
    return run(self, base, reading, grow)[..., ::-1]


def on_the_row_before(self, site, edits, value, now):
    turned = mx.roll(value, self.batch, axis=0)
    return mx.roll(act(self, site, edits, turned, now), -self.batch, axis=0)


def on_the_next_position(self, cell, edit, value, site, now):
    return mx.roll(edited(self, cell, edit, mx.roll(value, -1, axis=1), site, now), 1, axis=1)


def only_the_first(self, site, edits, value, now):
    return act(self, site, dict(list(edits.items())[:1]), value, now)


def written_into(self):
    """The run that is given a copy writes into the snapshot, for all that follow to see."""
    copied = opened(self)
    mx.eval(cached_arrays(copied.caches))
    for array in cached_arrays(list(self.entries)):
        array[...] = array * 0.5
    return copied


def values_a_position_off(caches, length, batch):
    taken = snapshot(caches, length, batch)
    for entry in taken.entries:
        entry.past = (entry.past[0], mx.roll(entry.past[1], 1, axis=2))
    return taken


def moved_by(step):
    return lambda caches, length, batch: snapshot(caches, length + step, batch)


def begins(step):
    """Where cells enter the model, so many blocks later."""

    def wrong(layout, edits, length, reads):
        cell = cell_of(layout, edits, length, reads)
        return replace(cell, entry=min(max(cell.entry + step, 0), len(layout.blocks)))

    return wrong


def starts_earlier(layout, edits, length, reads):
    cell = cell_of(layout, edits, length, reads)
    return replace(cell, start=max(0, cell.start - 1))


def starts_where_it_is_read(layout, edits, length, reads):
    return replace(cell_of(layout, edits, length, reads), start=reads)


def of_the_block_below(layout, layer):
    return Site("resid_pre", max(0, layer - 1))


def of_the_edited_prompt(self, site, base, like, now):
    return mx.roll(unpatched_stream(self, site, base, like, now), 1, axis=0)


def from_the_first_position(self, site, base, like, now):
    if site not in base.stream:
        return unpatched_stream(self, site, base, like, now)
    return base.stream[site][:, : like.shape[1]]


def without_a_mask(queries, cache, scale, mask, sinks):
    return attend_shared(queries, cache, scale, None, sinks)


def without_a_scale(queries, cache, scale, mask, sinks):
    return attend_shared(queries, cache, 1.0, mask, sinks)


def without_sinks(queries, cache, scale, mask, sinks):
    return attend_shared(queries, cache, scale, mask, None)


def without_the_past(queries, cache, scale, mask, sinks):
    blank = Shared(*(mx.zeros_like(past) for past in cache.past))
    blank.recent = cache.recent
    return attend_shared(queries, blank, scale, mask, sinks)


def heads_by_repeat(queries, cache, scale, mask, sinks):
    """Query heads numbered `(repeat, kv_head)`."""
    order = mx.arange(queries.shape[1]).reshape(cache.past[0].shape[1], -1).T.flatten()
    return attend_shared(queries[:, order], cache, scale, mask, sinks)[:, mx.argsort(order)]


def folded_row_by_row(array, batch):
    """As if the rows of each example stood together."""
    rows, groups, _, _, size = array.shape
    apart = array.reshape(batch, rows // batch, *array.shape[1:]).swapaxes(1, 2)
    return apart.reshape(batch, groups, -1, size)


def each_by_itself(array, rows):
    """Each row so many times, where all are wanted over and over."""
    return mx.repeat(array, rows // array.shape[0], axis=0)


def one_before(layout, at):
    return slice_hook(layout, [pos - 1 for pos in at] if len(at) > 1 else at)


def the_first_that_is_read(self, metric, logits, length):
    return metric.at_last()(logits[:, :1])


def passes_left_out(*args, **kwargs):
    whole = make_plan(*args, **kwargs)
    return replace(whole, passes=whole.passes[:-1])


def nothing_before_it_enters(cell, layout, entry):
    return ()


ROWS = [
    Fault("rows are exchanged", PassRun, "run", rows_exchanged, "rows, resid_post"),
    Fault("examples are exchanged", PassRun, "run", examples_exchanged, "rows, z"),
    Fault("an edit is on the row before", CellRows, "act", on_the_row_before, "rows, mlp_out"),
    Fault("an edit is at the next position", CellRows, "apply_edit", on_the_next_position, "by layer and pos"),
    Fault("only the first row is edited", CellRows, "act", only_the_first, "EditNotUsedError"),
    Fault("prompts are each repeated by themselves", _pass_run, "repeated", each_by_itself, "by layer, rows"),
    Fault("a pass is left out", _execute, "make_plan", passes_left_out, "by layer, rows"),
]
PASTS = [
    Fault("a snapshot is a position early", _unpatched, "snapshot", moved_by(-1), "SelectionError"),
    Fault("a snapshot is a position late", _unpatched, "snapshot", moved_by(1), "SelectionError"),
    Fault("values of a past are a position off", _unpatched, "snapshot", values_a_position_off, "by layer and pos"),
    Fault("a run writes into its past", Snapshot, "opened", written_into, "in smaller passes, z"),
    Fault("a run writes into its state", Snapshot, "opened", written_into, "in smaller passes, mixer_out", "mamba2"),
    Fault("a run writes into its window", Snapshot, "opened", written_into, "in smaller passes, z", "llama-sliding"),
    Fault("pasts are each repeated by themselves", _snapshot, "repeated", each_by_itself, "by layer and pos", "mamba2"),
    Fault("a pass starts where it is read", _experiment, "cell_of", starts_where_it_is_read, "SelectionError"),
    Fault("a pass starts a position early", _experiment, "cell_of", starts_earlier, "cost"),
]
GROWTH = [
    Fault("rows enter a block late", _experiment, "cell_of", begins(1), "ShapeError"),
    Fault("rows enter a block early", _experiment, "cell_of", begins(-1), "grow in smaller passes, cost"),
    Fault(
        "the stream is of the block below", _pass_run, "unpatched_site", of_the_block_below, "grow in smaller passes"
    ),
    Fault(
        "the stream is another example's", PassRun, "_unpatched_stream", of_the_edited_prompt, "grow in smaller passes"
    ),
    Fault(
        "the stream is of the first positions",
        PassRun,
        "_unpatched_stream",
        from_the_first_position,
        "by layer and pos, grow",
    ),
    Fault("rows enter unpatched", _pass_run, "edits_before_entry", nothing_before_it_enters, "EditNotUsedError"),
    Fault(
        "the norm between walks is left out",
        Layout,
        "between",
        lambda self, layer, stream: stream,
        "grow in smaller passes, resid_post",
        "nanbeige",
    ),
]
ATTENTION = [
    Fault("a shared past is not masked", _recipes, "attend_shared", without_a_mask, "by layer and pos"),
    Fault("a shared past is not scaled", _recipes, "attend_shared", without_a_scale, "by layer and pos"),
    Fault("a shared past has no sinks", _recipes, "attend_shared", without_sinks, "by layer and pos", "gpt_oss"),
    Fault("a shared past is empty", _recipes, "attend_shared", without_the_past, "by layer and pos"),
    Fault("heads of a shared past are numbered by repeat", _recipes, "attend_shared", heads_by_repeat, "and pos"),
    Fault("rows of a shared past stand together", _shared_past, "_folded", folded_row_by_row, "by layer and pos"),
]
READING = [
    Fault("rows are read a position early", _pass_run, "slice_hook", one_before, "by layer, rows"),
    Fault(
        "metrics are read at the first position", Readout, "_measure_metric", the_first_that_is_read, "what is measured"
    ),
]


PROMPT = mx.array([[(11 + 37 * (i + 8 * row)) % 96 for i in range(8)] for row in (0, 1)])


def is_seen(fault: Fault) -> bool:
    """Whether law 8 finds it where it should show, or a sweep is refused with the error that it names."""
    try:
        findings = exact_sweeps(bench_of(HookedModel(tiny_model(fault.model)), PROMPT))
        return any(fault.seen in finding.what and not finding.held for finding in findings)
    except PatchError as error:
        return type(error).__name__ == fault.seen


@pytest.mark.parametrize("fault", [*ROWS, *PASTS, *GROWTH, *ATTENTION, *READING], ids=str)
def test_a_fault_in_sweeps_is_seen(fault, monkeypatch):
    fault.seed(monkeypatch)
    assert is_seen(fault)


@pytest.mark.parametrize("name", sorted({fault.model for fault in (*ROWS, *PASTS, *GROWTH, *ATTENTION, *READING)}))
def test_without_a_fault_nothing_is_seen(name):
    """Every finding holds, and nothing is refused."""
    findings = list(exact_sweeps(bench_of(HookedModel(tiny_model(name)), PROMPT)))
    assert findings
    assert all(finding.held for finding in findings)
