"""An estimate is the derivative of the same sweep's cell, with its change scaled from 0."""

from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest
from scaled import Scaled
from two_rows import OTHER, TOKENS

import mlx_patch as mp
from mlx_patch.errors import KindError, UnknownNameError, ValueRefusedError

METRICS = [mp.metrics.LogitDiff(3, 5), mp.metrics.Prob(7), mp.metrics.Entropy(pos=4)]
STEP = 1e-2


def slope(model, tokens, intervention, **cells):
    """The derivative of a sweep, by a central difference."""
    ends = []
    for factor in (STEP, -STEP):
        scaled = Scaled(intervention, factor)
        if isinstance(intervention, list):
            scaled = [Scaled(member, factor) for member in intervention]
        ends.append(mp.sweep(model, tokens, scaled, progress=False, **cells).values)
    return (ends[0] - ends[1]) / (2 * STEP)


def assert_slope(model, tokens, intervention, **cells):
    estimate = mp.attribute(model, tokens, intervention, **cells)
    expected = slope(model, tokens, intervention, **cells)
    found = estimate.values - estimate.baseline
    assert np.abs(expected).max() > 1e-2
    # A central difference is off by the third derivative times the step squared, and by rounding over the step.
    np.testing.assert_allclose(found, expected, atol=1e-2 * np.abs(expected).max())
    return estimate


INTERVENTIONS = {
    "replace": mp.Replace,
    "replace by an array": lambda source: mp.Replace(source["resid_post", 1]),
    "interpolate": lambda source: mp.Interpolate(source, 0.3),
    "zero": lambda source: mp.Ablate("zero"),
    "own mean": lambda source: mp.Ablate("mean"),
    "mean of a source": lambda source: mp.Ablate("mean", source),
    "noise": lambda source: mp.Ablate("noise"),
    "scale": lambda source: mp.Scale(0.5),
    "clamp": lambda source: mp.Clamp(-0.5, 0.5),
    "add": lambda source: mp.Add(mx.arange(64) / 64),
    "project": lambda source: mp.Project(mx.cos(mx.arange(64))),
    "chain": lambda source: mp.Scale(0.5) | mp.Replace(source) | mp.Scale(2.0),
    "function": lambda source: mp.Apply(lambda activation, site: mx.tanh(activation)),
}


@pytest.mark.parametrize("name", INTERVENTIONS)
def test_of_the_stream_by_layer_and_position(model, source, name):
    intervention = INTERVENTIONS[name](source)
    assert_slope(model, TOKENS, intervention, at="resid_post", over=("layer", "pos"), metric=METRICS)


CELLS = {
    "heads": {"at": "z", "over": ("layer", "head"), "positions": [-1, 3]},
    "kv heads, layers together": {"at": "v", "over": ("layer", "head"), "layers": [(0, 1), 2]},
    "neurons": {"at": "mlp_post", "over": ("layer", "neuron"), "neurons": [0, (3, 95), -1], "positions": [-1]},
    "between mixer and MLP": {"at": "resid_mid", "over": ("layer", "pos"), "positions": [3, (5, 6)]},
    "sites": {"at": ("attn_out", "mlp_out", "rot_q"), "over": ("site", "layer")},
    "the pattern": {"at": "pattern", "over": ("layer", "head", "pos"), "positions": [4, 7]},
    "windows": {"at": "resid_pre", "over": ("layer",), "layers": mp.sweeps.windows(range(3), 2)},
    "the embedding": {"at": "embed", "over": ("pos",)},
    "behind the blocks": {"at": "final_norm", "over": ("pos",), "positions": [4, 7]},
    "a selector": {
        "at": "mlp_out",
        "over": ("layer", "pos"),
        "positions": [mp.pos.last, mp.pos.where(lambda position, token, text: position == 2)],
    },
}


@pytest.mark.parametrize("name", CELLS)
def test_of_cells_of_every_kind(model, source, name):
    assert_slope(model, TOKENS, mp.Replace(source), metric=METRICS, **CELLS[name])


def test_over_alphas(model, source):
    cells = {"at": "resid_post", "over": ("layer", "alpha"), "metric": METRICS[0]}
    estimate = mp.attribute(model, TOKENS, mp.Interpolate(source, 0.5), alphas=[0.5, 1.0], **cells)
    effects = estimate.values - estimate.baseline
    np.testing.assert_allclose(effects[:, 0] * 2, effects[:, 1], rtol=1e-5)


