"""`atp*`: the exact softmax for queries and keys, held against brute force and against sweeps."""

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from scaled import Scaled
from two_rows import OTHER, TOKENS

import mlx_patch as mp
from mlx_patch.attribution import _projections, _softmax
from mlx_patch.errors import ArchitectureError, MissingSiteError, ValueRefusedError
from mlx_patch.testing import tiny_model

pytestmark = pytest.mark.slow

METRIC = mp.metrics.LogitDiff(3, 5)
METRICS = [METRIC, mp.metrics.Prob(7)]


def softmax_rows(scores, sinks):
    """A softmax over keys and one sink a head, in float64, without the sink's share."""
    column = np.broadcast_to(sinks[:, None, None], (*scores.shape[:-1], 1))
    exponents = np.concatenate([scores, column], axis=-1)
    weights = np.exp(exponents - exponents.max(axis=-1, keepdims=True))
    return (weights / weights.sum(axis=-1, keepdims=True))[..., :-1]


@pytest.mark.parametrize("sharpness", [1.0, 6.0])
@pytest.mark.parametrize("cap", [None, 5.0])
@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("has_sinks", [False, True])
@pytest.mark.parametrize("lowest", [-np.inf, float(np.finfo(np.float32).min)])
def test_the_key_formula_is_brute_force_softmax(sharpness, cap, window, has_sinks, lowest):
    rng = np.random.default_rng(0)
    heads, length = 3, 7
    raw, new_raw = rng.normal(scale=sharpness, size=(2, heads, length, length))
    if cap:
        raw, new_raw = cap * np.tanh(raw / cap), cap * np.tanh(new_raw / cap)
    distance = np.arange(length)[:, None] - np.arange(length)
    is_visible = (distance >= 0) & (distance < (window or length))
    scores, new_scores = (np.where(is_visible, array, lowest) for array in (raw, new_raw))
    sinks = rng.normal(size=heads) if has_sinks else np.full(heads, -np.inf)
    gradient = rng.normal(size=(2, heads, length, length))
    pattern = softmax_rows(scores, sinks)
    expected = np.zeros(gradient.shape)
    for key in range(length):
        edited = scores.copy()
        edited[..., key] = new_scores[..., key]
        expected[..., key] = (gradient * (softmax_rows(edited, sinks) - pattern)).sum(axis=-1)
    arrays = [mx.array(array.astype(np.float32))[None] for array in (scores, new_scores, pattern)]
    found = np.array(_softmax.effect_of_each_key(*arrays, mx.array(gradient.astype(np.float32))[:, None]))[:, 0]
    is_precise = np.broadcast_to(pattern <= _softmax.LARGE, found.shape)
    np.testing.assert_allclose(found[is_precise], expected[is_precise], atol=3e-6, rtol=3e-5)
    assert np.isfinite(found).all()


def test_a_weight_that_rounds_to_0_can_grow():
    scores = mx.array([[[[0.0, -200.0]]]])
    found = _softmax.effect_of_each_key(
        scores, scores + mx.array([0.0, 250.0]), mx.array([[[[1.0, 0.0]]]]), scores[None] / 100
    )
    assert found[0, 0, 0, 0, 1].item() == pytest.approx(-2.0)


def in_runs(model, source, layer, site, cells):
    """The gradient of the pattern times its change, where each cell's pattern is that of a run of the whole model."""
    effects = []
    for places in cells:
        edit = mp.Replace(source).at(site, layer=layer, **places)
        _, edited = model.run_with_cache(TOKENS, ["pattern"], edits=[edit])
        cell = mp.Replace(edited).at("pattern", layer=layer)
        estimate = mp.attribute(model, TOKENS, over=[cell], metric=METRICS)
        effects.append((estimate.values - estimate.baseline)[0])
    return np.array(effects)


