"""The result of checking laws: a finding for each law and site, and a report of them all."""

from dataclasses import dataclass
from html import escape
from math import isnan

import mlx.core as mx
from typing_extensions import override

from mlx_patch.plot import html_fragment, html_table
from mlx_patch.provenance import parameters

ROUNDINGS = 8
"""The tolerance where sums are reordered, in units of the rounding of an array's largest entry."""

INSIDE = 16
"""The tolerance of activations inside a model, as a multiple of the deviation of its logits."""


@dataclass(frozen=True)
class Finding:
    """The result of checking one law at one site.

    Attributes:
        law: The number of the law.
        what: The check.
        deviation: The largest difference, as a fraction of the largest entry of the expected array.
        tolerance: The largest allowed deviation: 0 where the two must be equal bit for bit.
    """

    law: int
    what: str
    deviation: float
    tolerance: float

    @property
    def held(self) -> bool:
        """Whether the deviation is within the tolerance; NaN is not."""
        return self.deviation <= self.tolerance


@dataclass(frozen=True)
class Report:
    """The results of checking the laws on one model.

    Attributes:
        model: The model that was checked.
        findings: One for each law and site.
    """

    model: str
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether every law held."""
        return not self.broken

    @property
    def broken(self) -> tuple[Finding, ...]:
        """The findings of laws that did not hold."""
        return tuple(finding for finding in self.findings if not finding.held)

    def _repr_html_(self) -> str:
        rows = []
        for law, statement in LAWS.items():
            findings = [finding for finding in self.findings if finding.law == law]
            if findings:
                rows.append([str(law), *_cells(findings), statement])
        broken = "".join(f"<p>{escape(_format_broken(finding).strip())}</p>" for finding in self.broken)
        table = html_table(["law", "held", "checks", "largest deviation", "tolerance", "what the law says"], rows)
        return html_fragment(f"<p>{escape(self.model)}</p>{table}{broken}")

    @override
    def __str__(self) -> str:
        lines = [self.model, _HEADING]
        for law, statement in LAWS.items():
            findings = [finding for finding in self.findings if finding.law == law]
            if findings:
                lines.append(_format_row(law, findings, statement))
        lines += [_format_broken(finding) for finding in self.broken]
        return "\n".join(lines)


_HEADING = f"{'law':>3}  {'held':<5}{'checks':>6}  {'largest deviation':<19}{'tolerance':<11}what the law says"


def _format_row(law: int, findings: list[Finding], statement: str) -> str:
    """A law's row."""
    verdict, count, deviation, tolerance = _cells(findings)
    return f"{law:>3}  {verdict:<5}{count:>6}  {deviation:<19}{tolerance:<11}{statement}"


def _cells(findings: list[Finding]) -> tuple[str, str, str, str]:
    """Of a law's findings the worst: whether it held, with its tolerance; of equals the strictest."""
    worst = max(findings, key=lambda finding: (not finding.held, finding.deviation, -finding.tolerance))
    verdict = "NO"
    if worst.held:
        verdict = "yes"
    return verdict, str(len(findings)), f"{worst.deviation:.2g}", f"{worst.tolerance:.2g}"


def _format_broken(finding: Finding) -> str:
    return f"     broken: law {finding.law}, {finding.what}: {finding.deviation:.2g} > {finding.tolerance:.2g}"


LAWS: dict[int, str] = {
    1: "watching every site leaves the logits as they are, and each module gets its class back",
    2: "what mixer and MLP add to the stream is what the stream gains",
    3: "patching a site with its own value changes nothing",
    4: "a site that is replaced decides all that hangs on it alone",
    5: "an edit at a position leaves the logits before it as they were",
    6: "after an exception in a run, the model is as before",
    7: "attention patterns are causal, sum to 1 and make z; heads are heads",
    8: "a fast sweep equals the reference sweep, at the cost that its plan names",
    9: "a prompt split over a prompt cache gives what the whole gives",
    10: "rows are independent: a row of a batch, and a prompt of a list, is what it is alone",
}
"""The laws by number. Law 8 is checked by `mlx_patch.sweeps.check_sweeps`, for it needs sweeps."""


class ErrorScale:
    """Deviations and tolerances in one model's own precision.

    Args:
        model: The raw model; sums are rounded to its coarsest floating dtype.
        rounds: The name of a dtype that its own code rounds to, whatever its weights are; empty for none.
    """

    def __init__(self, model, rounds: str = "") -> None:
        dtypes = {array.dtype for array in parameters(model) if mx.issubdtype(array.dtype, mx.floating)}
        if rounds:
            dtypes.add(getattr(mx, rounds))
        self.rounding = max((float(mx.finfo(dtype).eps) for dtype in dtypes), default=0.0)
        self.exact = ROUNDINGS * self.rounding
        self._product = self.rounding
        self._one_order = False
        if mx.default_device() == mx.Device(mx.cpu):
            self.exact = 0.0
            self._product = float(mx.finfo(mx.float32).eps)
            self._one_order = mx.float32 not in dtypes

    @property
    def close(self) -> float:
        """The tolerance where sums are reordered or divided again."""
        return ROUNDINGS * self.rounding

    @property
    def half_the_digits(self) -> float:
        """The tolerance of a whole forward pass that rounds in another order. Larger deviations are errors."""
        return self.rounding**0.5

    def reordered(self, terms: int, blocks: int) -> float:
        """The tolerance of logits where sums of products are taken in another order in some blocks.

        A sum of n products is rounded n times, each time by half an `eps` at most and at random, so that two orders are
        about `sqrt(n) * eps` apart. That may flip one later rounding to a coarser type. Each block adds as much.
        On a CPU a BLAS multiplies float32 alone; half types have MLX's own loops and one order: there it is 0.

        Args:
            terms: How many products a sum has at most.
            blocks: In how many blocks.
        """
        if self._one_order:
            return 0.0
        per_block = terms**0.5 * self._product
        if self.rounding > self._product:
            per_block += self.rounding
        return blocks * per_block

    def beside(self, own: float) -> float:
        """The tolerance of activations inside a model whose logits deviate by `own`, a fraction of the largest logit.

        A quarter of the largest entry at most: with more, nothing would be checked.
        """
        return min(self.close + INSIDE * own, 0.25)

    def finding(self, law: int, description: str, actual: mx.array, expected: mx.array, tolerance: float) -> Finding:
        """The finding of a check that an array is the expected one."""
        return Finding(law, description, largest_deviation(actual, expected), tolerance)


def largest_deviation(actual: mx.array, expected: mx.array) -> float:
    """The largest difference of two arrays, as a fraction of the largest entry of the second.

    Infinite if they differ in shape or dtype, or in the place of a NaN or an infinity.
    """
    if (actual.shape, actual.dtype) != (expected.shape, expected.dtype):
        return float("inf")
    if not expected.size:  # nothing on either side: a router of no experts
        return 0.0
    actual = actual.astype(mx.float32)
    expected = expected.astype(mx.float32)
    differences = mx.where(actual == expected, 0, mx.abs(actual - expected))  # equal infinities differ by NaN
    sizes = mx.where(mx.isinf(expected), 0, mx.abs(expected))
    size = mx.maximum(mx.max(sizes), 1e-30)
    deviation = float(mx.max(differences) / size)
    if isnan(deviation):
        return float("inf")
    return deviation
