"""Which executor runs a sweep: the cheapest that the architecture and the cells allow, with the reason where not."""

from collections.abc import Sequence
from typing import cast, get_args

from mlx_patch.architectures import Layout
from mlx_patch.errors import ArchitectureError, UnknownNameError, did_you_mean
from mlx_patch.sweeps._cells import Cell
from mlx_patch.sweeps._planned import Executor

EXECUTORS: tuple[Executor, ...] = get_args(Executor)


def chosen_executor(wanted: str, layout: Layout, cells: Sequence[Cell]) -> tuple[Executor, str]:
    """The executor, and why no cheaper one could be taken.

    Args:
        wanted: "auto", or the name of one.
        layout: The model's layout.
        cells: All cells.
    Raises:
        UnknownNameError: There is no such executor.
        ArchitectureError: It cannot run these cells on this architecture.
    """
    if wanted not in (*EXECUTORS, "auto"):
        near = did_you_mean(str(wanted), (*EXECUTORS, "auto"))
        raise UnknownNameError(f"`executor` must be the name of one. Got {wanted!r}. {near}")
    why = why_not_grow(layout, cells)
    if wanted == "auto":
        return ("rows", why) if why else ("grow", "")
    if wanted == "grow" and why:
        raise ArchitectureError(f"`executor` must be one that can run these cells. Got 'grow', but {why}. Use 'auto'.")
    return cast("Executor", wanted), ""


def why_not_grow(layout: Layout, cells: Sequence[Cell]) -> str:
    """Why rows cannot begin in the middle of the model, as a clause; empty where they can."""
    family = layout.family
    if family.shared:
        return f"later blocks of {family.name} read more than the stream that enters them"
    if family.parts > 1:
        return f"a block of {family.name} is {family.parts} layers, which overlap"
    if family.rereads:
        return f"blocks of {family.name} read the tokens besides the stream"
    if family.final_norm is None:
        return "no table says that only the stream goes from block to block"
    if any(cell.entry is None for cell in cells):
        return "a cell edits something of which nobody knows the block"
    return ""
