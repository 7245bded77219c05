"""`python -m mlx_patch.testing._zoo_worker PRECISION NAME...`: the laws on models of the zoo, a line of JSON each."""

import sys
from contextlib import redirect_stdout
from typing import Any, cast

import mlx.core as mx

from mlx_patch.errors import PatchError
from mlx_patch.laws import ALL, Finding, Report, check_laws
from mlx_patch.model import HookedModel
from mlx_patch.sweeps import exact_sweeps, independent_in_sweeps
from mlx_patch.testing._zoo_report import ZooLine, as_json
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
        return ZooLine(name, "not run", says=f"{type(error).__name__}: {' '.join(str(error).split())}")
    return line_of(name, check_laws(HookedModel(model), None, (*ALL, exact_sweeps, independent_in_sweeps)))


def line_of(name: str, report: Report) -> ZooLine:
    """A report as one line."""
    loose = [finding for finding in report.findings if finding.tolerance]
    nearest = max(loose, key=_share, default=None)
    if report.ok:
        share, where = (_share(nearest), f"law {nearest.law}, {nearest.what}") if nearest else (0.0, "")
        return ZooLine(name, "green", len(report.findings), share, where)
    says = f"{len(report.broken)} of {len(report.findings)} checks do not hold: {_worst(report)}"
    if {finding.law for finding in report.broken} <= _KNOWN.get(name, set()):
        return ZooLine(name, "known", len(report.findings), says=f"{says} ({EXCEPTIONS[name]})")
    return ZooLine(name, "red", len(report.findings), says=says)


def _share(finding: Finding) -> float:
    return finding.deviation / finding.tolerance


def _worst(report: Report) -> str:
    """The first of each law's checks that did not hold, a few of them."""
    first = {finding.law: finding for finding in reversed(report.broken)}
    shown = [first[law] for law in sorted(first)][:_SHOWN]
    return "; ".join(f"law {f.law}, {f.what}: {f.deviation:.2g} > {f.tolerance:.2g}" for f in shown)


def main(arguments: list[str]) -> None:
    """Print a line for each model, as soon as it is known."""
    precision, *names = arguments
    lines = sys.stdout
    with redirect_stdout(sys.stderr):  # where mlx_lm may print what is missing
        for name in names:
            lines.write(as_json(check_one(name, cast(Precision, precision))) + "\n")
            lines.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
