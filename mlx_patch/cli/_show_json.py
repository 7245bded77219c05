"""From JSON that commands and results write back to what is printed."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from mlx_patch.cli._lens_text import lens_text
from mlx_patch.files import Malformed
from mlx_patch.laws import Finding, Report
from mlx_patch.lens import DirectLogits
from mlx_patch.results import CellResult, Estimate, StoredPlan, SweepResult, check_description
from mlx_patch.testing import ZooLine, ZooReport


def result_of_json(fields: Mapping[str, Any], name: str) -> CellResult:
    """The result that `to_json` wrote.

    Args:
        fields: The JSON value.
        name: "SweepResult" or "Estimate".
    Raises:
        PatchError, KeyError, TypeError, ValueError: Something is not there, or does not fit.
    """
    check_description(fields)
    fields_of_kind: dict[str, Any] = {}
    for array in ("estimated", "seed_baselines"):
        if array in fields:
            fields_of_kind[array] = _numbers(fields[array])
    for mask in ("exact", "sampled", "run_mask"):
        if mask in fields:
            fields_of_kind[mask] = np.array(fields[mask], bool)
    if fields["plan"] is not None:
        fields_of_kind["plan"] = StoredPlan(fields["plan"], "")
    kind = {"SweepResult": SweepResult, "Estimate": Estimate}[name]
    return kind(
        values=_numbers(fields["values"]),
        axes=tuple(fields["axes"]),
        coords=fields["coords"],
        baseline=_numbers(fields["baseline"]),
        provenance=fields["provenance"],
        seconds=fields["seconds"],
        **fields_of_kind,
    )


def _numbers(values: Any) -> np.ndarray:
    """An array of JSON's numbers, in which null is NaN and infinities are texts.

    Raises:
        ValueError, TypeError, OverflowError: They are no numbers, or none of float32.
    """
    numbers = np.array(values, np.float64)
    if (np.isfinite(numbers) & (np.abs(numbers) > np.finfo(np.float32).max)).any():
        raise Malformed("it has numbers that float32 does not hold")
    return numbers.astype(np.float32)


def _report_text(fields: Mapping[str, Any]) -> str:
    names = ("law", "what", "deviation", "tolerance")
    findings = tuple(Finding(**{name: finding[name] for name in names}) for finding in fields["findings"])
    return str(Report(fields["model"], findings))


def _zoo_text(fields: Mapping[str, Any]) -> str:
    lines = tuple(ZooLine(**line) for line in fields["lines"])
    return str(ZooReport(fields["precision"], lines, fields["seconds"]))


def _direct_text(fields: Mapping[str, Any]) -> str:
    total = _numbers(fields["logit"])
    remainder = {name: _numbers(values) for name, values in fields["remainder"].items()}
    if not total.size or any(array.shape != total.shape for array in remainder.values()):
        raise Malformed("its remainder has not one number an example")
    logit = DirectLogits(
        by=fields["by"],
        values=_numbers(fields["values"]),
        axes=tuple(fields["axes"]),
        coords={axis: tuple(labels) for axis, labels in fields["coords"].items()},
        remainder=remainder,
        logit=total,
        scale=fields["scale"],
        answer=fields["answer"],
    )
    return str(logit)


def _generation_text(fields: Mapping[str, Any]) -> str:
    lines = [f"prompt: {fields['prompt']!r}", *(f"edit: {edit}" for edit in fields["edits"]), fields["text"]]
    return "\n".join(lines)


def _sites_text(fields: Mapping[str, Any]) -> str:
    lines = [f"{fields['model'].get('name', 'a model')}: {fields['n_layers']} layers, d_model {fields['d_model']}"]
    lines += [f"  {site['site']:<36}{' '.join(site['axes'])}" for site in fields["sites"]]
    lines += [f"  {name:<36}not there: {reason}" for name, reason in fields["absent"].items()]
    return "\n".join(lines)


JSON_TEXTS: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "Report": _report_text,
    "ZooReport": _zoo_text,
    "LogitLens": lens_text,
    "DirectLogits": _direct_text,
    "generation": _generation_text,
    "sites": _sites_text,
}
"""What prints a JSON file of a command, by the name of its format."""
