"""What checking the laws says: deviations, tolerances, the table, and what is refused."""

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from mlx_patch.errors import ShapeError
from mlx_patch.laws import (
    INSIDE,
    LAWS,
    ROUNDINGS,
    ErrorScale,
    Finding,
    Report,
    check_laws,
    largest_deviation,
    sums,
    watching,
)

GOOD = Finding(2, "blocks.0.hook_resid_post", 1e-7, 1e-6)
BAD = Finding(2, "blocks.1.hook_resid_post", 0.5, 1e-6)


def test_a_deviation_is_a_fraction_of_the_largest_entry():
    assert largest_deviation(mx.array([1.0, -7.0]), mx.array([1.0, -8.0])) == 0.125
    assert largest_deviation(mx.zeros(2), mx.zeros(2)) == 0
    assert largest_deviation(mx.zeros((1, 0)), mx.zeros((1, 0))) == 0


@pytest.mark.parametrize(
    ("got", "wanted"),
    [
        (mx.zeros((2, 1)), mx.zeros((1, 2))),
        (mx.zeros(2), mx.zeros(2, dtype=mx.bfloat16)),
        (mx.array([mx.nan]), mx.zeros(1)),
        (mx.zeros(1), mx.array([mx.nan])),
    ],
)
def test_a_shape_a_dtype_or_a_nan_is_infinitely_far(got, wanted):
    assert largest_deviation(got, wanted) == float("inf")


@pytest.mark.parametrize(
    ("dtype", "rounding"), [(mx.float32, 2.0**-23), (mx.bfloat16, 2.0**-7), (mx.float16, 2.0**-10)]
)
def test_tolerances_are_roundings_of_the_model_s_precision(dtype, rounding):
    layer = nn.Linear(2, 2)
    layer.set_dtype(dtype)
    scale = ErrorScale(layer)
    assert scale.close == ROUNDINGS * rounding
    assert scale.beside(0.0) == scale.close
    assert scale.beside(rounding) == min(scale.close + INSIDE * rounding, 0.25)
    assert scale.half_the_digits**2 == pytest.approx(rounding)


def test_however_far_off_a_model_itself_is_a_quarter_is_too_far():
    assert ErrorScale(nn.Linear(2, 2)).beside(0.9) == 0.25


def test_reordered_sums_are_allowed_the_root_of_their_length():
    """In each block."""
    layer = nn.Linear(2, 2)
    assert ErrorScale(layer).reordered(64, 3) == 3 * 8 * 2.0**-23
    assert ErrorScale(layer, "bfloat16").reordered(64, 3) == 3 * (8 * 2.0**-23 + 2.0**-7)
    layer.set_dtype(mx.bfloat16)
    on_cpu = mx.default_device() == mx.Device(mx.cpu)  # a GPU multiplies half types in many orders
    assert ErrorScale(layer).reordered(64, 3) == 0 or not on_cpu


@pytest.mark.parametrize("terms", [32, 64, 256, 1024, 4096])
def test_orders_of_a_sum_are_about_the_root_of_its_length_apart(terms):
    """One product after the other, from either end: what the tolerance is derived from."""
    products = np.random.default_rng(0).normal(size=(4, terms, 64)).astype(np.float32)
    forward, backward = (np.cumsum(order, axis=1, dtype=np.float32)[:, -1] for order in (products, products[:, ::-1]))
    allowed = ErrorScale(nn.Linear(2, 2)).reordered(terms, 1)
    apart = np.max(np.abs(forward - backward)) / np.max(np.abs(forward))
    assert allowed / 30 < apart <= allowed


def test_a_finding_holds_within_its_tolerance():
    assert GOOD.held
    assert not BAD.held
    assert Finding(1, "", 0.0, 0.0).held
    assert not Finding(1, "", float("nan"), 1.0).held


def test_a_report_says_what_is_broken():
    report = Report("a model", (GOOD, BAD))
    assert not report.ok
    assert report.broken == (BAD,)
    assert str(report).splitlines() == [
        "a model",
        "law  held checks  largest deviation  tolerance  what the law says",
        f"  2  NO        2  0.5                1e-06      {LAWS[2]}",
        "     broken: law 2, blocks.1.hook_resid_post: 0.5 > 1e-06",
    ]


def test_a_report_of_what_held_is_short():
    report = Report("a model", (GOOD,))
    assert report.ok
    assert str(report).splitlines()[2:] == [f"  2  yes       1  1e-07              1e-06      {LAWS[2]}"]


def test_a_law_shows_deviation_and_tolerance_of_one_check():
    """The tolerance is that of the check whose deviation it shows."""
    strict = Finding(2, "bit for bit", 0.0, 0.0)
    assert str(Report("a model", (GOOD, strict))).splitlines()[2].split()[3:5] == ["1e-07", "1e-06"]
    loose = Finding(2, "as if bit for bit", 0.0, 1e-6)
    assert str(Report("a model", (loose, strict))).splitlines()[2].split()[3:5] == ["0", "0"]
    broken = Finding(2, "not bit for bit", 1e-8, 0.0)
    assert str(Report("a model", (GOOD, broken))).splitlines()[2].split()[1:5] == ["NO", "2", "1e-08", "0"]


def test_laws_can_be_chosen(tiny):
    assert {finding.law for finding in check_laws(tiny(), laws=(sums,)).findings} == {2}
    assert {finding.law for finding in check_laws(tiny(), laws=(watching,)).findings} == {1}


def test_a_model_verifies_itself(tiny):
    report = tiny().verify(mx.array([[1, 2, 3, 4]]))
    assert report.ok
    assert {finding.law for finding in report.findings} == set(LAWS) - {8}  # which is of sweeps


def test_three_tokens_are_too_few(tiny):
    with pytest.raises(
        ShapeError, match=r"`prompt` must have 4 tokens or more. Got 3. Leave it out to use a made-up one."
    ):
        check_laws(tiny(), mx.array([[1, 2, 3]]))
