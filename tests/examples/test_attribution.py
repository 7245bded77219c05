"""The example of attribution, on a few layers of the real model, and its table and figure on a tiny one."""

from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

import mlx_patch as mp
from mlx_patch.testing import smollm2_folder

EXAMPLES = Path(__file__).parents[2] / "examples"
LAYERS = (0, 29)


@pytest.fixture(scope="module")
def example():
    """The script, importable as the scripts import one another."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(EXAMPLES))
        import attribution

        yield attribution


@pytest.fixture(scope="module")
def estimate(tiny):
    model = tiny("llama")
    _, cache = model.run_with_cache(mx.array([[3, 1, 4, 1]]), "z")
    ask = {"at": "z", "over": ("layer", "head"), "metric": mp.metrics.LogitDiff(3, 5), "progress": False}
    return mp.attribute(model, mx.array([[2, 7, 1, 8]]), mp.Replace(cache), confirm=3, sample=2, **ask)


def test_the_table_has_the_strongest_swept_cells(example, estimate):
    lines = example.table(estimate, 3).splitlines()
    assert len(lines) == 4
    exact = [abs(float(line.split()[-1])) for line in lines[1:]]
    assert exact == sorted(exact, reverse=True)
    assert lines[1].startswith("layer ")
    assert "5 cells swept exactly" in example.report("heads", estimate)


def test_numbers_and_figure_are_written(example, estimate, tmp_path):
    example.write({"heads": estimate}, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"attribution_heads.npz", "attribution_smollm2.png"}
    again = mp.Estimate.load(tmp_path / "attribution_heads.npz")
    np.testing.assert_array_equal(again.estimated, estimate.estimated)


@pytest.mark.real
@pytest.mark.slow
def test_the_first_order_misses_the_first_mlp_at_the_giver(example):
    model = mp.HookedModel.load(smollm2_folder("float32"))
    estimates = example.estimated(model, ("mlp_out",), LAYERS, confirm=2)
    found = estimates["mlp_out"]
    exact, first_order = found.mean() - found.baseline_mean(), found.estimated.mean(axis=-1) - found.baseline_mean()
    assert found.exact[0, 9]
    assert exact[0, 9] > 8
    assert abs(first_order[0, 9]) < 1
    assert first_order[1, 15] == pytest.approx(exact[1, 15], rel=0.1)