def test_cells_of_a_list_with_edits_at_several_sites(model, source):
    over = [
        [mp.Replace(source).at("z", layer=0, head=1), mp.Ablate("zero").at("mlp_out", layer=1, pos=[2, 5])],
        mp.Scale(0.5).at("resid_pre", layer=2, batch=1),
        [mp.Scale(2.0).at("resid_post", layer=0), mp.Replace(source).at("resid_post", layer=0, pos=-1)],
    ]
    estimate = mp.attribute(model, TOKENS, over=over, metric=METRICS[0])
    one, other = (mp.attribute(model, TOKENS, over=[edit], metric=METRICS[0]) for edit in over[0])
    both = (one.values - one.baseline) + (other.values - other.baseline)
    np.testing.assert_allclose(estimate.values[:1] - estimate.baseline, both, rtol=1e-5)
    assert estimate.values[1, 0] == estimate.baseline[0]  # the edit is in the other row


def test_each_prompt_of_a_list_has_what_it_has_alone(model, source):
    prompts = [[3, 1, 4, 1, 5, 9], [2, 7, 1, 8], [1, 6, 1, 8, 0, 3]]
    cells = {"at": "resid_post", "over": ("layer", "pos"), "positions": [-1, -3], "metric": METRICS[:2]}
    together = mp.attribute(model, prompts, mp.Ablate("mean"), **cells)
    for number, prompt in enumerate(prompts):
        alone = mp.attribute(model, [prompt], mp.Ablate("mean"), **cells)
        np.testing.assert_allclose(together.values[..., number], alone.values[..., 0], rtol=1e-4, atol=1e-5)


def test_an_intervention_for_each_prompt(model, source):
    interventions = [mp.Replace(source), mp.Ablate("zero")]
    cells = {"at": "resid_post", "over": ("layer", "pos"), "metric": METRICS[0]}
    assert_slope(model, TOKENS, interventions, **cells)


def test_a_source_of_another_length_that_is_aligned(model):
    clean, corrupted = mx.array([[1, 2, 3, 4, 5, 6]]), mx.array([[1, 2, 9, 3, 4, 5, 6]])
    alignment = mp.align(clean, corrupted)
    _, cache = model.run_with_cache(clean, sites="resid_post")
    cells = {"at": "resid_post", "over": ("layer",), "positions": alignment, "metric": METRICS[0]}
    found = mp.attribute(model, corrupted, mp.Replace(cache), **cells)
    expected = mp.attribute(model, corrupted, mp.Replace(cache, alignment), **{**cells, "positions": None})
    np.testing.assert_allclose(found.mean().sum(), expected.mean().sum(), rtol=1e-5)


def test_the_same_prompts_give_exactly_nothing(model):
    _, cache = model.run_with_cache(TOKENS, sites=model.sites)
    estimate = mp.attribute(
        model, TOKENS, mp.Replace(cache), at=("z", "pattern", "resid_mid"), over=("site", "layer"), metric=METRICS
    )
    assert (estimate.values == estimate.baseline).all()


ELEMENTWISE = ("replace", "interpolate", "zero", "scale", "clamp", "chain")


@pytest.mark.parametrize("name", INTERVENTIONS)
def test_cells_together_are_what_they_are_one_by_one(model, source, name, monkeypatch):
    intervention = INTERVENTIONS[name](source)
    assert intervention.elementwise == (name in ELEMENTWISE)
    cells = {"at": "resid_post", "over": ("layer", "pos", "neuron"), "neurons": [0, (1, 7)], "metric": METRICS}
    if name in ("replace by an array", "add", "project"):
        cells |= {"over": ("layer", "pos"), "neurons": None}
    fast = mp.attribute(model, TOKENS, intervention, **cells)
    monkeypatch.setattr("mlx_patch.execution.cells._together.may_go_together", lambda edits: False)
    slow = mp.attribute(model, TOKENS, intervention, **cells)
    np.testing.assert_allclose(fast.values, slow.values, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["llama", "llama-sliding", "mamba", "qwen3_next"])