ARCHITECTURES = (
    "llama",
    "llama-sliding",
    "gemma2",
    "gpt_oss",
    "gpt2",
    "olmo2",
    "plamo",
    "qwen3",
    "jamba",
    "deepseek_v2",
)


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("site", ["q", "k", "rot_k"])
def test_it_is_the_gradient_of_the_pattern_times_its_change(tiny, name, site):
    """With sinks, soft-caps, windows, grouped heads, tiled heads, norms over all heads, and heads without RoPE."""
    model = tiny(name)
    layers = [found.layer for found in model.sites if found.name == site]
    if not layers:
        site, layers = "q", [found.layer for found in model.sites if found.name == "q"]
    layer = layers[-1]
    _, source = model.run_with_cache(OTHER, [site, "pattern"])
    n_heads = source[site, layer].shape[2]
    cells = [{"pos": pos, "head": head} for pos in (0, 3, 7) for head in (0, n_heads - 1)]
    cells += [{"pos": pos} for pos in (2, 6)] + [{"pos": [1, 4]}, {"head": 0}, {}, {"neuron": [0, 1], "pos": 5}]
    cells += [{"batch": 1, "pos": 4}]
    replace_all = mp.Replace(source)  # one for all cells, so that they share runs where they may
    over = [replace_all.at(site, layer=layer, **places) for places in cells]
    estimate = mp.attribute(model, TOKENS, over=over, metric=METRICS, method="atp*")
    expected = in_runs(model, source, layer, site, cells)
    found = estimate.values - estimate.baseline
    np.testing.assert_allclose(found, expected, atol=3e-5 * max(1.0, np.abs(expected).max()))
    assert np.abs(expected).max() > 1e-3


def linear_model():
    """A model whose logits are linear in the pattern of its last layer: no MLP there, and no final norm."""
    raw = tiny_model("llama")
    last = raw.model.layers[-1]
    last.mlp.down_proj.weight = mx.zeros_like(last.mlp.down_proj.weight)
    raw.model.norm = nn.Identity()
    return mp.HookedModel(raw)


@pytest.fixture(scope="module")
def linear():
    return linear_model()


INTERVENTIONS = {
    "replace": mp.Replace,
    "zero": lambda source: mp.Ablate("zero"),
    "own mean": lambda source: mp.Ablate("mean"),
    "add": lambda source: mp.Add(mx.cos(mx.arange(source["q", 2].shape[-1]))),
    "scale": lambda source: mp.Scale(3.0),
    "function": lambda source: mp.Apply(lambda activation, site: mx.tanh(activation)),
}
CELLS = {
    "each": {"over": ("layer", "head", "pos")},
    "late": {"over": ("layer", "pos"), "positions": [-1, -2]},
    "sets": {"over": ("layer", "pos"), "positions": [(0, 2), (2, 3, 5), 4]},
    "heads": {"over": ("layer", "head"), "heads": [0, (0, 1)]},
    "all": {"over": ("layer",)},
}


@pytest.mark.parametrize("cells", CELLS)
@pytest.mark.parametrize("name", INTERVENTIONS)
def test_it_is_exact_where_the_metric_is_linear_in_the_pattern(linear, name, cells):
    _, source = linear.run_with_cache(OTHER, ["q", "k", "rot_q", "rot_k"])
    choice = {"at": ("q", "k", "rot_q", "rot_k"), "layers": [2], "metric": METRIC, **CELLS[cells]}
    choice["over"] = ("site", *choice["over"])
    if cells in ("each", "heads") or choice.get("heads"):
        choice["heads"] = choice.get("heads", [0, 1])
    intervention = INTERVENTIONS[name](source)
    estimate = mp.attribute(linear, TOKENS, intervention, method="atp*", **choice)
    sweep = mp.sweep(linear, TOKENS, intervention, progress=False, **choice)
    np.testing.assert_allclose(estimate.values, sweep.values, atol=2e-5 * np.abs(sweep.values).max())
    plain = mp.attribute(linear, TOKENS, intervention, **choice)
    assert np.abs(plain.values - sweep.values).max() > 1e-3


