"""Checkpoints: the numbers of a sweep so far, written after every pass, and read back when the same sweep runs again.

The file is a zip like those of results. It holds the sweep's identity, its plan, the numbers and which of them are
there; no time, no place, nothing that differs from run to run. It is written under another name and renamed, so that
the file of that name is complete at every moment: that of the last pass, or of the one before.
"""

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from mlx_patch import arguments
from mlx_patch.errors import FileError
from mlx_patch.execution.plan import Plan
from mlx_patch.execution.progress._numbers import Numbers
from mlx_patch.files import ABOUT, Format, array_members, clause_of, read_archive, remove_leftovers, write_members
from mlx_patch.fingerprints import Identity, differences

_FORMAT = Format("mlx_patch.sweep.checkpoint", 1)
_WRITTEN_BY = "mp.sweep(checkpoint=...)"
_REMEDY = "Give another path, or delete it."
_ARRAYS = ("values", "done", "baseline", "token_layers", "skipped")


@dataclass(frozen=True)
class Checkpoint:
    """The checkpoint of one sweep.

    Attributes:
        path: The file, which need not be there yet.
        identity: What makes this sweep the same as another.
    """

    path: Path
    identity: Identity

    def read(self, blank: Numbers, fresh: Plan) -> tuple[Plan, Numbers] | None:
        """The plan of the sweep that wrote the file, and its numbers; None where there is no file.

        A resumed sweep keeps that plan, since numbers depend on which cells share a pass. A plan made anew could
        differ, as the device may have another amount of memory left.

        Args:
            blank: The numbers of a sweep that has not begun, whose shapes the file's must have.
            fresh: The plan as it would be made now, from which the file's may differ in what shares a pass.
        Raises:
            FileError: The file is damaged, of another kind or version, or of another sweep.
        """
        if not self.path.exists():
            return None
        about, arrays = read_archive(self.path, _WRITTEN_BY, _FORMAT, _ARRAYS, "checkpoint", _REMEDY)
        try:
            differing = list(differences(about["identity"], self.identity))
            if differing:
                difference = f"which has {clause_of(' and '.join(differing))}"
                raise FileError(f"`checkpoint` must belong to this sweep. Got {self.path}, {difference}. {_REMEDY}")
            plan = Plan.from_dict(about["plan"])
            token_layers = int(arrays["token_layers"])
            skipped = int(arrays["skipped"])
            numbers = Numbers(arrays["values"], arrays["done"], arrays["baseline"], token_layers, skipped)
            _check_fit(numbers, blank)
            _check_plan(plan, fresh)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise FileError(
                f"`checkpoint` must be a file that {_WRITTEN_BY} wrote. Got {self.path}, which is inconsistent: "
                f"{clause_of(error)}. {_REMEDY}"
            ) from error
        return plan, numbers

    def writer(self, plan: Plan) -> Callable[[Numbers], None]:
        """A function that writes numbers to the file, completely or not at all.

        Args:
            plan: The plan that is being run.
        """
        about = {**_FORMAT.entry, "identity": self.identity, "plan": plan.as_dict()}
        about_json = json.dumps(about, sort_keys=True).encode()  # once: the plan of many cells is the longest part

        def write(numbers: Numbers) -> None:
            arrays = {
                "values": numbers.values,
                "done": numbers.done,
                "baseline": numbers.baseline,
                "token_layers": np.array(numbers.token_layers),
                "skipped": np.array(numbers.skipped),
            }
            write_members(self.path, {ABOUT: about_json, **array_members(arrays)})

        return write


def checked_path(checkpoint: object) -> Path:
    """The path of a checkpoint.

    Raises:
        KindError: It is no path.
        FileError: It is a folder.
    """
    path = arguments.path("checkpoint", checkpoint)
    if path.is_dir():
        raise FileError(f"`checkpoint` must be a file's name. Got {path}, which is a directory. Choose another name.")
    return path


def refuse_unwritable(path: Path) -> None:
    """Refuse a checkpoint that could not be written. Temporary files that killed processes left beside it are removed.

    Raises:
        FileError: Its folder does not exist or cannot be written to.
    """
    reason = _why_not_writable(path.parent)
    if reason:
        raise FileError(
            f"`checkpoint` must be in a folder that can be written to. Got {path}: {reason}. Choose another folder."
        )
    remove_leftovers(path)


def _why_not_writable(folder: Path) -> str:
    """Why files cannot be made in a folder; empty where they can."""
    if not folder.is_dir():
        return "No such directory"
    if not os.access(folder, os.W_OK | os.X_OK):
        return "Permission denied"
    return ""


def _check_fit(numbers: Numbers, blank: Numbers) -> None:
    """Refuse numbers that do not fit the sweep.

    Raises:
        ValueError: They do not.
    """
    for name in ("values", "done", "baseline"):
        array = getattr(numbers, name)
        blank_array = getattr(blank, name)
        if array.shape != blank_array.shape or array.dtype != blank_array.dtype:
            raise ValueError(f"{name!r} has shape {array.shape}, not {blank_array.shape}")
    if numbers.token_layers < 0 or numbers.skipped < 0:
        raise ValueError("it counts less than nothing")


def _check_plan(plan: Plan, fresh: Plan) -> None:
    """Refuse a plan that is not of this sweep: every cell is in it once, and begins where it must.

    Raises:
        ValueError: It is not.
    """
    counts = {name: getattr(plan, name) for name in _DEPEND_ON_MEMORY}
    if not all(type(count) is int and count >= 0 for count in counts.values()) or not plan.piece:
        raise ValueError(f"its plan has no counts in {counts}")
    if replace(plan, passes=fresh.passes, **{name: getattr(fresh, name) for name in counts}) != fresh:
        raise ValueError("its plan is of another sweep")
    if sorted(_beginnings(plan)) != sorted(_beginnings(fresh)):
        raise ValueError("its plan does not have every cell once, where it begins")


_DEPEND_ON_MEMORY = ("piece", "memory", "written")
"""What of a plan, beside its passes, depends on how large these may get."""


def _beginnings(plan: Plan) -> Iterator[tuple[int, int, int, int]]:
    """The group of prompts and the number of each cell, with the position and the block at which it begins."""
    for pass_ in plan.passes:
        for cell, entry in zip(pass_.cells, pass_.entries, strict=True):
            yield pass_.group, cell, pass_.start, entry
