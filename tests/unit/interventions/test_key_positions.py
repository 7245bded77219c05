"""Key positions of scores and patterns, and knockouts, against patterns that are written out in numpy."""

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.models.cache import make_prompt_cache

import mlx_patch as mp
from mlx_patch.errors import FileError, SelectionError, ValueRefusedError

BATCH = mx.array([[11, 48, 85, 26, 63, 4], [5, 9, 2, 77, 31, 60]])
METRIC = mp.metrics.LogitDiff(7, 30)


def pattern_of(model, *edits, tokens=BATCH, layer=1):
    _, cache = model.run_with_cache(tokens, "pattern", edits)
    return np.array(cache["pattern", layer])


def without(pattern, queries, keys):
    """A pattern whose queries do not read some keys, made to sum to 1 again."""
    left = pattern.copy()
    left[:, :, np.ix_(queries, keys)[0], np.ix_(queries, keys)[1]] = 0
    return left / left.sum(axis=-1, keepdims=True)


@pytest.mark.parametrize(
    ("key", "keys"), [(2, [2]), (-4, [2]), ([0, 3], [0, 3]), (slice(1, 3), [1, 2]), (slice(None, -4), [0, 1])]
)
def test_a_knockout_gives_the_weight_to_other_keys(tiny, key, keys):
    edit = mp.Knockout().at("attn_scores", layer=1, pos=[-1, 3], key=key)
    found = pattern_of(tiny(), edit)
    np.testing.assert_allclose(found, without(pattern_of(tiny()), [3, 5], keys), atol=1e-6)


def test_any_intervention_takes_keys(tiny):
    before = pattern_of(tiny())
    _, donor = tiny().run_with_cache(BATCH[:, ::-1], "pattern")
    cases = {
        mp.Ablate("zero"): np.zeros_like(before),
        mp.Scale(0.5): before / 2,
        mp.Replace(donor): np.array(donor["pattern", 1]),
    }
    for intervention, values in cases.items():
        expected = before.copy()
        expected[:, 2, 3:, 1] = values[:, 2, 3:, 1]
        edit = intervention.at("pattern", layer=1, pos=slice(3, None), head=2, key=1)
        np.testing.assert_allclose(pattern_of(tiny(), edit), expected, atol=1e-6, err_msg=repr(edit))


def test_a_query_without_a_key_left_is_not_a_number(tiny):
    """And not a pattern that is even over all keys, those in the future too. Other prompts are as they were."""
    logits = tiny().run(BATCH, mp.Knockout().at("attn_scores", layer=1, pos=2, key=[0, 1, 2], batch=1))
    assert np.isnan(np.array(logits[1])).all()
    assert mx.array_equal(logits[0], tiny().run(BATCH)[0]).item()


def test_rows_find_keys_of_their_own(tiny, word_tokenizer):
    model = mp.HookedModel(tiny().model, word_tokenizer)
    tokens = mx.array([[11, 48, 85, 26, 63, 4], [5, 9, 48, 77, 31, 60]])
    edit = mp.Knockout().at("attn_scores", layer=1, pos=-1, key=mp.pos.token("w48"))
    before, found = pattern_of(model, tokens=tokens), pattern_of(model, edit, tokens=tokens)
    np.testing.assert_allclose(found[:1], without(before, [5], [1])[:1], atol=1e-6)
    np.testing.assert_allclose(found[1:], without(before, [5], [2])[1:], atol=1e-6)
    both = mp.Scale(0.0).at("pattern", layer=1, pos=mp.pos.last, key=mp.pos.token("w48"))
    found = pattern_of(model, both, tokens=tokens)
    assert not found[0, :, 5, 1].any()
    assert not found[1, :, 5, 2].any()
    assert found[1, :, 5, 1].all()