def test_several_layers_and_other_sites_are_added_up(tiny):
    model = tiny("llama")
    _, source = model.run_with_cache(OTHER, model.sites)
    edits = [mp.Replace(source).at(*place) for place in (("q", 0), ("k", 1), ("z", 2), ("k", 2), ("pattern", 1))]
    choice = {"metric": METRICS, "method": "atp*"}
    both = mp.attribute(model, TOKENS, over=[edits], **choice)
    single = mp.attribute(model, TOKENS, over=edits, **choice)
    effects = single.values - single.baseline
    np.testing.assert_allclose((both.values - both.baseline)[0], effects.sum(axis=0), atol=1e-5)
    plain = mp.attribute(model, TOKENS, over=edits, metric=METRICS)
    for other in (2, 4):
        np.testing.assert_allclose(single.values[other], plain.values[other], atol=1e-5)
    alone = mp.attribute(model, TOKENS, over=[edits[2]], **choice)
    np.testing.assert_array_equal(alone.values[0], plain.values[2])


def test_a_window_of_layers_is_the_sum_of_its_layers(tiny):
    model = tiny("llama")
    choice = {"at": "k", "over": ("layer",), "metric": METRIC, "method": "atp*"}
    layers = mp.attribute(model, TOKENS, mp.Ablate("zero"), **choice)
    pairs = mp.attribute(model, TOKENS, mp.Ablate("zero"), layers=[(0, 1), (1, 2)], **choice)
    effects = layers.values - layers.baseline
    np.testing.assert_allclose(pairs.values - pairs.baseline, effects[:2] + effects[1:], atol=1e-5)


@pytest.mark.parametrize("name", ["llama", "llama-sliding"])
def test_each_prompt_of_a_list_has_what_it_has_alone(tiny, name):
    model = tiny(name)
    prompts = [[3, 1, 4, 1, 5, 9], [2, 7, 1, 8], [1, 6, 1, 8, 0, 3]]
    choice = {"at": ("q", "k"), "over": ("site", "layer", "pos"), "positions": [-1, -3], "metric": METRICS}
    together = mp.attribute(model, prompts, mp.Ablate("zero"), method="atp*", **choice)
    for number, prompt in enumerate(prompts):
        alone = mp.attribute(model, [prompt], mp.Ablate("zero"), method="atp*", **choice)
        np.testing.assert_allclose(together.values[..., number], alone.values[..., 0], rtol=1e-4, atol=1e-5)


def test_one_intervention_a_prompt(tiny):
    model = tiny("llama")
    _, source = model.run_with_cache(OTHER, "k")
    choice = {"at": "k", "over": ("layer", "pos"), "metric": METRIC, "method": "atp*"}
    both = mp.attribute(model, TOKENS, [mp.Replace(source), mp.Scale(2.0)], **choice)
    for row, intervention in enumerate((mp.Replace(source), mp.Scale(2.0))):
        alone = mp.attribute(model, TOKENS, intervention, **choice)
        np.testing.assert_allclose(both.values[..., row], alone.values[..., row], atol=1e-5)


@pytest.mark.parametrize("precision", ["4bit", "bfloat16", "float16"])
def test_in_coarser_precision_it_is_nearer_than_the_tangent(tiny, precision):
    model = tiny("llama", precision)
    _, source = model.run_with_cache(OTHER, ("q", "k"))
    choice = {"at": ("q", "k"), "over": ("site", "layer", "pos"), "layers": [2], "metric": METRIC}
    sweep = mp.sweep(model, TOKENS, mp.Replace(source), progress=False, **choice).values
    misses = [
        np.abs(mp.attribute(model, TOKENS, mp.Replace(source), method=method, **choice).values - sweep).mean()
        for method in ("atp*", "gradient")
    ]
    assert misses[0] < misses[1]


