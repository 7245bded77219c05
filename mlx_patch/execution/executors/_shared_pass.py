"""A pass that cells share, each in rows of its own: what the executors `grow` and `rows` run."""

from mlx_patch.execution.executors._executor import PassValues
from mlx_patch.execution.passes import PassRun, PassTask, UnpatchedRun


def run_shared_pass(task: PassTask, unpatched: UnpatchedRun, grow: bool) -> PassValues:
    """The metrics of the cells of a pass, of which each has rows in one batch.

    Args:
        task: The pass.
        unpatched: The unpatched run of the same prompts.
        grow: Whether rows enter at the first block that their cell changes, and not at the first of all.
    """
    pass_run = PassRun.of(task)
    values = pass_run.run(unpatched, task.readout, grow=grow)
    return values, lambda: pass_run.token_layers
