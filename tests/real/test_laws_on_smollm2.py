"""The laws on real weights, where one channel of the stream grows to 22,000, in float32 and in 4-bit."""

import mlx.core as mx
import pytest

from mlx_patch import HookedModel
from mlx_patch.laws import heads, independent, split, sums, watching
from mlx_patch.testing import ALL, check_laws, smollm2_folder

THE_CAT_SAT_ON = mx.array([[504, 2644, 3460, 335]])


@pytest.mark.real
@pytest.mark.slow
def test_in_float32(smollm2):
    """All but law 10, of several rows, which no weight has a part in and which takes a third of the time."""
    report = check_laws(smollm2, THE_CAT_SAT_ON, tuple(law for law in ALL if law is not independent))
    assert report.ok, report


@pytest.mark.real
@pytest.mark.slow
def test_in_4bit():
    """The laws on which rounding bears most; tests/laws has all of them on tiny models in 4-bit."""
    model = HookedModel.load(smollm2_folder("4bit"))
    report = check_laws(model, THE_CAT_SAT_ON, (watching, sums, heads, split))
    assert report.ok, report