@pytest.mark.parametrize("name", ["llama", "llama-sliding", "gpt_oss", "gemma3_text", "qwen3_next"])
def test_keys_are_absolute_behind_a_prompt_cache(tiny, name):
    model = tiny(name)
    layer = model.layout.select("attn_scores", None)[-1].layer
    edit = mp.Knockout().at("attn_scores", layer=layer, pos=-1, key=4)
    whole = model.run(BATCH[:1], edit)[:, -1]
    cache = make_prompt_cache(model.model)
    model.run(BATCH[:1, :5], prompt_cache=cache)
    np.testing.assert_allclose(
        np.array(model.run(BATCH[:1, 5:], edit, prompt_cache=cache)[:, -1]), np.array(whole), atol=1e-4
    )
    assert np.abs(np.array(whole - model.run(BATCH[:1])[:, -1])).max() > 1e-4


@pytest.mark.parametrize("executor", ["auto", "rows", "reference"])
@pytest.mark.parametrize("name", ["llama", "llama-sliding", "gemma2"])
@pytest.mark.parametrize("length", [6, 300])
def test_sweeps_of_knockouts_are_those_of_single_runs(tiny, name, executor, length):
    """Above 256 positions, prompts run in pieces."""
    model = tiny(name)
    tokens = mx.array([[1 + (i * 7) % 90 for i in range(length)]])
    layers = [site.layer for site in model.layout.select("attn_scores", None)]
    cells = [
        [mp.Knockout().at("attn_scores", layer=layer, pos=-1, key=[length - 4, -2])]
        for layer in (layers[0], layers[-1])
    ]
    cells.append([*cells[0], mp.Scale(2.0).at("mlp_out", layer=0, pos=-1)])
    found = mp.sweep(model, tokens, over=cells, metric=METRIC, executor=executor, progress=False)
    expected = [METRIC(model.run(tokens, cell)).item() for cell in cells]
    np.testing.assert_allclose(found.values[:, 0], expected, rtol=1e-4, atol=1e-4)
    assert np.abs(found.values - found.baseline).min() > 1e-6


def test_cells_of_a_list_take_keys(tiny):
    model, keys = tiny(), [2, [0, 3], mp.pos.last]
    cells = [{"layer": 1, "pos": -1, "key": key} for key in keys]
    found = mp.sweep(model, BATCH[:1], mp.Knockout(), "attn_scores", cells, METRIC, progress=False)
    edits = [mp.Knockout().at("attn_scores", **cell) for cell in cells]
    np.testing.assert_allclose(found.values[:, 0], [METRIC(model.run(BATCH[:1], e)).item() for e in edits], atol=1e-5)
    assert np.abs(np.diff(found.values[:, 0])).min() > 1e-5


def test_lists_answers_and_standing_edits(tiny, word_tokenizer):
    model = mp.HookedModel(tiny().model, word_tokenizer)
    edit = mp.Knockout().at("attn_scores", layer=1, pos=-1, key=-3)
    prompts = [BATCH[0].tolist(), BATCH[1, :4].tolist()]
    found = mp.sweep(model, prompts, over=[edit], metric=METRIC, progress=False)
    expected = [METRIC(model.run([prompt], edit)).item() for prompt in prompts]
    np.testing.assert_allclose(found.values[0], expected, atol=1e-5)
    answer = mp.metrics.SequenceLogProb([7, 30])
    spoken = mp.sweep(model, BATCH[:1], over=[edit], metric=answer, progress=False)
    reference = mp.sweep(model, BATCH[:1], over=[edit], metric=answer, progress=False, executor="reference")
    np.testing.assert_allclose(spoken.values, reference.values, atol=1e-5)
    assert abs(spoken.values - spoken.baseline).item() > 1e-5
    standing = mp.sweep(model, BATCH, mp.Scale(0.0), "mlp_out", "layer", METRIC, edits=[edit], progress=False)
    by_hand = [METRIC(model.run(BATCH, [edit, mp.Scale(0.0).at("mlp_out", layer=layer)])) for layer in range(3)]
    np.testing.assert_allclose(standing.values, np.stack([np.array(values) for values in by_hand]), atol=1e-5)
    estimate = mp.attribute(model, BATCH, over=[mp.Scale(0.999).at("pattern", layer=1, pos=-1, key=2)], metric=METRIC)
    exact = mp.sweep(model, BATCH, over=[mp.Scale(0.999).at("pattern", layer=1, pos=-1, key=2)], metric=METRIC)
    np.testing.assert_allclose(estimate.values, exact.values, atol=1e-4)


