"""`mp.Features` beside what else a run may have: lists, pieces, caches, steps, paths, other verbs."""

import mlx.core as mx
import numpy as np
import pytest
from dictionary_files import arrays_of, saelens_folder, without
from mlx_lm.models.cache import make_prompt_cache

import mlx_patch as mp
from mlx_patch.errors import PatchError
from mlx_patch.sweeps import pieces_of

SITE = mp.Site("resid_post", 1)
METRIC = mp.metrics.LogitDiff(7, 30)
CONFIGS = [{}, {"architecture": "topk", "k": 4}]


@pytest.fixture(params=CONFIGS, ids=["relu", "topk"])
def sae(tmp_path, tiny, request):
    arrays = without(arrays_of(np.random.default_rng(5), tiny().d_model, 20), "threshold")
    return mp.dictionaries.load(saelens_folder(tmp_path, arrays, request.param))


def plain(sae, features, cache=None, pos=None):
    """The same edit as a function of the whole stream, by whole decodings, with the error added."""

    def splice(x, site):
        values = sae.encode(x)
        edited = mx.array(values)
        for feature in features:
            edited[..., feature] = 0.0 if cache is None else sae.encode(cache[SITE])[..., feature]
        return x + (sae.decode(edited) - sae.decode(values))

    return mp.Apply(splice).at("resid_post", layer=1, pos=pos)


def test_in_a_batch_and_a_list(tiny, tokens, sae):
    model = tiny()
    prompts = [tokens, (tokens[:, :5] + 9) % 96, (tokens + 30) % 96]
    edit = mp.Features(sae, mp.Ablate("zero"), [2, 5]).at("resid_post", layer=1, pos=mp.pos.last)
    for prompt, logits in zip(prompts, model.run_each(prompts, [edit]), strict=True):
        expected = model.run(prompt, [plain(sae, [2, 5], pos=-1)])
        np.testing.assert_allclose(logits, expected, atol=2e-4)
    result = mp.sweep(
        model, prompts, mp.Features(sae, mp.Ablate("zero")), "resid_post", "feature", METRIC, layers=1, features=[2, 5]
    )
    for number, prompt in enumerate(prompts):
        logits = np.array(model.run(prompt, [plain(sae, [5])])[0, -1])
        np.testing.assert_allclose(result.values[1, number], logits[7] - logits[30], atol=2e-4)


def test_each_prompt_may_have_its_own_source(tiny, tokens, sae):
    model = tiny()
    prompts, sources = [tokens, (tokens + 1) % 96], [(tokens + 40) % 96, (tokens + 50) % 96]
    caches = [model.run_with_cache(source, str(SITE))[1] for source in sources]
    edits = [mp.Features(sae, mp.Replace(cache), [1, 2, 3]) for cache in caches]
    result = mp.sweep(model, prompts, edits, "resid_post", "feature", METRIC, layers=1)
    assert result.coords["feature"] == (1, 2, 3)
    for number, prompt in enumerate(prompts):
        logits = np.array(model.run(prompt, [plain(sae, [3], caches[number])])[0, -1])
        np.testing.assert_allclose(result.values[2, number], logits[7] - logits[30], atol=2e-4)


def test_in_pieces_and_behind_a_prompt_cache(tiny, tokens, sae):
    model = tiny()
    cache = model.run_with_cache((tokens + 40) % 96, str(SITE))[1]
    edit = mp.Features(sae, mp.Replace(cache), [1, 4]).at("resid_post", layer=1)
    expected = model.run(tokens, [plain(sae, [1, 4], cache)])
    with pieces_of(3):
        swept = mp.sweep(model, tokens, over=[edit], metric=METRIC)
    last = np.array(expected[0, -1])
    np.testing.assert_allclose(swept.values[0, 0], last[7] - last[30], atol=2e-4)
    past = make_prompt_cache(model.model)
    first = model.run(tokens[:, :5], [mp.Features(sae, mp.Scale(0.0), 1).at("resid_post", layer=1)], prompt_cache=past)
    second = model.run(tokens[:, 5:], [mp.Features(sae, mp.Scale(0.0), 1).at("resid_post", layer=1)], prompt_cache=past)
    whole = model.run(tokens, [plain(sae, [1])])
    np.testing.assert_allclose(mx.concatenate([first, second], axis=1), whole, atol=2e-4)


