"""The axis `seed`: all that draws random numbers in a cell, standing or its own, does so from the cell's seed."""

from itertools import product

import mlx.core as mx
import numpy as np
import pytest

import mlx_patch as mp
from mlx_patch import Ablate, Replace, Scale
from mlx_patch.errors import KindError, SelectionError, ShapeError, UnknownNameError, ValueRefusedError
from mlx_patch.metrics import Entropy, GenerateMatches, LogProb, SequenceLogProb
from mlx_patch.sweeps import windows

METRIC = LogProb(3)
LAYERS, SEEDS = (0, 2), (0, 4, 1)
NOISE = Ablate("noise", scale=3.0)


@pytest.fixture(scope="module")
def model(tiny):
    return tiny("llama")


@pytest.fixture(scope="module")
def clean(model, tokens_of_module):
    return model.run_with_cache(tokens_of_module, sites="resid_post")[1]


@pytest.fixture(scope="module")
def tokens_of_module():
    return mx.array([[(11 + 37 * i) % 96 for i in range(8)]])


def noise(seed):
    return [Ablate("noise", scale=3.0, seed=seed).at("embed", pos=[1, 2])]


def restored(model, tokens, clean, **more):
    choices = {"at": "resid_post", "layers": LAYERS, "metric": METRIC, "edits": noise(9), "seeds": SEEDS, **more}
    return mp.sweep(model, tokens, Replace(clean), positions=2, **choices)


@pytest.mark.parametrize("executor", ["auto", "rows", "reference"])
@pytest.mark.parametrize("over", [("layer", "seed"), ("seed", "layer")])
def test_standing_edits_of_each_seed(model, tokens, clean, over, executor):
    result = restored(model, tokens, clean, over=over, executor=executor)
    assert result.axes == (*over, "example")
    assert result.coords["seed"] == SEEDS
    baselines = [mp.measure(model, tokens, METRIC, noise(seed)) for seed in SEEDS]
    assert len(np.unique(baselines)) == len(SEEDS)
    for seed, layer in product(SEEDS, LAYERS):
        expected = mp.measure(
            model, tokens, METRIC, [*noise(seed), Replace(clean).at("resid_post", layer=layer, pos=2)]
        )
        np.testing.assert_allclose(result.sel(seed=seed, layer=layer).values, expected, atol=2e-5)
    np.testing.assert_allclose(result.seed_baselines, baselines, atol=2e-5)
    np.testing.assert_allclose(result.baseline, np.mean(baselines, axis=0), atol=2e-5)
    np.testing.assert_allclose(result.sel(seed=4).baseline, baselines[1], atol=2e-5)
    np.testing.assert_allclose(result.sel(seed=[0, 1]).baseline, np.mean([baselines[0], baselines[2]], 0), atol=2e-5)
    assert result.provenance["token_layers"] == result.plan.token_layers
    assert "drawn 3 times" in str(result.plan)
    assert "prompts: 1 of 8 tokens;" in str(result.plan)
    assert len(result.provenance["tokens"]) == 1


def test_an_intervention_that_draws_shares_one_unpatched_run(model, tokens):
    result = mp.sweep(model, tokens, Scale(0.5) | NOISE, "z", ("layer", "seed"), METRIC, layers=LAYERS, seeds=SEEDS)
    for (row, layer), (column, seed) in product(enumerate(LAYERS), enumerate(SEEDS)):
        edit = (Scale(0.5) | Ablate("noise", scale=3.0, seed=seed)).at("z", layer=layer)
        np.testing.assert_allclose(result.values[row, column], mp.measure(model, tokens, METRIC, [edit]), atol=2e-5)
    np.testing.assert_allclose(result.baseline, mp.measure(model, tokens, METRIC), atol=2e-5)
    assert result.seed_baselines is None
    assert result.plan.base == tokens.size * model.n_layers


def test_cells_and_standing_edits_have_one_seed(model, tokens):
    choices = {"at": "z", "over": ("seed",), "seeds": SEEDS, "metric": METRIC, "edits": noise(0)}
    result = mp.sweep(model, tokens, NOISE, positions=-1, **choices)
    for number, seed in enumerate(SEEDS):
        edits = [*noise(seed), Ablate("noise", scale=3.0, seed=seed).at("z", pos=-1)]
        np.testing.assert_allclose(result.values[number], mp.measure(model, tokens, METRIC, edits), atol=2e-5)


def test_lists_of_prompts_and_several_metrics(model, clean):
    prompts = [[3, 1, 4, 1, 5, 9], [2, 7, 1, 8], [1, 6, 1, 8, 0, 3]]
    metrics = [METRIC, SequenceLogProb([7, 12]), Entropy()]
    choices = {"over": ("layer", "seed"), "at": "mlp_out", "seeds": SEEDS, "edits": noise(0), "positions": [-1]}
    result = mp.sweep(model, prompts, Scale(-1.0), layers=windows(range(3), 2), metric=metrics, **choices)
    assert result.axes == ("layer", "seed", "metric", "example")
    layers = result.coords["layer"]
    for (row, window), (column, seed) in product(enumerate(layers), enumerate(SEEDS)):
        edits = [*noise(seed), Scale(-1.0).at("mlp_out", layer=window, pos=-1)]
        expected = mp.measure(model, prompts, metrics, edits)
        np.testing.assert_allclose(result.values[row, column], expected, atol=2e-5)
    baselines = [mp.measure(model, prompts, metrics, noise(seed)) for seed in SEEDS]
    np.testing.assert_allclose(result.seed_baselines, baselines, atol=2e-5)
    one = result.of_metric(result.metrics[-1])
    np.testing.assert_allclose(one.seed_baselines, np.array(baselines)[:, -1], atol=2e-5)