def test_generated_tokens_do_not_read_a_key_of_the_prompt(tiny, word_tokenizer):
    model = mp.HookedModel(tiny().model, word_tokenizer)
    seen = []

    def note(pattern, site):
        seen.append(np.array(pattern))
        return pattern

    edits = [mp.Knockout().at("attn_scores", layer=1, key=2, pos=slice(3, None)), mp.Apply(note).at("pattern", layer=1)]
    model.generate(BATCH[0], edits, max_tokens=4)
    assert len(seen) >= 4
    assert not any(pattern[0, :, -1, 2].any() for pattern in seen)
    assert all(pattern[0, :, -1, 1].all() for pattern in seen)


def test_other_keys_are_another_sweep(tiny, tmp_path):
    def sweep(key):
        edit = mp.Ablate("zero").at("pattern", layer=1, pos=-1, key=key)
        return mp.sweep(tiny(), BATCH, over=[edit], metric=METRIC, checkpoint=tmp_path / "one.npz", progress=False)

    sweep(2)
    sweep(2)
    with pytest.raises(FileError, match="must belong to this sweep"):
        sweep(3)


def test_an_edit_by_key_is_written_and_compared():
    edit = mp.Knockout().at("attn_scores", layer=3, pos=-1, key=slice(0, 2))
    assert repr(edit) == "Knockout().at('attn_scores', layer=3, pos=-1, key=slice(0, 2, None))"
    assert hash(edit) == hash(mp.Knockout().at("attn_scores", layer=3, pos=-1, key=slice(0, 2)))
    assert edit != mp.Knockout().at("attn_scores", layer=3, pos=-1, key=slice(0, 3))


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: mp.Ablate("zero").at("z", key=1), SelectionError, "`key` must be None at 'z'"),
        (lambda: mp.Ablate("zero").at("pattern", key=[]), SelectionError, "`key` must choose something"),
        (lambda: mp.Ablate("zero").at("pattern", key=[1, 1]), SelectionError, "`key` must not name anything twice"),
        (lambda: mp.Ablate("zero").at("pattern", key=slice(2, 1)), SelectionError, "`key` must choose something"),
        (lambda: mp.Ablate("zero").at("pattern", key=6), SelectionError, "`key` must lie in -6 to 5"),
        (lambda: mp.Ablate("zero").at("pattern", key=-7), SelectionError, "`key` must lie in -6 to 5"),
        (lambda: mp.Ablate("zero").at("pattern", key=[5, -1]), SelectionError, "`key` must not name anything twice"),
        (lambda: mp.Ablate("zero").at("pattern", key=True), SelectionError, "an int or a list of ints"),
        (lambda: mp.Knockout().at("pattern", key=1), ValueRefusedError, "softmax is still to come"),
        (lambda: mp.Knockout().at("z"), ValueRefusedError, "must be 'attn_scores'"),
    ],
)
def test_what_means_nothing_is_refused(tiny, make, error, message):
    with pytest.raises(error, match=message):
        tiny().run(BATCH, make())


def test_keys_need_a_prompt_to_count_from(tiny):
    """Inside `editing`, with a prompt cache, the end of the prompt is not known."""
    model = tiny()
    cache = make_prompt_cache(model.model)
    with pytest.raises(SelectionError, match="must be 0 or more"):
        run_inside(model, mp.Ablate("zero").at("pattern", key=-1), cache)


def run_inside(model, edit, cache):
    with model.editing(edit):
        model.model(BATCH[:, :3], cache=cache)
