"""The laws on real weights, where one channel of the stream grows to 22,000, in float32 and in 4-bit."""

import mlx.core as mx
import pytest

from mlx_patch import HookedModel
from mlx_patch.testing import smollm2_folder

THE_CAT_SAT_ON = mx.array([[504, 2644, 3460, 335]])


@pytest.mark.real
@pytest.mark.slow
def test_in_float32(smollm2):
    report = smollm2.verify(THE_CAT_SAT_ON)
    assert report.ok, report


@pytest.mark.real
@pytest.mark.slow
def test_in_4bit():
    report = HookedModel.load(smollm2_folder("4bit")).verify(THE_CAT_SAT_ON)
    assert report.ok, report
