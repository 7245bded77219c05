"""The laws on real weights, where one channel of the stream grows to 22,000, in float32 and in 4-bit."""

import os

import mlx.core as mx
import pytest

from mlx_patch import HookedModel
from mlx_patch.laws import heads, split, sums, watching
from mlx_patch.testing import ALL, check_laws, smollm2_folder

ON_ROUNDING = (watching, sums, heads, split)
"""Those on which real weights bear; `EVERY_LAW=1` runs all, and tests/laws has all of them on tiny models."""
LAWS = ALL if os.environ.get("EVERY_LAW") else ON_ROUNDING
LAWS_IN_4BIT = ALL if os.environ.get("EVERY_LAW") else (watching, split)

THE_CAT_SAT_ON = mx.array([[504, 2644, 3460, 335]])


@pytest.mark.real
@pytest.mark.slow
def test_in_float32(smollm2):
    report = check_laws(smollm2, THE_CAT_SAT_ON, LAWS)
    assert report.ok, report


@pytest.mark.real
@pytest.mark.slow
def test_in_4bit():
    model = HookedModel.load(smollm2_folder("4bit"))
    report = check_laws(model, THE_CAT_SAT_ON, LAWS_IN_4BIT)
    assert report.ok, report
