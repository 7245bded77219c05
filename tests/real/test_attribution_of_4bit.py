"""The gradient of SmolLM2 with its 4-bit weights is what a finite difference of sweeps says."""

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from scaled import Scaled

import mlx_patch as mp
from mlx_patch.testing import smollm2_folder

CLEAN = "When John and Mary went to the shops, John gave a bottle of milk to"
CORRUPTED = "When John and Mary went to the shops, Mary gave a bottle of milk to"
STEP = 0.01
PLACES = (("z", 14), ("q", 20), ("mlp_post", 26))


@pytest.mark.real
def test_the_gradient_of_4_bit_weights_is_a_finite_difference():
    model = mp.HookedModel.load(smollm2_folder("4bit"))
    model.model.set_dtype(mx.float32)  # of scales, biases and norms: the weights stay packed
    assert isinstance(model.model.layers[0].self_attn.q_proj, nn.QuantizedLinear)
    clean, corrupted = model.tokenize(CLEAN), model.tokenize(CORRUPTED)
    _, source = model.run_with_cache(clean, [name for name, _ in PLACES], logits_at=-1)
    metric = mp.metrics.LogitDiff(" Mary", " John")
    replace = mp.Replace(source)
    estimate = mp.attribute(model, corrupted, over=[replace.at(*place, pos=-1) for place in PLACES], metric=metric)
    over = [Scaled(replace, factor).at(*place, pos=-1) for factor in (STEP, -STEP) for place in PLACES]
    above, below = mp.sweep(model, corrupted, over=over, metric=metric, progress=False).values.reshape(2, len(PLACES))
    expected = (above - below) / (2 * STEP)
    effects = (estimate.values - estimate.baseline)[:, 0]
    np.testing.assert_allclose(effects, expected, atol=0.01 * np.abs(expected).max())
    assert np.abs(expected).max() > 0.1
