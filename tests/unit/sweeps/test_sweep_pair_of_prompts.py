"""Both ways of a pair in one call."""

import mlx.core as mx
import numpy as np
import pytest

import mlx_patch as mp
from mlx_patch import Replace, sweep, sweep_pair
from mlx_patch.errors import KindError, ShapeError
from mlx_patch.metrics import LogitDiff

CLEAN, CORRUPTED = mx.array([[3, 1, 4, 1, 5], [9, 2, 6, 5, 3]]), mx.array([[3, 8, 4, 1, 5], [9, 7, 6, 5, 3]])
GAP = LogitDiff(7, 11)


def test_the_last_stream_is_necessary_and_sufficient(tiny):
    """And what comes before the difference is neither."""
    model = tiny("llama")
    pair = sweep_pair(model, CLEAN, CORRUPTED, "resid_post", over=("layer", "pos"), metric=GAP)
    last = model.n_layers - 1
    assert pair.denoising.values[last, -1] == pytest.approx([1.0, 1.0], abs=1e-5)
    assert pair.noising.values[last, -1] == pytest.approx([0.0, 0.0], abs=1e-5)
    assert pair.denoising.values[:, 0] == pytest.approx(0.0, abs=1e-5)
    assert pair.noising.values[:, 0] == pytest.approx(1.0, abs=1e-5)


def test_each_way_is_the_sweep_that_its_name_says(tiny):
    model = tiny("llama")
    pair = sweep_pair(model, CLEAN, CORRUPTED, "z", over=("layer", "head"), metric=GAP, positions=-1)
    donors = {name: model.run_with_cache(tokens, "z")[1] for name, tokens in (("c", CLEAN), ("x", CORRUPTED))}
    denoising = sweep(model, CORRUPTED, Replace(donors["c"]), "z", ("layer", "head"), GAP, positions=-1)
    noising = sweep(model, CLEAN, Replace(donors["x"]), "z", ("layer", "head"), GAP, positions=-1)
    clean, corrupted = (GAP(model.run(tokens)) for tokens in (CLEAN, CORRUPTED))
    for ours, plain in ((pair.denoising, denoising), (pair.noising, noising)):
        wanted = (plain.values - np.array(corrupted)) / np.array(clean - corrupted)
        np.testing.assert_allclose(ours.values, wanted, atol=1e-5)


def test_several_sites_are_swept_in_one_call(tiny):
    pair = sweep_pair(tiny("llama"), CLEAN, CORRUPTED, ("attn_out", "mlp_out"), over=("site", "layer"), metric=GAP)
    assert pair.noising.coords["site"] == ("attn_out", "mlp_out")


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        (
            {"corrupted": CORRUPTED[:, :4]},
            ShapeError,
            r"`corrupted` must have .* \(2, 5\). Got \(2, 4\)",
        ),
        (
            {"clean": [CLEAN[0], CLEAN[1, :3]]},
            ShapeError,
            r"`clean` must hold .* one length. Got \[3, 5\]",
        ),
        ({"metric": [GAP, GAP]}, KindError, "`metric` must be one metric. Got 2"),
        ({"at": None}, KindError, "`at` must be a site. Got None"),
        ({"checkpoint": "night.npz"}, KindError, "`checkpoint` must be left out"),
    ],
)
def test_what_is_no_pair_is_refused(tiny, change, kind, message):
    given = {"clean": CLEAN, "corrupted": CORRUPTED, "at": "resid_post", "metric": GAP, **change}
    with pytest.raises(kind, match=message):
        mp.sweep_pair(tiny("llama"), **given)
