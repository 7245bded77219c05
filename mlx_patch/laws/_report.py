"""What checking the laws gives: a finding for each law and site, and a report of them all."""

from dataclasses import dataclass
from math import isnan

import mlx.core as mx
from typing_extensions import override

from mlx_patch.provenance import parameters

ROUNDINGS = 8
"""How many roundings to nearest of an array's largest entry a deviation may amount to where sums are reordered."""

INSIDE = 16
"""How many times as far off as its logits what is inside a model may be: its softmax and its products see more."""


@dataclass(frozen=True)
class Finding:
    """How one law fared at one site.

    Attributes:
        law: The number of the law.
        what: What was looked at.
        deviation: The largest difference, as a fraction of the largest entry of what it should be.
        tolerance: What the deviation may be at most: 0 where the two must be equal bit for bit.
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
    """The laws on one model.

    Attributes:
        model: What was checked.
        findings: One a law and site.
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

    @override
    def __str__(self) -> str:
        lines = [self.model, _HEADING]
        for law, says in LAWS.items():
            of = [finding for finding in self.findings if finding.law == law]
            if of:
                lines.append(_row(law, of, says))
        lines += [f"     broken: law {f.law}, {f.what}: {f.deviation:.2g} > {f.tolerance:.2g}" for f in self.broken]
        return "\n".join(lines)


_HEADING = f"{'law':>3}  {'held':<5}{'checks':>6}  {'largest deviation':<19}{'tolerance':<11}what the law says"


def _row(law: int, findings: list[Finding], says: str) -> str:
    """A law's row: its worst finding, with the tolerance of that one; of equals the strictest."""
    worst = max(findings, key=lambda finding: (not finding.held, finding.deviation, -finding.tolerance))
    held = "yes" if all(finding.held for finding in findings) else "NO"
    return f"{law:>3}  {held:<5}{len(findings):>6}  {worst.deviation:<19.2g}{worst.tolerance:<11.2g}{says}"


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
        model: The raw model; its coarsest floating dtype is what sums are rounded to.
        rounds: The dtype that its own code rounds to whatever its weights are, by name; empty for none.
    """

    def __init__(self, model, rounds: str = "") -> None:
        dtypes = {p.dtype for p in parameters(model) if mx.issubdtype(p.dtype, mx.floating)}
        dtypes |= {getattr(mx, rounds)} if rounds else set()
        self.rounding = max((float(mx.finfo(dtype).eps) for dtype in dtypes), default=0.0)
        on_cpu = mx.default_device() == mx.Device(mx.cpu)
        self.exact = 0.0 if on_cpu else ROUNDINGS * self.rounding
        self._product = float(mx.finfo(mx.float32).eps) if on_cpu else self.rounding
        self._one_order = on_cpu and mx.float32 not in dtypes

    @property
    def close(self) -> float:
        """The tolerance where sums are reordered or divided again."""
        return ROUNDINGS * self.rounding

    @property
    def half_the_digits(self) -> float:
        """The most that rounding may make of a whole forward pass; models that are further off err."""
        return self.rounding**0.5

    def reordered(self, terms: int, blocks: int) -> float:
        """The tolerance of logits where sums of products are taken in another order in some blocks.

        A sum of n products is rounded n times, each time by half an `eps` at most and at random, so that two orders are
        about `sqrt(n) * eps` apart. That may turn one later rounding to a coarser type over. Each block adds as much.
        On a CPU a BLAS multiplies float32 alone; half types have MLX's own loops and one order: there it is 0.

        Args:
            terms: How many products a sum has at most.
            blocks: In how many blocks.
        """
        if self._one_order:
            return 0.0
        turned_over = self.rounding if self.rounding > self._product else 0.0
        return blocks * (terms**0.5 * self._product + turned_over)

    def beside(self, own: float) -> float:
        """The tolerance of what is inside a model whose logits are themselves off by `own`, a fraction of the largest.

        A quarter of the largest entry at most: with more, nothing would be checked.
        """
        return min(self.close + INSIDE * own, 0.25)

    def finding(self, law: int, what: str, got: mx.array, wanted: mx.array, tolerance: float) -> Finding:
        """Compare what was got with what was wanted."""
        return Finding(law, what, largest_deviation(got, wanted), tolerance)


def largest_deviation(got: mx.array, wanted: mx.array) -> float:
    """The largest difference of two arrays, as a fraction of the largest entry of the second.

    Infinite where they differ in shape or dtype, or one has a NaN or an infinity that the other has not.
    """
    if (got.shape, got.dtype) != (wanted.shape, wanted.dtype):
        return float("inf")
    if not wanted.size:  # nothing on either side: a router of no experts
        return 0.0
    got, wanted = got.astype(mx.float32), wanted.astype(mx.float32)
    apart, size = mx.where(got == wanted, 0, mx.abs(got - wanted)), mx.where(mx.isinf(wanted), 0, mx.abs(wanted))
    value = mx.max(apart) / mx.maximum(mx.max(size), 1e-30)
    number = float(value)
    return float("inf") if isnan(number) else number
