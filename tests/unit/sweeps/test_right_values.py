"""Numbers that were once wrong in silence, with the right ones: each by every executor, and by a plain run."""

import mlx.core as mx
import numpy as np
import pytest

import mlx_patch as mp

DIFF = mp.metrics.LogitDiff(10, 20)
TWELVE = mx.array([[5, 9, 2, 7, 11, 3, 8, 1, 4, 6, 12, 15]])
EXECUTORS = ("reference", "rows", "auto")


def hide_position_10(pattern, site):
    pattern[..., 10] = 0.0
    return pattern


CELLS = {
    "a key hidden in a window": ("gemma3_text", TWELVE, mp.Apply(hide_position_10).at("pattern", pos=-1), 0.413520),
    "a mean at the final norm": (
        "llama",
        TWELVE[:, :8],
        [mp.Scale(1.3).at("resid_post", layer=0), mp.Ablate("mean").at("final_norm")],
        -0.574109,
    ),
    "no embedding": ("muse_spark", TWELVE[:, :6], mp.Ablate("zero").at("embed"), 0.0),
}


@pytest.mark.parametrize(("name", "tokens", "cell", "right"), CELLS.values(), ids=CELLS)
def test_one_cell(tiny, name, tokens, cell, right):
    model = tiny(name)
    assert DIFF(model.run(tokens, cell)).item() == pytest.approx(right, abs=2e-5)
    for executor in EXECUTORS:
        found = mp.sweep(model, tokens, over=[cell], metric=DIFF, executor=executor).values
        assert found.item() == pytest.approx(right, abs=2e-5)


def test_resampling_one_intervention_a_prompt(tiny):
    batch = mx.array([[5, 50, 51, 7], [5, 9, 50, 51]])
    for executor in EXECUTORS:
        how = {"at": "mlp_out", "metric": DIFF, "layers": [0], "executor": executor}
        found = mp.sweep(tiny(), batch, [mp.Ablate("resample")] * 2, **how).values
        np.testing.assert_allclose(found, [[-4.603965, -4.558021]], atol=2e-5)


def test_a_mean_of_a_prompt_in_a_list(tiny):
    prompts = [[6, 1, 2, 8, 3], [5, 9, 2, 7, 11], [5, 9, 2, 7, 11, 3]]
    edit = mp.Ablate("mean").at("mlp_out", layer=0)
    for executor in EXECUTORS:
        found = mp.sweep(tiny(), prompts, over=[edit], metric=DIFF, executor=executor).values
        np.testing.assert_allclose(found, [[1.358106, -1.374523, -2.187599]], atol=2e-5)
    np.testing.assert_allclose(mp.measure(tiny(), prompts, DIFF, edit), found[0], atol=2e-5)
