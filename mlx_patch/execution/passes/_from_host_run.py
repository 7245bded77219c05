"""The unpatched run of a sweep of paths, which was run when the paths were resolved: the host."""

import mlx.core as mx

from mlx_patch.execution.passes._splitting import split_points
from mlx_patch.execution.passes._tasks import FINAL_NORM, UnpatchedTask
from mlx_patch.execution.passes._unchanged import watch_of
from mlx_patch.execution.passes._unpatched import UnpatchedRun
from mlx_patch.model import logits_of_tokens


def from_host_run(task: UnpatchedTask) -> UnpatchedRun | None:
    """The unpatched run of a task from what is known of it; None if that lacks something that passes need."""
    layout, readout, length = task.layout, task.readout, task.tokens.shape[1]
    host_run = task.host_run
    if host_run is None or readout.at is None:
        return None
    cuts = split_points(layout, readout, 0, length, task.piece)
    if cuts or max(task.starts, default=0):
        return None  # passes need the past, or the run rounds as its pieces do
    watch = watch_of(layout, task.cells, [0, length])
    needed = {*task.sites, *(group.site for group in watch.groups)}
    if task.read_tokens:
        needed.add(FINAL_NORM)
    if not needed <= host_run.activations.keys():
        return None
    watch.look(host_run.activations)
    unpatched = UnpatchedRun(readout.measure(host_run.logits, length), 0)
    unpatched.token_layers = task.tokens.size * len(layout.blocks)
    unpatched.stream = {site: host_run.activations[site] for site in task.sites}
    mx.eval(unpatched.values, host_run.logits, watch.arrays())
    if task.read_tokens:
        positions = mx.array(readout.at)
        normed = host_run.activations[FINAL_NORM][:, positions]
        unpatched.logits_of = logits_of_tokens(layout, task.read_tokens, normed, host_run.logits)
    unpatched.unchanged = watch.unchanged()
    return unpatched