def test_during_a_generation(tiny, tokens, sae, word_tokenizer):
    model = mp.HookedModel(tiny().model, word_tokenizer)
    edit = mp.Features(sae, mp.Add(mx.array([40.0])), 3).at("resid_post", layer=1)
    always = model.generate(tokens, [edit], max_tokens=6)
    later = model.generate(tokens, [edit.during(mp.steps.generated)], max_tokens=6)
    add = mp.Add(40.0 * sae.directions(3)[0]).at("resid_post", layer=1)
    assert always == model.generate(tokens, [add], max_tokens=6)
    assert later == model.generate(tokens, [add.during(mp.steps.generated)], max_tokens=6)
    assert len({always, later, model.generate(tokens, max_tokens=6)}) == 3


def test_two_edits_act_one_after_the_other(tiny, tokens, sae):
    """The second encodes what the first has left. Of TopK, that may be other features."""
    model = tiny()
    edits = [mp.Features(sae, mp.Scale(0.0), feature).at("resid_post", layer=1) for feature in (2, 5)]
    expected = model.run(tokens, [plain(sae, [2]), plain(sae, [5])])
    np.testing.assert_allclose(model.run(tokens, edits), expected, atol=2e-4)
    chain = mp.Features(sae, mp.Scale(0.0), 2) | mp.Features(sae, mp.Scale(0.0), 5)
    np.testing.assert_allclose(model.run(tokens, [chain.at("resid_post", layer=1)]), expected, atol=2e-4)


def test_along_a_path(tiny, tokens, sae):
    """What of a feature in the stream's last sum reaches the logits directly is all of it."""
    model = tiny()
    last = model.n_layers - 1
    edit = mp.Features(sae, mp.Scale(0.0), [1, 6])
    whole = mp.measure(model, tokens, METRIC, [edit.at("mlp_out", layer=last)])
    [path] = mp.sweep(model, tokens, edit, "mlp_out", "layer", METRIC, layers=[last], via=mp.Receiver("logits")).values
    np.testing.assert_allclose(path, whole, atol=1e-4)


def test_noise_and_other_rows_of_features(tiny, tokens, sae):
    model = tiny()
    batch = mx.concatenate([tokens, (tokens + 3) % 96])
    x = model.run_with_cache(batch, str(SITE))[1][SITE]
    for kind, expected in (("resample", sae.encode(x)[::-1]), ("mean", mx.mean(sae.encode(x), (0, 1), keepdims=True))):
        edit = mp.Features(sae, mp.Ablate(kind), [0, 7]).at("resid_post", layer=1)
        change = (expected - sae.encode(x))[..., [0, 7]] @ sae.directions([0, 7])
        replaced = model.run(batch, [mp.Replace(x + change).at("resid_post", layer=1)])
        np.testing.assert_allclose(model.run(batch, [edit]), replaced, atol=2e-4)
    seeded = mp.Features(sae, mp.Ablate("noise"), [0, 7])
    result = mp.sweep(model, batch, seeded, "resid_post", ("feature", "seed"), METRIC, layers=1, seeds=range(2))
    assert result.values.shape == (2, 2, 2)
    assert np.all(result.values[:, 0] != result.values[:, 1])


def test_every_method_of_attribution_takes_features(tiny, tokens, sae):
    model = tiny()
    cache = model.run_with_cache((tokens + 2) % 96, str(SITE))[1]
    edit = mp.Features(sae, mp.Replace(cache), [1, 4, 9])
    places = {"at": "resid_post", "over": ("feature", "pos"), "metric": METRIC, "layers": 1}
    exact = mp.sweep(model, tokens, edit, **places)
    estimate = mp.attribute(model, tokens, edit, confirm=2, **places)
    assert estimate.values.shape == exact.values.shape
    np.testing.assert_allclose(estimate.values[estimate.exact], exact.values[estimate.exact], atol=1e-4)
    same = mp.attribute(model, tokens, edit, method="atp*", **places)  # which differs at queries and keys alone
    plain_estimate = mp.attribute(model, tokens, edit, **places)
    np.testing.assert_allclose(same.values, plain_estimate.values, atol=1e-5)
    with pytest.raises(PatchError, match=r"must be Replace\(cache\) where method='integrated'"):
        mp.attribute(model, tokens, edit, method="integrated", **places)
