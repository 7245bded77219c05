"""Pairs, ragged prompts, stores and adapters on an embedded model, against what is done by hand."""

import mlx.core as mx
import numpy as np
import pytest

import mlx_patch as mp

FOLDER = "examples/models/tiny_instruct_ext"
PROMPTS = ["Mars (planet 4", "Mars (planet 4, diameter 6792km)", "Venus (planet 2", "Mercury"]


@pytest.fixture(scope="module")
def model():
    return mp.HookedModel.load(FOLDER)


def single(model, prompt, place):
    """The likeliest or the least likely next token."""
    return int(mx.argsort(model.model(model.tokenize(prompt))[0, -1])[place].item())


def test_a_pair_is_checked_and_its_ends_are_restored(model):
    clean, corrupted = (model.tokenize(text)[0].tolist() for text in ("Mars (planet 4, dia", "Mars (planet 7, dia"))
    answer, foil = single(model, PROMPTS[0], -1), single(model, PROMPTS[0], -2)
    pairs = mp.PromptPairs([mp.PromptPair(clean, corrupted, answer, foil)])
    report = pairs.check(model)
    logits = [model.model(mx.array([ids]))[0, -1] for ids in (clean, corrupted)]
    gaps = [(row[answer] - row[foil]).item() for row in logits]
    assert [report.clean[0], report.corrupted[0]] == pytest.approx(gaps, abs=1e-2)
    assert report.gap[0] == pytest.approx(gaps[0] - gaps[1], abs=1e-2)
    assert abs(gaps[0] - gaps[1]) > 0.01
    swept = mp.sweep_pair(model, pairs.clean, pairs.corrupted, "resid_post", metric=pairs.metric)
    assert swept.denoising.values[-1, 0] == pytest.approx(1, abs=1e-2)
    assert swept.denoising.baseline[0] == pytest.approx(0, abs=1e-2)


def test_ragged_prompts_are_each_its_own_run(model):
    edit = mp.Scale(0.0).at("mlp_out", layer=2, pos=-1)
    for prompt, logits, plain in zip(
        PROMPTS, model.run_each(PROMPTS, [edit], logits_at=-1), model.run_each(PROMPTS, logits_at=-1), strict=True
    ):
        alone = model.run(model.tokenize(prompt), [edit], logits_at=-1)
        assert mx.allclose(logits, alone, atol=1e-2, rtol=1e-2).item()
        assert not mx.allclose(logits, plain, atol=1e-2, rtol=1e-2).item()


def test_the_mean_of_a_store_is_that_of_all_rows(model, tmp_path):
    store = mp.ActivationStore.capture(model, PROMPTS, tmp_path / "store", sites=("mlp_out.2",), shard_mb=0.01)
    assert len(list(store.path.glob("shard-*"))) > 1
    caches = [model.run_with_cache(model.tokenize(prompt), sites=("mlp_out",))[1] for prompt in PROMPTS]
    rows = np.concatenate([np.array(cache["mlp_out", 2][0].astype(mx.float32)) for cache in caches])
    tokens = model.tokenize(PROMPTS[1])
    by_store = model.run(tokens, [mp.Ablate("mean", store.mean()).at("mlp_out", layer=2)])
    mean = mp.Replace(mx.array(rows.mean(axis=0)))
    by_hand = model.run(tokens, [mean.at("mlp_out", layer=2)])
    assert mx.allclose(by_store, by_hand, atol=2e-2, rtol=1e-2).item()
    assert not mx.allclose(by_store, model.run(tokens), atol=2e-2, rtol=1e-2).item()


def test_a_model_and_its_adapter_are_patched_into_each_other(tmp_path, save_adapter, model):
    save_adapter(mp.HookedModel.load(FOLDER).model, tmp_path)
    adapted, second = model.with_adapter(tmp_path), mp.HookedModel.load(FOLDER, adapter_path=tmp_path)
    tokens, metric = model.tokenize(PROMPTS[1]), mp.metrics.LogProb(single(model, PROMPTS[1], -1))
    assert mp.measure(adapted, tokens, metric) == pytest.approx(mp.measure(second, tokens, metric), abs=1e-2)
    got = mp.cross_patch(model, adapted, tokens, metric=metric)
    assert got.values[-1, 0] == pytest.approx(mp.measure(adapted, tokens, metric)[0], abs=1e-2)
    assert abs(got.values[-1, 0] - got.baseline[0]) > 0.1
