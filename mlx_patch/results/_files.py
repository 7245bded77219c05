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
from mlx_patch.files import Format, clause_of, read_archive, write_archive, written_whole
from mlx_patch.results._description import check_description
from mlx_patch.results._labelled import Labelled, Result


def json_text(fields: Mapping[str, Any]) -> str:
    """JSON with one line per field and one line per row of an array. NaN is `null`, infinities are strings.

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
    lines = [f"{json.dumps(name)}: {_field_text(value)}" for name, value in fields.items()]
    text = "{\n" + ",\n".join(lines) + "\n}"
    return text.encode("utf-8", "backslashreplace").decode()  # half of a surrogate pair, which UTF-8 does not hold


def _field_text(value: Any) -> str:
    if isinstance(value, np.ndarray) and value.ndim > 1:
        rows = ",\n".join(f" {json.dumps(_jsonable(row))}" for row in value)
        return f"[\n{rows}\n]"
    return json.dumps(_jsonable(value), ensure_ascii=False, allow_nan=False)


def _jsonable(value: Any) -> Any:
    """The value in JSON's types; a float32 with only the digits that tell it from its neighbours."""
    match value:
        case np.ndarray() | list() | tuple():
            return [_jsonable(entry) for entry in value]
        case np.floating():
            return _jsonable(float(str(value)))
        case np.bool_() | np.integer():
            return value.item()
        case float() if isnan(value):
            return None
        case float() if isinf(value):
            return "-Infinity" if value < 0 else "Infinity"
        case dict():
            return {name: _jsonable(entry) for name, entry in value.items()}
    return value


def tupled(value: Any) -> Any:
    """The value with a tuple for each list, as it was before JSON."""
    if isinstance(value, list):
        return tuple(map(tupled, value))
    return value


def format_of(kind: type[Labelled]) -> Format:
    """The format of a result's file."""
    return Format(f"mlx_patch.{kind.__name__}", 1)


def json_format_of(kind: type[Labelled]) -> Format:
    """The format of a result as JSON text."""
    return Format(f"mlx_patch.{kind.__name__}.json", 1)


@dataclass(frozen=True)
class StoredPlan:
    """A plan that was read from a file: its values and its text.

    Attributes:
        values: What the plan's `as_dict()` returned.
        said: What its `str` was.
    """

    values: Mapping[str, Any]
    said: str

    def as_dict(self) -> dict[str, Any]:
        """The plan's values by name."""
        return dict(self.values)

    @override
    def __str__(self) -> str:
        return self.said


def save_result(result: Labelled, path: str | os.PathLike[str]) -> None:
    """What `save` of a result does."""
    write_archive(path, {**format_of(type(result)).entry, **about_result(result)}, result_arrays(result))


def load_result(kind: type[Result], path: str | os.PathLike[str]) -> Result:
    """What `load` of a kind of result returns."""
    written_by = f"{kind.__name__}.save"
    about, arrays = read_archive(path, written_by, format_of(kind), array_names(kind))
    return read_result(kind, path, about, arrays, written_by)


def about_result(result: Labelled) -> dict[str, Any]:
    """A result as JSON values, without its arrays and its time."""
    plan = None
    if result.plan is not None:
        plan = {"values": result.plan.as_dict(), "said": str(result.plan)}
    return {"axes": result.axes, "coords": result.coords, "provenance": result.provenance, "plan": plan}


def result_arrays(result: Labelled, prefix: str = "") -> dict[str, np.ndarray]:
    """The arrays of a result by name; the mask of runs only if NaN does not imply it."""
    arrays = {f"{prefix}values": result.values, f"{prefix}baseline": result.baseline}
    default_mask = replace(result, run_mask=None).run_mask
    if not np.array_equal(default_mask, result.run_mask):
        arrays[f"{prefix}run_mask"] = result.run_mask
    for name in result.further_arrays:
        arrays[f"{prefix}{name}"] = getattr(result, name)
    return arrays


def array_names(kind: type[Labelled], prefix: str = "") -> list[str]:
    """The names that `result_arrays` may give the arrays of a kind of result."""
    return [f"{prefix}{name}" for name in (*_OF_EVERY_RESULT, *kind.FURTHER_ARRAYS)]


def read_result(
    kind: type[Result],
    path: str | os.PathLike[str],
    about: Mapping[str, Any],
    arrays: Mapping[str, np.ndarray],
    written_by: str,
    direction: str = "",
) -> Result:
    """The result that `about_result` and `result_arrays` described.

    Args:
        kind: The class of the result.
        path: The file, for messages.
        about: What `about_result` returned, or that by direction.
        arrays: What `result_arrays` returned.
        written_by: Who writes such files, for messages.
        direction: `"denoising"` or `"noising"`, of a file that holds both.
    Raises:
        FileError: Something is not there, or does not fit.
    """
    try:
        prefix = ""
        if direction:
            about, prefix = about[direction], f"{direction}/"
        check_description(about)
        return _built_result(kind, about, arrays, prefix)
    except (PatchError, ValueError, KeyError, TypeError) as error:
        raise inconsistent(path, written_by, error) from error


def inconsistent(path: str | os.PathLike[str], written_by: str, error: Exception) -> FileError:
    """The error for a file whose parts do not fit together."""
    return FileError(
        f"`path` must be a file that {written_by} wrote. Got {path}, which is inconsistent: {clause_of(error)}."
    )


_OF_EVERY_RESULT = ("values", "baseline", "run_mask")


def _built_result(
    kind: type[Result], about: Mapping[str, Any], arrays: Mapping[str, np.ndarray], prefix: str
) -> Result:
    coords = {name: tupled(labels) for name, labels in about["coords"].items()}
    plan = None
    if about["plan"] is not None:
        plan = StoredPlan(dict(about["plan"]["values"]), str(about["plan"]["said"]))
    own = {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
    further: dict[str, Any] = {}
    for name, array in own.items():
        if "/" not in name and name not in _OF_EVERY_RESULT:
            further[name] = array
    return kind(
        values=arrays[f"{prefix}values"],
        axes=tupled(about["axes"]),
        coords=coords,
        baseline=arrays[f"{prefix}baseline"],
        provenance=about["provenance"],
        plan=plan,
        run_mask=arrays.get(f"{prefix}run_mask"),
        **further,
    )


def result_as_json(result: Labelled, path: str | os.PathLike[str] | None) -> str:
    """What `SweepResult.to_json` returns."""
    fields: dict[str, Any] = {**json_format_of(type(result)).entry}
    fields |= {"complete": result.complete, "seconds": result.seconds}
    fields |= about_result(result)
    if result.plan is not None:
        fields["plan"] = fields["plan"]["values"]
    if not result.complete:
        fields["run_mask"] = result.run_mask.tolist()
    fields |= {"baseline": result.baseline, "values": result.values}
    fields |= {name: getattr(result, name) for name in result.further_arrays}
    text = json_text(fields)
    if path is not None:
        with written_whole(path) as temporary:
            temporary.write_text(f"{text}\n", encoding="utf-8")
    return text
