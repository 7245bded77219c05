"""The example of heads and paths, on two layers of the real model."""

from pathlib import Path

import pytest

import mlx_patch as mp
from mlx_patch.testing import smollm2_folder

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.real
@pytest.mark.slow
def test_a_head_that_writes_nothing_matters_through_others(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    import indirect_object_heads as example

    found = example.effects(mp.HookedModel.load(smollm2_folder("float32")), layers=[20])
    direct, total = found.direct[0, 0].mean(), found.total[0, 0].mean()
    assert abs(direct) < 0.2
    assert total > 2
    example.write(found, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"head_effects_smollm2.png"}