def test_late_cells_alone_are_as_beside_early_ones(tiny, name):
    """Alone, they run over a prompt cache of what comes before; here of each kind."""
    cells = {"at": "resid_post", "over": ("layer", "pos"), "metric": mp.metrics.LogitDiff(3, 5)}
    every = mp.attribute(tiny(name), TOKENS, mp.Scale(0.5), **cells)
    n = TOKENS.shape[1]
    late = mp.attribute(tiny(name), TOKENS, mp.Scale(0.5), positions=range(n - 2, n), **cells)
    assert np.abs(every.values - every.baseline)[:, n - 2].max() > 1e-3
    np.testing.assert_allclose(late.values, every.values[:, n - 2 :], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("precision", ["4bit", "bfloat16", "float16"])
def test_in_coarser_precision(tiny, precision):
    """The estimate of coarse activations is near that of the float32 model's, within their rounding."""
    cells = {"at": "resid_post", "over": ("layer", "pos"), "metric": METRICS[0]}
    model = tiny("llama", precision)
    _, cache = model.run_with_cache(OTHER, "resid_post")
    estimate = mp.attribute(model, TOKENS, mp.Replace(cache), **cells)
    if precision == "4bit":
        assert_slope(model, TOKENS, mp.Replace(cache), **cells)
        return
    wide = tiny("llama")
    wide_estimate = mp.attribute(wide, TOKENS, mp.Replace(wide.run_with_cache(OTHER, "resid_post")[1]), **cells)
    largest = np.abs(wide_estimate.values - wide_estimate.baseline).max()
    assert np.abs(estimate.values - wide_estimate.values).max() < 0.1 * largest


@pytest.mark.parametrize("answer", ["log prob", "starts with"])
def test_answers_of_several_tokens(model, source, answer):
    """A probability is put together from log-probabilities to first order, not by their exponential."""
    metric = {
        "log prob": mp.metrics.SequenceLogProb([[3, 5, 7]]),
        "starts with": mp.metrics.StartsWith([[3, 5], [7]]),
    }[answer]
    cells = {"at": "resid_post", "over": ("layer", "pos"), "positions": [-1, -2], "metric": metric}
    estimate = mp.attribute(model, TOKENS, mp.Replace(source), **cells)
    expected = slope(model, TOKENS, mp.Replace(source), **cells)
    found = estimate.values - estimate.baseline
    np.testing.assert_allclose(found, expected, atol=2e-2 * np.abs(expected).max())


def test_the_model_is_as_it_was(model, source):
    before = model.run(TOKENS)
    mp.attribute(model, TOKENS, mp.Replace(source), at="z", over=("layer", "head"), metric=METRICS)
    assert mx.array_equal(model.run(TOKENS), before)
    assert not model.model.training or all(module.training for module in model.model.modules())


@pytest.mark.parametrize(
    ("metric", "name"),
    [(mp.metrics.Rank(3), "rank"), (mp.metrics.GenerateMatches("a"), "generate_matches")],
)
def test_a_metric_without_a_gradient_is_refused_by_name(model, metric, name):
    with pytest.raises(KindError, match=rf"`metric` must have a gradient.*{name}.*`sweep`"):
        mp.attribute(model, TOKENS, mp.Ablate("zero"), at="z", metric=[METRICS[0], metric])
    with pytest.raises(KindError, match=r"`metric` must give one number per example\. Got TopK"):
        mp.attribute(model, TOKENS, mp.Ablate("zero"), at="z", metric=mp.metrics.TopK(3))


def test_other_arguments_are_refused(model):
    ask = {"intervention": mp.Ablate("zero"), "at": "z", "metric": METRICS[0]}
    with pytest.raises(UnknownNameError, match=r"`method` must be a way to estimate\. Got 'gradents'.*gradient"):
        mp.attribute(model, TOKENS, method="gradents", **ask)
    with pytest.raises(ValueRefusedError, match=r"`confirm` must be 0 or more\. Got -1"):
        mp.attribute(model, TOKENS, confirm=-1, **ask)
    with pytest.raises(KindError, match=r"`sample` must be a whole number\. Got 0\.5"):
        mp.attribute(model, TOKENS, sample=0.5, **ask)
    with pytest.raises(ValueRefusedError, match=r"`steps` must be left out where method='gradient'"):
        mp.attribute(model, TOKENS, steps=4, **ask)
    with pytest.raises(KindError, match=r"`intervention` must be Replace\(cache\) where method='integrated'"):
        mp.attribute(model, TOKENS, method="integrated", **ask)


def test_one_way_leads_to_one_source(model, source):
    ask = {"metric": METRICS[0], "method": "integrated"}
    others = mp.Replace(model.run_with_cache(OTHER, sites="z")[1])
    with pytest.raises(KindError, match=r"`intervention` must have one source where method='integrated'\. Got 2"):
        mp.attribute(model, TOKENS, over=[mp.Replace(source).at("z", layer=0), others.at("z", layer=1)], **ask)


@pytest.mark.slow
def test_increments_sum_to_the_metric_s_difference_at_every_cut(model, source):
    cells = {"at": ("resid_pre", "resid_post"), "over": ("site", "layer"), "metric": METRICS}
    estimate = mp.attribute(model, TOKENS, mp.Replace(source), method="integrated", **cells)
    there = mp.measure(model, OTHER, METRICS)
    left_out = estimate.values - there
    assert np.abs(left_out).max() <= estimate.residual * 1.5 + 1e-4
    assert estimate.residual < 0.1 * np.abs(there - estimate.baseline).max()
    coarse = mp.attribute(model, TOKENS, mp.Replace(source), method="integrated", steps=2, **cells)
    assert coarse.residual > estimate.residual
    assert coarse.provenance["steps"] == 2


def test_increments_of_lists_and_selectors_are_of_their_places(model):
    """Positions that a prompt of its own chooses, and no others."""
    _, source = model.run_with_cache(OTHER[:1], sites="resid_post")
    cells = {"at": "resid_post", "over": ("layer", "pos"), "metric": METRICS[0], "method": "integrated", "steps": 4}
    batch = mp.attribute(model, TOKENS[:1], mp.Replace(source), positions=[2, -1], **cells)
    chosen = [mp.pos.where(lambda position, token, text: position == 2), mp.pos.last]
    by_selector = mp.attribute(model, TOKENS[:1], mp.Replace(source), positions=chosen, **cells)
    listed = mp.attribute(model, [TOKENS[0]], mp.Replace(source), positions=[2, -1], **cells)
    for other in (by_selector, listed):
        np.testing.assert_allclose(other.values, batch.values, rtol=1e-4, atol=1e-5)


def test_increments_of_each_prompt_are_those_of_its_own_places(model, source):
    """A selector that finds another position in each row."""
    chosen = [mp.pos.where(lambda position, token, text: token in (85, 2))]
    cells = {"at": "resid_post", "over": ("layer", "pos"), "metric": METRICS[0], "method": "integrated", "steps": 4}
    batch = mp.attribute(model, TOKENS, mp.Replace(source), positions=chosen, **cells)
    for row in range(2):
        own = mp.Replace(model.run_with_cache(OTHER[row : row + 1], sites="resid_post")[1])
        alone = mp.attribute(model, TOKENS[row : row + 1], own, positions=chosen, **cells)
        np.testing.assert_allclose(batch.values[..., row], alone.values[..., 0], rtol=1e-4, atol=1e-5)


def test_increments_of_two_edits_in_a_cell_are_those_of_both(model, source):
    edits = [mp.Replace(source).at("z", layer=1, head=head) for head in (0, 2)]
    cells = {"metric": METRICS[0], "method": "integrated", "steps": 4}
    both = mp.attribute(model, TOKENS, over=[edits, [edits[0], edits[0]]], **cells)
    single = mp.attribute(model, TOKENS, over=edits, **cells)
    effects = single.values - single.baseline
    np.testing.assert_allclose(both.values[0] - both.baseline, effects.sum(axis=0), atol=1e-5)
    np.testing.assert_allclose(both.values[1] - both.baseline, effects[0], atol=1e-5)


def test_increments_of_one_site_are_those_of_its_parts(model, source):
    cells = {"metric": METRICS[0], "method": "integrated", "steps": 4}
    whole = mp.attribute(model, TOKENS, mp.Replace(source), at="z", over=("layer",), **cells)
    parts = mp.attribute(model, TOKENS, mp.Replace(source), at="z", over=("layer", "head", "pos"), **cells)
    effects = (parts.values - parts.baseline).sum(axis=(1, 2))
    np.testing.assert_allclose(effects, whole.values - whole.baseline, atol=1e-4)


def test_confirmed_cells_are_exact_and_the_others_are_not(model, source):
    cells = {"at": ("z", "mlp_out"), "over": ("site", "layer", "pos"), "metric": METRICS}
    estimate = mp.attribute(model, TOKENS, mp.Replace(source), confirm=5, sample=7, seed=3, progress=False, **cells)
    exact = mp.sweep(model, TOKENS, mp.Replace(source), progress=False, **cells)
    assert estimate.exact.sum() == 12
    assert estimate.sampled.sum() == 7
    assert not (estimate.sampled & ~estimate.exact).any()
    np.testing.assert_allclose(estimate.values[estimate.exact], exact.values[estimate.exact], atol=1e-5)
    np.testing.assert_array_equal(estimate.values[~estimate.exact], estimate.estimated[~estimate.exact])
    strengths = np.abs(estimate.estimated[..., 0, :].mean(axis=-1) - estimate.baseline[0].mean())
    strongest = estimate.exact & ~estimate.sampled
    assert strengths[strongest].min() >= strengths[~strongest].max()
    assert estimate.plan.n_cells == 12
    again = mp.attribute(model, TOKENS, mp.Replace(source), confirm=5, sample=7, seed=3, progress=False, **cells)
    np.testing.assert_array_equal(again.sampled, estimate.sampled)


def test_baseline_and_coordinates_are_those_of_the_sweep(model, source):
    cells = {"at": "resid_post", "over": ("layer", "pos"), "metric": METRICS[0]}
    estimate = mp.attribute(model, TOKENS, mp.Replace(source), **cells)
    assert replace(estimate, provenance={}).exact.sum() == 0
    sweep = mp.sweep(model, TOKENS, mp.Replace(source), progress=False, **cells)
    np.testing.assert_allclose(estimate.baseline, sweep.baseline, atol=1e-5)
    assert (estimate.axes, dict(estimate.coords)) == (sweep.axes, dict(sweep.coords))


STANDING = {
    "noise": [mp.Ablate("noise", scale=3.0).at("embed", pos=[1, 2])],
    "behind the cells": [mp.Scale(-2.0).at("resid_mid", layer=1), mp.Ablate("zero").at("z", layer=2, head=1)],
    "at the cells' own place": [mp.Scale(-2.0).at("resid_post", layer=1), mp.Add(mx.ones(64)).at("resid_pre", pos=3)],
    "at a raw path": [mp.Scale(0.5).at("model.layers.1.mlp.down_proj:output")],
}


@pytest.mark.parametrize("name", STANDING)
def test_at_the_run_with_standing_edits(model, source, name):
    cells = {"at": ("resid_post", "mlp_out"), "over": ("site", "layer", "pos"), "positions": [0, 2, -1, (3, 4)]}
    estimate = assert_slope(model, TOKENS, mp.Replace(source), edits=STANDING[name], metric=METRICS, **cells)
    expected = mp.measure(model, TOKENS, METRICS, STANDING[name])
    np.testing.assert_allclose(estimate.baseline, expected, atol=1e-5)
    assert estimate.provenance["edits"] == [repr(edit) for edit in STANDING[name]]


def test_standing_edits_of_prompts_of_several_lengths(model):
    prompts = [[3, 1, 4, 1, 5, 9], [2, 7, 1, 8]]
    assert_slope(model, prompts, mp.Scale(0.5), at="mlp_out", edits=STANDING["noise"], metric=METRICS[:2])


@pytest.mark.parametrize("name", STANDING)
def test_a_prompt_in_its_own_place_under_standing_edits(model, name):
    own = model.run_with_cache(TOKENS, sites=model.sites, edits=STANDING[name])[1]
    cells = {"at": ("resid_post", "mlp_out"), "over": ("site", "layer", "pos")}
    estimate = mp.attribute(model, TOKENS, mp.Replace(own), edits=STANDING[name], metric=METRICS[0], **cells)
    assert (estimate.values == estimate.baseline).all()


def test_confirmation_has_the_standing_edits(model, source):
    ask = {"at": "resid_post", "over": ("layer", "pos"), "metric": METRICS[0], "edits": STANDING["noise"]}
    estimate = mp.attribute(model, TOKENS, mp.Replace(source), confirm=3, sample=2, **ask)
    swept = mp.sweep(model, TOKENS, mp.Replace(source), **ask)
    assert estimate.exact.sum() == 5
    np.testing.assert_allclose(estimate.values[estimate.exact], swept.values[estimate.exact], atol=1e-5)


def test_a_way_to_another_prompt_has_no_standing_edits(model, source):
    with pytest.raises(ValueRefusedError, match=r"`edits` must be left out where method='integrated'.* Got Ablate"):
        mp.attribute(
            model,
            TOKENS,
            mp.Replace(source),
            at="resid_post",
            metric=METRICS[0],
            method="integrated",
            edits=STANDING["noise"],
        )


def test_standing_edits_that_mix_rows(model, source):
    """What reads a batch carries one row's change to the metrics of all: prompts of a list have it each by itself."""
    edits = [mp.Ablate("mean").at("mlp_out", layer=1), mp.Ablate("noise").at("resid_mid", layer=2)]
    ask = {"at": "resid_post", "over": ("layer", "pos"), "metric": METRICS, "edits": edits}
    with pytest.raises(KindError, match=r"`edits` must read each row of a batch by itself.* Got Ablate\('mean'\)"):
        mp.attribute(model, TOKENS, mp.Scale(0.5), **ask)
    assert_slope(model, [*TOKENS], mp.Scale(0.5), **ask)
