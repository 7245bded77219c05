"""Results in files, and as JSON text."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from typing_extensions import override

from mlx_patch.errors import FileError, PatchError
from mlx_patch.files import written_whole
from mlx_patch.sweeps._files import as_json, read_archive, tupled, write_archive
from mlx_patch.sweeps._result import SweepResult

_FORMAT = "mlx_patch.SweepResult/1"
_JSON_FORMAT = "mlx_patch.SweepResult.json/1"


@dataclass(frozen=True)
class StoredPlan:
    """A plan that was read from a file: what it said, and its values.

    Attributes:
        values: What the plan's `as_dict()` gave.
        said: What its `str` was.
    """

    values: Mapping[str, Any]
    said: str

    def as_dict(self) -> dict[str, Any]:
        """The plan's values, as it gave them."""
        return dict(self.values)

    @override
    def __str__(self) -> str:
        return self.said


def save_result(result: SweepResult, path: str | os.PathLike[str]) -> None:
    """What `SweepResult.save` does."""
    write_archive(path, {"format": _FORMAT, **about_result(result)}, arrays_of(result))


def load_result(path: str | os.PathLike[str]) -> SweepResult:
    """What `SweepResult.load` returns."""
    about, arrays = read_archive(path, "SweepResult.save", _FORMAT)
    return result_of(path, about, arrays, "SweepResult.save")


def about_result(result: SweepResult) -> dict[str, Any]:
    """Everything of a result but its arrays and its time, as JSON values."""
    plan = None if result.plan is None else {"values": result.plan.as_dict(), "said": str(result.plan)}
    return {"axes": result.axes, "coords": result.coords, "provenance": result.provenance, "plan": plan}


def arrays_of(result: SweepResult, prefix: str = "") -> dict[str, np.ndarray]:
    """The arrays of a result by name; what was run only where NaN does not tell it."""
    arrays = {f"{prefix}values": result.values, f"{prefix}baseline": result.baseline}
    if not _nan_is_what_was_not_run(result):
        arrays[f"{prefix}run_mask"] = result.run_mask
    return arrays


def _nan_is_what_was_not_run(result: SweepResult) -> bool:
    """Whether a result without a mask would be taken for the same."""
    return np.array_equal(replace(result, run_mask=None).run_mask, result.run_mask)


def result_of(
    path: str | os.PathLike[str],
    about: Mapping[str, Any],
    arrays: Mapping[str, np.ndarray],
    written_by: str,
    part: str = "",
) -> SweepResult:
    """The result that `about_result` and `arrays_of` described, or that of a part, `"denoising"`.

    Raises:
        FileError: Something is not there, or does not fit.
    """
    try:
        own, prefix = (about[part], f"{part}/") if part else (about, "")
        coords = {name: tupled(labels) for name, labels in own["coords"].items()}
        plan = None if own["plan"] is None else StoredPlan(**own["plan"])
        values, baseline = arrays[f"{prefix}values"], arrays[f"{prefix}baseline"]
        mask = arrays.get(f"{prefix}run_mask")
        return SweepResult(values, tupled(own["axes"]), coords, baseline, own["provenance"], plan, run_mask=mask)
    except (PatchError, KeyError, TypeError, AttributeError) as error:
        raise FileError(
            f"`path` must be a file that {written_by} wrote. Got {path}, where not all fits: {error}."
        ) from error


def result_as_json(result: SweepResult, path: str | os.PathLike[str] | None) -> str:
    """What `SweepResult.to_json` returns."""
    about = about_result(result)
    about["plan"] = about["plan"] and about["plan"]["values"]
    whole = {"format": _JSON_FORMAT, "complete": result.complete, "seconds": result.seconds, **about}
    if not result.complete:
        whole["run_mask"] = result.run_mask.tolist()
    text = as_json({**whole, "baseline": result.baseline, "values": result.values})
    if path is not None:
        with written_whole(path) as beside:
            beside.write_text(f"{text}\n", encoding="utf-8")
    return text
