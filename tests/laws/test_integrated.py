"""Increments along a way sum to the metric's difference between its ends, at every cut of the stream."""

from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest

import mlx_patch as mp
from mlx_patch.attribution import _integrated

# Norms before and behind, parallel blocks, factors, soft-caps, windows, sinks, experts, latent attention, recurrences.
ARCHITECTURES = """llama llama-sliding gpt2 gpt_neox-parallel granite gemma2 gemma3 qwen3 olmo2 cohere mixtral gpt_oss
    deepseek_v3 qwen3_next mamba mamba2 falcon_h1 jamba nemotron_h rwkv7 minicpm3 lfm2""".split()
TOKENS = mx.array([[(11 + 37 * i) % 96 for i in range(6)]])
OTHER = mx.array([[(3 + 29 * i) % 96 for i in range(6)]])
METRIC = mp.metrics.LogitDiff(3, 5)
ROUNDING = 5e-4
"""What sums of float32 over a cut may be off by."""
SHARE, STEPS = 0.05, 8
"""The tiny models' weights are random, so that a metric bends often on a way. Its first part takes few steps."""
SHORTER = {"jamba": 0.01}
"""Before a router switches to another expert, where the metric jumps and no sum of gradients is complete."""


def cuts_of(model):
    """The sites that the whole computation goes through; rwkv7's later blocks read the values of its first one too."""
    if model.layout.family.shared:
        return ("embed", "final_norm")
    return ("embed", "resid_pre", "resid_post", "final_norm")


def assert_complete(model, monkeypatch, share):
    way_of = _integrated._way_of

    def first_part(prompt_run, cells):
        way = way_of(prompt_run, cells)
        return replace(way, source=way.at(share))

    monkeypatch.setattr(_integrated, "_way_of", first_part)
    sites = [site for site in model.sites if site.name in cuts_of(model)]
    _, source = model.run_with_cache(OTHER, sites)
    cuts = [mp.Replace(source).at(site.name, layer=site.layer) for site in sites]
    estimate = mp.attribute(model, TOKENS, over=cuts, metric=METRIC, method="integrated", steps=STEPS)
    end = METRIC(model.run(TOKENS, edits=[mp.Interpolate(source, share).at("embed")])).item()
    difference = end - estimate.baseline.item()
    left_out = np.abs(estimate.values - end).max()
    assert left_out <= estimate.residual + ROUNDING
    assert estimate.residual < 0.02 * abs(difference) + ROUNDING


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_increments_sum_to_the_difference_at_every_cut(tiny, name, monkeypatch):
    assert_complete(tiny(name), monkeypatch, SHORTER.get(name, SHARE))


def test_gradients_of_one_end_alone_turn_it_red(tiny, monkeypatch):
    increment = _integrated._increment
    monkeypatch.setattr(_integrated, "_increment", lambda before, after: increment(before, at_start(before, after)))
    with pytest.raises(AssertionError):
        assert_complete(tiny("llama"), monkeypatch, 0.2)


def at_start(before, after):
    """The activation of one end of a step with the gradient of the other."""
    return replace(after, gradient=before.gradient)
