"""Results in files, and as JSON text."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import isinf, isnan
from typing import Any

import numpy as np
from typing_extensions import override

from mlx_patch.errors import FileError, PatchError
from mlx_patch.files import read_archive, write_archive, written_whole
from mlx_patch.results._labelled import Labelled, Result


def json_text(fields: Mapping[str, Any]) -> str:
    """JSON with one line a field and one line a row of an array. NaN is `null`, infinities are strings.

    Example:
        >>> print(json_text({"axes": ["layer"], "values": np.array([[0.1, np.nan], [-np.inf, 2]], dtype=np.float32)}))
        {
        "axes": ["layer"],
        "values": [
         [0.1, null],
         ["-Infinity", 2.0]
        ]
        }
    """
    lines = [f"{json.dumps(name)}: {_json(value)}" for name, value in fields.items()]
    return "{\n" + ",\n".join(lines) + "\n}"


def _json(value: Any) -> str:
    if isinstance(value, np.ndarray) and value.ndim > 1:
        return "[\n" + ",\n".join(f" {json.dumps(_strict(row))}" for row in value) + "\n]"
    return json.dumps(_strict(value), ensure_ascii=False, allow_nan=False)


def _strict(value: Any) -> Any:
    """The value in what JSON has; a number of float32 with as few digits as tell it from its neighbours."""
    match value:
        case np.ndarray():
            return [_strict(row) for row in value]
        case np.floating():
            return _strict(float(str(value)))
        case float() if isnan(value):
            return None
        case float() if isinf(value):
            return "Infinity" if value > 0 else "-Infinity"
        case dict():
            return {name: _strict(one) for name, one in value.items()}
        case list() | tuple():
            return [_strict(one) for one in value]
    return value


def tupled(value: Any) -> Any:
    """Lists that JSON gave back as the tuples that they were."""
    return tuple(tupled(one) for one in value) if isinstance(value, list) else value


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


def save_result(result: Labelled, path: str | os.PathLike[str]) -> None:
    """What `SweepResult.save` does."""
    write_archive(path, {"format": _FORMAT, **about_result(result)}, result_arrays(result))


def load_result(kind: type[Result], path: str | os.PathLike[str]) -> Result:
    """What `SweepResult.load` returns."""
    about, arrays = read_archive(path, "SweepResult.save", _FORMAT)
    return read_result(kind, path, about, arrays, "SweepResult.save")


def about_result(result: Labelled) -> dict[str, Any]:
    """Everything of a result but its arrays and its time, as JSON values."""
    plan = None if result.plan is None else {"values": result.plan.as_dict(), "said": str(result.plan)}
    return {"axes": result.axes, "coords": result.coords, "provenance": result.provenance, "plan": plan}


def result_arrays(result: Labelled, prefix: str = "") -> dict[str, np.ndarray]:
    """The arrays of a result by name; what was run only where NaN does not tell it."""
    arrays = {f"{prefix}values": result.values, f"{prefix}baseline": result.baseline}
    if not _nan_is_what_was_not_run(result):
        arrays[f"{prefix}run_mask"] = result.run_mask
    return arrays


def _nan_is_what_was_not_run(result: Labelled) -> bool:
    """Whether a result without a mask would be taken for the same."""
    return np.array_equal(replace(result, run_mask=None).run_mask, result.run_mask)


def read_result(
    kind: type[Result],
    path: str | os.PathLike[str],
    about: Mapping[str, Any],
    arrays: Mapping[str, np.ndarray],
    written_by: str,
    part: str = "",
) -> Result:
    """The result that `about_result` and `result_arrays` described, or that of a part, `"denoising"`.

    Raises:
        FileError: Something is not there, or does not fit.
    """
    try:
        own, prefix = (about[part], f"{part}/") if part else (about, "")
        coords = {name: tupled(labels) for name, labels in own["coords"].items()}
        plan = None if own["plan"] is None else StoredPlan(**own["plan"])
        values, baseline = arrays[f"{prefix}values"], arrays[f"{prefix}baseline"]
        mask = arrays.get(f"{prefix}run_mask")
        return kind(values, tupled(own["axes"]), coords, baseline, own["provenance"], plan, run_mask=mask)
    except (PatchError, KeyError, TypeError, AttributeError) as error:
        raise FileError(
            f"`path` must be a file that {written_by} wrote. Got {path}, where not all fits: {error}."
        ) from error


def result_as_json(result: Labelled, path: str | os.PathLike[str] | None) -> str:
    """What `SweepResult.to_json` returns."""
    about = about_result(result)
    about["plan"] = about["plan"] and about["plan"]["values"]
    whole = {"format": _JSON_FORMAT, "complete": result.complete, "seconds": result.seconds, **about}
    if not result.complete:
        whole["run_mask"] = result.run_mask.tolist()
    text = json_text({**whole, "baseline": result.baseline, "values": result.values})
    if path is not None:
        with written_whole(path) as beside:
            beside.write_text(f"{text}\n", encoding="utf-8")
    return text
