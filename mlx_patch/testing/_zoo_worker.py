"""`python -m mlx_patch.testing._zoo_worker PRECISION NAME...`: the laws on models of the zoo, a line of JSON each."""

import sys
from contextlib import redirect_stdout
from typing import Any, cast

import mlx.core as mx

from mlx_patch.errors import PatchError
from mlx_patch.laws import Finding, Report, check_laws
from mlx_patch.model import HookedModel
from mlx_patch.testing._zoo_report import EVERY_LAW, ZooLine, as_json
from mlx_patch.testing.zoo import EXCEPTIONS, Precision, tiny_model

_KNOWN = {"phi3small": {5, 7, 9}}
"""The laws that a model breaks by mlx_lm's own doing; `EXCEPTIONS` says how."""

_SHOWN = 3
"""How many of the checks that did not hold are named."""


def check_one(name: str, precision: Precision) -> ZooLine:
    """Every law on one model."""
    try:
        model: Any = tiny_model(name, precision)
        mx.eval(model(mx.array([[11, 48, 85, 26]])))
    except (PatchError, RuntimeError, ValueError) as error:
        message = " ".join(str(error).split())
        return ZooLine(name, "not run", says=f"{type(error).__name__}: {message}")
    return line_of(name, check_laws(HookedModel(model), None, EVERY_LAW))


def line_of(name: str, report: Report) -> ZooLine:
    """A report as one line."""
    n_checks = len(report.findings)
    if report.ok:
        return _green_line(name, report)
    summary = f"{len(report.broken)} of {n_checks} checks do not hold: {_worst(report)}"
    broken_laws = {finding.law for finding in report.broken}
    if broken_laws <= _KNOWN.get(name, set()):
        return ZooLine(name, "known", n_checks, says=f"{summary} ({EXCEPTIONS[name]})")
    return ZooLine(name, "red", n_checks, says=summary)


def _green_line(name: str, report: Report) -> ZooLine:
    with_tolerance = [finding for finding in report.findings if finding.tolerance]
    n_checks = len(report.findings)
    if not with_tolerance:
        return ZooLine(name, "green", n_checks)
    nearest = max(with_tolerance, key=_share)
    return ZooLine(name, "green", n_checks, _share(nearest), f"law {nearest.law}, {nearest.what}")


def _share(finding: Finding) -> float:
    return finding.deviation / finding.tolerance


def _worst(report: Report) -> str:
    """The first of each law's checks that did not hold, a few of them."""
    first = {finding.law: finding for finding in reversed(report.broken)}
    clauses = []
    for law in sorted(first)[:_SHOWN]:
        finding = first[law]
        clauses.append(f"law {law}, {finding.what}: {finding.deviation:.2g} > {finding.tolerance:.2g}")
    return "; ".join(clauses)


def main(arguments: list[str]) -> None:
    """Print a line for each model, as soon as it is checked."""
    precision, *names = arguments
    lines = sys.stdout
    with redirect_stdout(sys.stderr):  # where mlx_lm may print what is missing
        for name in names:
            lines.write(as_json(check_one(name, cast(Precision, precision))) + "\n")
            lines.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
