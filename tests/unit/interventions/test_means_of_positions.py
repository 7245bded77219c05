"""Means over positions: without the first ones, and never mostly of one position without a word."""

import warnings

import mlx.core as mx
import numpy as np
import pytest

import mlx_patch as mp
from mlx_patch.errors import OutlierPositionWarning, ValueRefusedError
from mlx_patch.metrics import LogProb
from mlx_patch.testing import tiny_model

PROMPT = [[7, 3, 9, 4, 11, 5]]
PROMPTS = [[7, 3, 9, 4, 11, 5], [7, 1, 2, 8, 6, 10]]
SINK = 7
"""The token whose embedding is a thousand times as long as the others'."""


@pytest.fixture(scope="module")
def model():
    """A model in which the first position of each prompt is a sink, from the embedding on."""
    plain = tiny_model("llama")
    weight = plain.model.embed_tokens.weight
    weight[SINK] = 1000.0 * weight[SINK]
    return mp.HookedModel(plain)


@pytest.fixture
def cache(model):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return model.run_with_cache(PROMPTS, ("resid_post", "embed", "z"))[1]


def silently(do):
    """What something gives where no warning is raised."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return do()


def warned(do):
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        do()
    return [str(each.message) for each in seen if each.category is OutlierPositionWarning]


def at_last(model, intervention):
    edit = intervention.at("resid_post", layer=1, pos=-1)
    return model.run_with_cache(PROMPTS, ["resid_post"], [edit])[1]["resid_post", 1][:, -1]


def test_the_mean_of_a_cache_leaves_out_its_first_positions(model, cache):
    got = silently(lambda: at_last(model, mp.Ablate("mean", cache, skip=1)))
    wanted = np.array(cache["resid_post", 1])[:, 1:].mean(axis=(0, 1))
    np.testing.assert_allclose(np.array(got), [wanted, wanted], rtol=1e-5, atol=1e-5)


def test_a_run_s_own_mean_leaves_out_its_first_positions(model, cache):
    got = silently(lambda: at_last(model, mp.Ablate("mean", skip=2)))
    wanted = np.array(cache["resid_post", 1])[:, 2:].mean(axis=(0, 1))
    np.testing.assert_allclose(np.array(got), [wanted, wanted], rtol=1e-5, atol=1e-5)


def test_positions_are_absolute(model):
    """A cache that does not hold the first position has nothing of it to leave out."""
    part = model.run_with_cache(PROMPTS, pos=[2, 3])[1]
    every, skipping = (at_last(model, mp.Ablate("mean", part, skip=skip)) for skip in (0, 2))
    assert np.array_equal(every, skipping)
    assert not np.array_equal(every, at_last(model, mp.Ablate("mean", part, skip=3)))


@pytest.mark.parametrize("executor", ["grow", "rows", "reference"])
@pytest.mark.parametrize("heads", [None, [1]])
def test_a_sweep_skips_as_a_run_does(model, cache, executor, heads):
    for ablate in (mp.Ablate("mean", cache, skip=1), mp.Ablate("mean", skip=1)):
        got = silently(
            lambda ablate=ablate: mp.sweep(
                model,
                mx.array(PROMPTS),
                ablate,
                "z",
                "layer",
                LogProb(3),
                positions=[-1],
                heads=heads,
                executor=executor,
            )
        )
        for layer, value in enumerate(got.values):
            logits = model.run(PROMPTS, [ablate.at("z", layer=layer, pos=-1, head=heads)], logits_at=-1)
            np.testing.assert_allclose(value, LogProb(3)(logits), atol=1e-5)


def test_the_mean_of_a_store_leaves_out_first_positions(model, tmp_path):
    """Those of each prompt."""
    prompts = [PROMPT[0], PROMPT[0][:3], [SINK, 1]]
    store = mp.ActivationStore.capture(model, prompts, tmp_path / "store", ["resid_post"])
    got = silently(lambda: store.mean(skip=1))["resid_post", 1][0, 0]
    rows = [np.array(model.run_with_cache([p])[1]["resid_post", 1])[0, 1:] for p in prompts]
    np.testing.assert_allclose(np.array(got), np.concatenate(rows).mean(axis=0), rtol=1e-5, atol=1e-5)
    [text] = warned(store.mean)
    assert "position 0 dominates the mean at" in text
    assert "Leave it out with `skip=1`" in text
    assert not warned(lambda: store.mean("batch", n_positions=6))


@pytest.mark.parametrize("given", [True, False])
def test_a_mean_that_is_mostly_of_one_position_warns_once(model, cache, given):
    ablate = mp.Ablate("mean", cache) if given else mp.Ablate("mean")
    at = {"layer": range(2), "pos": -1}
    [text] = warned(lambda: model.run(PROMPTS, [ablate.at("resid_post", **at)]))
    assert "the mean at blocks." in text
    assert "position 0 dominates the mean" in text
    assert "times the median position's" in text
    assert not warned(lambda: model.run(PROMPTS, [ablate.at("resid_post", **at)]))


@pytest.mark.parametrize("executor", ["grow", "rows", "reference"])
@pytest.mark.parametrize("given", [True, False])
def test_a_sweep_warns_once(model, cache, executor, given):
    ablate = mp.Ablate("mean", cache) if given else mp.Ablate("mean")
    assert len(warned(lambda: swept(model, ablate, executor))) == 1


def swept(model, ablate, executor="auto"):
    return mp.sweep(model, mx.array(PROMPTS), ablate, "resid_post", ("layer", "pos"), LogProb(3), executor=executor)


def test_prompts_that_run_each_warn_of_their_own_means(model):
    edit = mp.Ablate("mean").at("resid_post", layer=0)
    assert len(warned(lambda: model.run_each([[1, 2, 3, 4], *PROMPTS, [2, 3]], [edit]))) == 1


def test_a_part_of_a_chain_warns(model, cache):
    chain = mp.Ablate("mean", cache) | mp.Scale(0.5)
    assert len(warned(lambda: model.run(PROMPTS, [chain.at("resid_post", layer=1)]))) == 1


def test_other_means_do_not_warn(model, cache, tiny):
    for ablate in (mp.Ablate("mean", cache, over="batch"), mp.Ablate("mean", cache, skip=1), mp.Ablate("zero")):
        assert not warned(lambda ablate=ablate: swept(model, ablate))
    assert not warned(lambda: swept(tiny(), mp.Ablate("mean")))
    assert not warned(lambda: at_last(model, mp.Ablate("mean", mx.ones((1, 6, model.d_model)))))


def test_a_position_far_behind_is_named_with_another_remedy(model):
    behind = model.run_with_cache([[1, 2, 3, 4, 5, SINK, 8]])[1]
    [text] = warned(lambda: model.run([[1, 2]], [mp.Ablate("mean", behind).at("resid_post", layer=0)]))
    assert "position 5" in text
    assert "`skip=" not in text
    assert "Take the mean of activations without it" in text


def test_no_norm_is_asked_for_where_nobody_evaluates_it(model):
    """Nor is one held after a run."""
    with model.editing(mp.Ablate("mean").at("resid_post", layer=0)):
        assert not warned(lambda: mx.eval(model.model(mx.array(PROMPTS))))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: mp.Ablate("mean", skip=-1), r"`skip` must be 0 or more\. Got -1"),
        (lambda: mp.Ablate("zero", skip=1), r"`skip` must be left out of a 'zero' ablation\. Got 1"),
        (lambda: mp.Ablate("mean", over="batch", skip=1), r"`skip` must be left out of a mean over 'batch'"),
    ],
)
def test_a_skip_that_means_nothing_is_refused(make, message):
    with pytest.raises(ValueRefusedError, match=message):
        make()


def test_a_skip_that_leaves_nothing_is_refused(model, cache, tmp_path):
    for ablate in (mp.Ablate("mean", cache, skip=6), mp.Ablate("mean", skip=6)):
        with pytest.raises(ValueRefusedError, match=r"`skip` must leave a position .* Got 6, with positions up to 5"):
            at_last(model, ablate)
    store = mp.ActivationStore.capture(model, PROMPT, tmp_path / "store", ["resid_post"])
    with pytest.raises(ValueRefusedError, match=r"`skip` must leave a position to average\. Got 9"):
        store.mean(skip=9)
    with pytest.raises(ValueRefusedError, match=r"`skip` must be 0 or more\. Got -1"):
        store.mean(skip=-1)
    with pytest.raises(ValueRefusedError, match=r"`skip` must be left out of a mean over 'batch'\. Got 1"):
        store.mean("batch", skip=1)


def test_a_skip_is_written_and_told_apart():
    assert repr(mp.Ablate("mean", skip=1)) == "Ablate('mean', skip=1)"
    assert mp.Ablate("mean", skip=1) != mp.Ablate("mean")