def test_metrics_of_two_kinds(tiny, tokens, clean, word_tokenizer):
    model = mp.HookedModel(tiny().model, word_tokenizer)
    both = [GenerateMatches(r"w\d", max_tokens=2), METRIC]
    result = restored(model, tokens, clean, over=("layer", "seed"), metric=both)
    alone = restored(model, tokens, clean, over=("layer", "seed"))
    np.testing.assert_allclose(result.values[:, :, 1], alone.values, atol=2e-5)
    np.testing.assert_allclose(result.seed_baselines[:, 1], alone.seed_baselines, atol=2e-5)


def test_the_mean_over_seeds(model, tokens, clean, tmp_path):
    result = restored(model, tokens, clean, over=("layer", "seed"))
    mean = result.averaged("seed")
    assert mean.axes == ("layer", "example")
    np.testing.assert_allclose(mean.values, result.values.mean(axis=1))
    np.testing.assert_array_equal(mean.baseline, result.baseline)
    assert mean.seed_baselines is None
    assert mean.provenance["averaged"] == {"seed": list(SEEDS)}
    assert mean.plot().get_xlabel() == "layer"
    result.save(tmp_path / "seeds.npz")
    loaded = mp.SweepResult.load(tmp_path / "seeds.npz")
    np.testing.assert_array_equal(loaded.seed_baselines, result.seed_baselines)
    fractions = result.normalised(clean=1.0, corrupted=-9.0)
    np.testing.assert_allclose(fractions.seed_baselines, (result.seed_baselines + 9) / 10, rtol=1e-5)


def test_a_mean_is_along_an_axis_of_several(model, tokens, clean):
    result = restored(model, tokens, clean, over=("layer", "seed"))
    with pytest.raises(UnknownNameError, match=r"`axis` must be an axis of cells\. Got 'example'"):
        result.averaged("example")
    with pytest.raises(ValueRefusedError, match=r"`axis` must leave another axis of cells\. Got 'layer'"):
        result.averaged("seed").averaged("layer")


def test_a_result_has_one_baseline_a_seed():
    values, coords = np.zeros((2, 1), np.float32), {"seed": (0, 1), "example": (0,)}
    with pytest.raises(
        ShapeError, match=r"`seed_baselines` must have one baseline a seed, shape \(2, 1\)\. Got \(1, 1\)"
    ):
        mp.SweepResult(values, ("seed", "example"), coords, values[0], {}, seed_baselines=values[:1])


def test_a_stopped_sweep_goes_on(model, tokens, clean, tmp_path):
    def stop(done, total):
        if done >= 2:
            raise KeyboardInterrupt

    path = tmp_path / "night.npz"
    part = restored(model, tokens, clean, over=("layer", "seed"), checkpoint=path, progress=stop)
    assert 0 < part.missing < 6
    whole = restored(model, tokens, clean, over=("layer", "seed"))
    resumed = restored(model, tokens, clean, over=("layer", "seed"), checkpoint=path)
    np.testing.assert_array_equal(resumed.values, whole.values)
    np.testing.assert_array_equal(resumed.seed_baselines, whole.seed_baselines)


def test_estimates_of_each_seed(model, tokens, clean):
    choices = {"at": "resid_post", "over": ("layer", "seed"), "metric": METRIC, "edits": noise(0)}
    estimate = mp.attribute(model, tokens, Replace(clean), seeds=SEEDS, **choices)
    for number, seed in enumerate(SEEDS):
        one = mp.attribute(model, tokens, Replace(clean), at="resid_post", metric=METRIC, edits=noise(seed))
        np.testing.assert_allclose(estimate.values[:, number], one.values, atol=1e-5)
        np.testing.assert_allclose(estimate.seed_baselines[number], one.baseline, atol=1e-5)
    with pytest.raises(KindError, match=r"`confirm` and `sample` must be 0 where standing edits differ along 'seed'"):
        mp.attribute(model, tokens, Replace(clean), seeds=SEEDS, confirm=1, **choices)


REFUSED = [
    (KindError, r"`over` must not have 'seed' where nothing draws random numbers\. Got Scale\(2\.0\)", {}),
    (ValueRefusedError, r"`seeds` must be given if `over` has 'seed'\. Got None\. Write range", {"seeds": None}),
    (SelectionError, r"`seeds` must be 0 or more\. Got -1", {"seeds": [-1]}),
    (SelectionError, r"`seeds` must hold ints", {"seeds": [0.5]}),
    (ValueRefusedError, r"`seeds` must be left out unless `over` has 'seed'", {"over": "layer"}),
    (ValueRefusedError, r"`seeds` must be left out if `over` holds cells", {"over": [NOISE.at("z")]}),
]


@pytest.mark.parametrize(("error", "message", "choices"), REFUSED)
def test_what_has_no_seeds_is_refused(model, tokens, error, message, choices):
    ask = {"at": "z", "over": ("layer", "seed"), "metric": METRIC, "seeds": [0, 1], **choices}
    for verb in (mp.sweep, mp.plan):
        with pytest.raises(error, match=message):
            verb(model, tokens, Scale(2.0), **ask)


def test_only_what_draws_has_a_seed():
    with pytest.raises(
        KindError, match=r"`intervention` must draw random numbers to have a seed\. Got Ablate\('zero'\)"
    ):
        Ablate("zero").with_seed(1)
    assert (Scale(2.0) | NOISE).with_seed(3) == Scale(2.0) | Ablate("noise", scale=3.0, seed=3)
