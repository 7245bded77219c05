"""`graddrop`: estimates without the gradient through one layer at a time."""

import numpy as np
import pytest
from scaled import Scaled
from two_rows import OTHER, TOKENS

import mlx_patch as mp
from mlx_patch.errors import ArchitectureError, KindError, ValueRefusedError

pytestmark = pytest.mark.slow

METRICS = [mp.metrics.LogitDiff(3, 5), mp.metrics.Prob(7)]
STEP = 2e-3


def frozen(model, own, layer):
    """Edits that keep what a layer adds to the stream as it is in the unpatched run."""
    sites = [site for site in model.sites if site.layer == layer and site.name in ("mixer_out", "mlp_out")]
    return [mp.Replace(own).at(site.name, layer=layer) for site in sites]


def expected_effects(model, cells):
    """By sweeps in which one layer at a time adds what it adds in the unpatched run: their derivatives, as sizes."""
    _, own = model.run_with_cache(TOKENS, model.sites)
    total = 0.0
    for layer in range(model.n_layers):
        ends = []
        for factor in (STEP, -STEP):
            over = [
                [Scaled(intervention, factor).at(*place), *frozen(model, own, layer)] for intervention, place in cells
            ]
            ends.append(mp.sweep(model, TOKENS, over=over, metric=METRICS, progress=False).values)
        total = total + np.abs(ends[0] - ends[1]) / (2 * STEP)
    return total / (model.n_layers - 1)


# Blocks in sequence and in parallel, factors on what is added, mixers side by side, experts, norms behind.
ARCHITECTURES = ("llama", "cohere", "granite", "falcon_h1", "mixtral", "gemma2", "qwen3_next", "mamba2")


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_it_is_the_mean_size_of_sweeps_with_one_layer_frozen(tiny, name):
    model = tiny(name)
    _, source = model.run_with_cache(OTHER, model.sites)
    middle = model.n_layers // 2
    places = [("embed",), ("resid_post", 0), ("mixer_out", 0), ("mixer_out", middle)]
    places += [(site.name, site.layer) for site in model.sites if site.name in ("z", "q", "mlp_post")]
    cells = [(mp.Replace(source), place) for place in places]
    over = [intervention.at(*place) for intervention, place in cells]
    estimate = mp.attribute(model, TOKENS, over=over, metric=METRICS, graddrop=True)
    expected = expected_effects(model, cells)
    found = estimate.values - estimate.baseline
    np.testing.assert_allclose(found, expected, atol=2e-2 * np.abs(expected).max())
    assert (found >= -1e-6).all()
    assert np.abs(expected).max() > 1e-2


def test_it_goes_with_the_exact_softmax(tiny):
    model = tiny("llama")
    _, source = model.run_with_cache(OTHER, ("q", "k"))
    choice = {"at": ("q", "k"), "over": ("site", "layer", "head"), "heads": [0, 1], "metric": METRICS}
    star = mp.attribute(model, TOKENS, mp.Replace(source), method="atp*", graddrop=True, **choice)
    for factor in (1.0, 1e-2):
        scaled = Scaled(mp.Replace(source), factor)
        plain = mp.attribute(model, TOKENS, scaled, graddrop=True, **choice)
        near = mp.attribute(model, TOKENS, scaled, method="atp*", graddrop=True, **choice)
        distance = np.abs(near.values - plain.values).max()
        assert (distance > 1e-3) == (factor == 1.0)
    assert star.provenance["method"] == "atp*"


def test_a_result_says_that_effects_have_no_sign(tiny, tmp_path):
    model = tiny("llama")
    _, source = model.run_with_cache(OTHER, "z")
    choice = {"at": "z", "over": ("layer", "head"), "metric": METRICS[0], "progress": False}
    estimate = mp.attribute(model, TOKENS, mp.Replace(source), graddrop=True, confirm=4, sample=3, **choice)
    assert estimate.absolute
    assert not mp.attribute(model, TOKENS, mp.Replace(source), **choice).absolute
    assert (estimate.estimated >= estimate.baseline - 1e-6).all()
    sweep = mp.sweep(model, TOKENS, mp.Replace(source), **choice)
    np.testing.assert_allclose(estimate.values[estimate.exact], sweep.values[estimate.exact], atol=1e-5)
    strengths = (estimate.estimated - estimate.baseline).mean(axis=-1)
    strongest = estimate.exact & ~estimate.sampled
    assert strengths[strongest].min() >= strengths[~strongest].max()
    agreement = estimate.agreement
    assert (agreement.exact >= 0).all()
    assert np.isnan(agreement.sign_agreement)
    assert "sign" not in repr(agreement)
    estimate.save(tmp_path / "estimate.npz")
    assert mp.Estimate.load(tmp_path / "estimate.npz").absolute


def test_the_baseline_is_that_of_the_sweep(tiny):
    estimate = mp.attribute(tiny("llama"), TOKENS, mp.Ablate("zero"), at="z", metric=METRICS[0], graddrop=True)
    plain = mp.attribute(tiny("llama"), TOKENS, mp.Ablate("zero"), at="z", metric=METRICS[0])
    np.testing.assert_array_equal(estimate.baseline, plain.baseline)


def test_what_it_cannot_do_is_refused(tiny, monkeypatch):
    model = tiny("llama")
    ask = {"intervention": mp.Ablate("zero"), "at": "z", "metric": METRICS[0]}
    with pytest.raises(ValueRefusedError, match=r"`graddrop` must be False where method='integrated'.*'atp\*'"):
        mp.attribute(model, TOKENS, method="integrated", graddrop=True, **ask)
    with pytest.raises(KindError, match=r"`graddrop` must be True or False\. Got 1\."):
        mp.attribute(model, TOKENS, graddrop=1, **ask)
    monkeypatch.setattr("mlx_patch.attribution._grad_drop._ADDED", ())
    with pytest.raises(ArchitectureError, match=r"`model` must have two layers or more.*Leave `graddrop` out"):
        mp.attribute(model, TOKENS, graddrop=True, **ask)


def test_a_layer_that_is_not_stopped_turns_it_red(tiny, monkeypatch):
    monkeypatch.setattr("mlx_patch.attribution._grad_drop._ADDED", ("mlp_out",))
    with pytest.raises(AssertionError, match="Not equal"):
        test_it_is_the_mean_size_of_sweeps_with_one_layer_frozen(tiny, "llama")
