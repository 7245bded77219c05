"""Checkpoints: what a sweep has found so far, on disk after every pass, and read back by a sweep that is the same one.

The file is a zip like those of results. It holds the sweep's identity, its plan, the numbers and which of them are
there; no time, no place, nothing that differs from run to run. It is written beside and renamed, so that at every
moment the file of that name is whole: that of the last pass, or of the one before.
"""

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mlx_patch.errors import FileError, KindError
from mlx_patch.execution.plan import Plan
from mlx_patch.execution.progress._numbers import Numbers
from mlx_patch.files import ABOUT, array_members, read_archive, remove_leftovers, write_members
from mlx_patch.fingerprints import Identity, differences

_FORMAT = "mlx_patch.sweep.checkpoint/1"
_WRITTEN_BY = "mp.sweep(checkpoint=...)"
_REMEDY = "Give another path, or delete it."


@dataclass(frozen=True)
class Checkpoint:
    """The checkpoint of one sweep.

    Attributes:
        path: The file, which need not be there yet.
        identity: What makes this sweep the same as another.
    """

    path: Path
    identity: Identity

    def read(self, blank: Numbers) -> tuple[Plan, Numbers] | None:
        """The plan that was begun, and what has been found; None where there is no file.

        The plan is the one that began, for cells that run together must go on to: what a device has left of its
        memory may be something else now.

        Args:
            blank: The numbers of a sweep that has not begun, whose shapes they must have.
        Raises:
            FileError: The file is damaged, of another kind or version, or of another sweep.
        """
        if not self.path.exists():
            return None
        about, arrays = read_archive(self.path, _WRITTEN_BY, _FORMAT, "checkpoint", _REMEDY)
        try:
            differing = list(differences(about["identity"], self.identity))
            if differing:
                of = f"which is of {' and of '.join(differing)}"
                raise FileError(f"`checkpoint` must be of this sweep. Got {self.path}, {of}. {_REMEDY}")
            plan = Plan.from_dict(about["plan"])
            numbers = Numbers(
                arrays["values"], arrays["done"], arrays["baseline"], token_layers=int(arrays["token_layers"])
            )
            _check_fit(plan, numbers, blank)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise FileError(
                f"`checkpoint` must be a file that {_WRITTEN_BY} wrote. Got {self.path}, where not all fits: {error}. "
                f"{_REMEDY}"
            ) from error
        return plan, numbers

    def writer(self, plan: Plan) -> Callable[[Numbers], None]:
        """A function that puts what has been found into the file, whole or not at all.

        Args:
            plan: The plan that is being run.
        """
        about = {"format": _FORMAT, "identity": self.identity, "plan": plan.as_dict()}
        described = json.dumps(about, sort_keys=True).encode()  # once: the plan of many cells is the longest part

        def write(numbers: Numbers) -> None:
            arrays = {
                "values": numbers.values,
                "done": numbers.done,
                "baseline": numbers.baseline,
                "token_layers": np.array(numbers.token_layers),
            }
            write_members(self.path, {ABOUT: described, **array_members(arrays)})

        return write


def checked_path(given: object) -> Path:
    """Where a checkpoint is, or is to be; what killed processes left of it is removed.

    Raises:
        KindError: It is no path.
        FileError: It is a folder, or in a folder that is not there or cannot be written to.
    """
    if not isinstance(given, str | os.PathLike):
        raise KindError(f"`checkpoint` must be a path or None. Got {type(given).__name__}.")
    path = Path(given)
    if path.is_dir():
        raise FileError(f"`checkpoint` must be a file's name. Got {path}: Is a directory. Choose another name.")
    if not (path.parent.is_dir() and os.access(path.parent, os.W_OK | os.X_OK)):
        why = "Permission denied" if path.parent.is_dir() else "No such directory"
        raise FileError(
            f"`checkpoint` must be in a folder that can be written to. Got {path}: {why}. Choose another folder."
        )
    remove_leftovers(path)
    return path


def _check_fit(plan: Plan, numbers: Numbers, blank: Numbers) -> None:
    """Refuse what does not hold together.

    Raises:
        ValueError: It does not.
    """
    for name in ("values", "done", "baseline"):
        got, wanted = getattr(numbers, name), getattr(blank, name)
        if got.shape != wanted.shape or got.dtype != wanted.dtype:
            raise ValueError(f"{name!r} has shape {got.shape}, not {wanted.shape}")
    groups, cells = blank.done.shape
    for group in range(groups):
        if sorted(_cells_of(plan, group)) != list(range(cells)):
            raise ValueError(f"its plan does not have every cell once for group {group} of the prompts")


def _cells_of(plan: Plan, group: int) -> Sequence[int]:
    return [cell for one in plan.passes if one.group == group for cell in one.cells]
