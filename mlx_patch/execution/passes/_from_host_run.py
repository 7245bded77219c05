"""The unpatched run of a sweep of paths, which was run when the paths were resolved: the host."""

import mlx.core as mx

from mlx_patch.execution.passes._splitting import split_points
from mlx_patch.execution.passes._tasks import FINAL_NORM, UnpatchedTask
from mlx_patch.execution.passes._unpatched import UnpatchedRun
from mlx_patch.model import logits_of_tokens


def from_host_run(task: UnpatchedTask) -> UnpatchedRun | None:
    """The unpatched run of a task from what is known of it; None if that lacks something that passes need."""
    layout, readout, length = task.layout, task.readout, task.tokens.shape[1]
    if task.host_run is None or readout.at is None:
        return None
    cuts = split_points(layout, readout, 0, length, task.piece)
    if cuts or max(task.starts, default=0):
        return None  # passes need the past, or the run rounds as its pieces do
    result = task.host_run.result
    if not {*task.sites, FINAL_NORM} <= result.activations.keys():
        return None
    unpatched = UnpatchedRun(readout.measure(result.logits, length), 0)
    unpatched.token_layers = task.tokens.size * len(layout.blocks)
    unpatched.stream = {site: result.activations[site] for site in task.sites}
    unpatched.unchanged = set(task.host_run.unchanged)
    mx.eval(unpatched.values, result.logits)
    if task.read_tokens:
        normed = result.activations[FINAL_NORM][:, mx.array(readout.at)]
        unpatched.logits_of = logits_of_tokens(layout, task.read_tokens, normed, result.logits)
    return unpatched