def test_it_nears_the_tangent_with_the_square_of_the_step(tiny):
    model = tiny("llama")
    _, source = model.run_with_cache(OTHER, ("q", "k"))
    distances = []
    for step in (0.2, 0.1):
        choice = {"at": ("q", "k"), "over": ("site", "layer", "head"), "heads": [0, 1], "metric": METRIC}
        scaled = Scaled(mp.Replace(source), step)
        star, plain = (mp.attribute(model, TOKENS, scaled, method=name, **choice) for name in ("atp*", "gradient"))
        distances.append(np.abs(star.values - plain.values).sum())
    assert 3.5 < distances[0] / distances[1] < 4.5


def test_without_queries_and_keys_it_is_the_gradient(tiny):
    choice = {"at": ("z", "mlp_out"), "over": ("site", "layer"), "metric": METRIC}
    star = mp.attribute(tiny("llama"), TOKENS, mp.Ablate("zero"), method="atp*", **choice)
    np.testing.assert_array_equal(star.values, mp.attribute(tiny("llama"), TOKENS, mp.Ablate("zero"), **choice).values)


def test_what_has_no_pattern_is_refused_with_the_reason(tiny, monkeypatch):
    from dataclasses import replace

    model = tiny("llama")
    family = model.layout.family
    block = {name: point for name, point in family.block.items() if name != "pattern"}
    bare = mp.HookedModel(model.model, family=replace(family, block=block, absent={"pattern": "it is a test"}))
    with pytest.raises(MissingSiteError, match="llama has no 'pattern': it is a test"):
        mp.attribute(bare, TOKENS, mp.Ablate("zero"), at="q", metric=METRIC, method="atp*")
    with pytest.raises(ArchitectureError, match=r"`method` must be 'gradient' at .*hook_k.* Use method='gradient'"):
        mp.attribute(tiny("iquestloopcoder"), TOKENS, mp.Ablate("zero"), at="k", metric=METRIC, method="atp*")
    with pytest.raises(ValueRefusedError, match=r"`steps` must be left out where method='atp\*'"):
        mp.attribute(model, TOKENS, mp.Ablate("zero"), at="q", metric=METRIC, method="atp*", steps=3)


def without_the_mean(scores, new_scores, pattern, gradient):
    change = new_scores - scores
    added = mx.where(pattern == 0, 0, pattern * mx.expm1(change))
    return added / (1 + added) * gradient


def saturated():
    """As `linear`, with nearly all of each row's weight on one key."""
    model = linear_model()
    attention = model.model.model.layers[-1].self_attn
    attention.q_proj.weight = 40 * attention.q_proj.weight
    return model


def assert_keys_are_exact(model):
    _, source = model.run_with_cache(OTHER, "k")
    choice = {"at": "k", "over": ("head", "pos"), "layers": [2], "heads": [0, 1], "metric": METRIC}
    estimate = mp.attribute(model, TOKENS, mp.Replace(source), method="atp*", **choice)
    sweep = mp.sweep(model, TOKENS, mp.Replace(source), progress=False, **choice)
    np.testing.assert_allclose(estimate.values, sweep.values, atol=2e-5 * np.abs(sweep.values).max())


def test_keys_with_nearly_all_of_the_weight_lose_no_digits():
    assert_keys_are_exact(saturated())


def heads_overlooked(site, picks, heads_are_mixed, region_of=_projections._region_of):
    return region_of(site, picks, False)


FAULTS = {
    "mean": ("llama", "effect_of_each_key", without_the_mean),
    "norm": ("olmo2", "_region_of", heads_overlooked),
    "set": ("llama", "_is_one_key", lambda site, picks: site.name == "k" and picks[1] is not None),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_turns_it_red(tiny, monkeypatch, fault):
    """The row's mean is left out; a norm over heads is overlooked; keys of several positions are taken for one."""
    name, *place = FAULTS[fault]
    monkeypatch.setattr(_projections, *place)
    with pytest.raises(AssertionError, match="Not equal"):
        test_it_is_the_gradient_of_the_pattern_times_its_change(tiny, name, "k")


def test_the_closed_form_alone_turns_it_red(monkeypatch):
    monkeypatch.setattr(_projections, "LARGE", 2.0)
    with pytest.raises(AssertionError, match="Not equal"):
        assert_keys_are_exact(saturated())
