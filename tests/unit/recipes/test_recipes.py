"""Recipes give what plain runs with the edits of the papers give."""

import mlx.core as mx
import numpy as np
import pytest
from rounding import tolerance

import mlx_patch as mp
from mlx_patch import recipes
from mlx_patch.errors import (
    ArchitectureError,
    KindError,
    MissingSiteError,
    SelectionError,
    ShapeError,
    UnknownNameError,
    ValueRefusedError,
)

METRIC = mp.metrics.LogitDiff(3, 7)
PROMPT = [11, 48, 85, 26, 63]
PROMPTS = [PROMPT, [5, 9, 63, 2, 17], [33, 8, 70]]
"""A list, of two lengths."""
QUIET = {"progress": False}
ATTENTIVE = ["llama", "gemma2", "mixtral"]


def metric_of(model, prompt, *edits, metric=METRIC):
    return metric(model.run([prompt], edits, logits_at=-1)).item()


@pytest.mark.parametrize("name", ["llama", "gemma2", "mamba"])
def test_a_trace_restores_under_noise(tiny, name):
    model = tiny(name)
    result = recipes.causal_trace(model, PROMPTS[:2], [1, 2], METRIC, seeds=range(2), positions=[2, -1], **QUIET)
    assert result.axes == ("layer", "pos", "seed", "example")
    for number, prompt in enumerate(PROMPTS[:2]):
        _, clean = model.run_with_cache([prompt], "resid_post")
        for seed in (0, 1):
            noise = mp.Ablate("noise", scale=3.0, seed=seed).at("embed", pos=[1, 2])
            restored = mp.Replace(clean).at("resid_post", layer=1, pos=2)
            by_hand = metric_of(model, prompt, noise, restored)
            assert result.sel(layer=1, pos=2, seed=seed).values[number] == pytest.approx(by_hand, rel=1e-4, abs=1e-4)
            unpatched = metric_of(model, prompt, noise)
            assert result.seed_baselines[seed, number] == pytest.approx(unpatched, rel=1e-4, abs=1e-4)
            assert result.sel(layer=model.n_layers - 1, pos=4, seed=seed).values[number] == pytest.approx(
                metric_of(model, prompt), rel=1e-4, abs=1e-4
            )


def test_a_trace_has_windows_of_layers(tiny):
    result = recipes.causal_trace(tiny("llama"), [PROMPT], 1, METRIC, at="mlp_out", width=2, seeds=[3], **QUIET)
    assert result.coords["layer"] == ((0, 1), (1, 2))
    assert result.coords["seed"] == (3,)


@pytest.mark.parametrize("name", ATTENTIVE)
def test_a_knockout_is_of_one_group_of_keys(tiny, name):
    model = tiny(name)
    keys = {"subject": [1, 2], "second to last": -2}
    result = recipes.knockout(model, PROMPTS, keys, METRIC, width=2, **QUIET)
    assert result.axes == ("layer", "keys", "example")
    assert result.coords["keys"] == tuple(keys)
    for number, prompt in enumerate(PROMPTS):
        for key, positions in keys.items():
            edit = mp.Knockout().at("attn_scores", layer=[1, 2], pos=-1, key=positions)
            by_hand = metric_of(model, prompt, edit)
            assert result.sel(layer=(1, 2), keys=key).values[number] == pytest.approx(by_hand, rel=1e-4, abs=1e-4)


def test_knocked_out_keys_have_no_weight(tiny):
    """Zeroed weights would be another edit: the others would not grow."""
    model = tiny("llama")
    result = recipes.knockout(model, [PROMPT], {"all but the last": range(4)}, METRIC, width=3, **QUIET)

    def last_key_alone(pattern, site):
        one_hot = mx.zeros_like(pattern)
        one_hot[..., -1] = 1.0
        return one_hot

    edit = mp.Apply(last_key_alone).at("pattern", pos=-1)
    assert result.values.item() == pytest.approx(metric_of(model, PROMPT, edit), rel=1e-4, abs=1e-4)


def test_keys_are_named_positions(tiny):
    with pytest.raises(KindError, match=r"`keys` must be a mapping of names to positions\. Got \[1\]\. Write"):
        recipes.knockout(tiny("llama"), PROMPT, [1], METRIC)
    with pytest.raises(MissingSiteError, match=r"mamba has no 'attn_scores': its mixer is a state space"):
        recipes.knockout(tiny("mamba"), [PROMPT], {"a": 1}, METRIC)


@pytest.mark.parametrize("name", ["llama", "gemma2", "mamba"])
def test_a_patchscope_moves_one_stream(tiny, name):
    model, target = tiny(name), [4, 41, 78, 12]
    result = recipes.patchscope(model, PROMPTS, METRIC, pos=-2, target=target, layers=[0, 1], **QUIET)
    assert result.axes == ("source_layer", "layer", "example")
    assert result.baseline == pytest.approx([metric_of(model, target)] * 3, rel=1e-4, abs=1e-4)
    for number, prompt in enumerate(PROMPTS):
        _, cache = model.run_with_cache([prompt], "resid_post")
        patch = mp.Replace(cache["resid_post", 2][:, -2:-1]).at("resid_post", layer=1, pos=-2)
        value = result.sel(source_layer=2, layer=1).values[number]
        assert value == pytest.approx(metric_of(model, target, patch), rel=1e-4, abs=1e-4)


def test_a_stream_put_where_it_came_from_changes_nothing(tiny):
    model = tiny("llama")
    same = recipes.patchscope(model, [PROMPT], METRIC, target=PROMPT, target_pos=-1, layers=range(3), **QUIET)
    diagonal = np.diagonal(same.values[..., 0])
    np.testing.assert_allclose(diagonal, np.broadcast_to(same.baseline, 3), atol=1e-5)
    assert np.abs(same.values[0, 2] - same.baseline).max() > 1e-3


def test_a_patchscope_has_one_target_and_one_position(tiny):
    with pytest.raises(ShapeError, match=r"`target` must be one prompt\. Got several\. Call `patchscope` once"):
        recipes.patchscope(tiny("llama"), PROMPTS, METRIC, target=PROMPTS[:2])
    with pytest.raises(SelectionError, match=r"`pos` must choose one position of each prompt\. Got \[1, 2\]\. Use"):
        recipes.patchscope(tiny("llama"), PROMPTS, METRIC, pos=[1, 2], target=PROMPT)


@pytest.mark.parametrize("name", ["llama", "gemma2", "mamba"])
def test_a_task_vector_is_a_mean_that_replaces(tiny, name):
    model = tiny(name)
    queries = [[4, 41], [78, 12, 50]]
    result = recipes.task_vector(model, PROMPTS, queries, METRIC, **QUIET)
    assert result.axes == ("layer", "example")
    streams = [model.run_with_cache([prompt], "resid_post")[1]["resid_post", 1][0, -1] for prompt in PROMPTS]
    mean = mx.mean(mx.stack(streams), axis=0)
    for number, query in enumerate(queries):
        by_hand = metric_of(model, query, mp.Replace(mean).at("resid_post", layer=1, pos=-1))
        assert result.sel(layer=1).values[number] == pytest.approx(by_hand, rel=1e-4, abs=1e-4)


def test_a_task_vector_has_some_layers(tiny):
    ask = {"demonstrations": PROMPTS, "queries": [[4, 41]], "metric": METRIC, **QUIET}
    some, every = (recipes.task_vector(tiny("llama"), **ask, **layers) for layers in ({"layers": [2, 0]}, {}))
    assert some.coords["layer"] == (2, 0)
    np.testing.assert_allclose(some.values, every.values[[2, 0]], atol=1e-5)


def test_demonstrations_that_end_in_the_query_give_its_answer(tiny):
    """At the last layer: what replaces the stream there is the demonstration's own."""
    model = tiny("llama")
    result = recipes.task_vector(model, [PROMPT], [[4, 41]], METRIC, **QUIET)
    assert result.values[-1, 0] == pytest.approx(metric_of(model, PROMPT), rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("name", ["llama", "gemma2", "granite"])
def test_the_strongest_heads_are_those_of_plain_runs(tiny, name):
    model = tiny(name)
    found = recipes.function_vector(model, PROMPTS, PROMPTS[:2], METRIC, n_heads=3, **QUIET)
    means = recipes.mean_activations(model, PROMPTS, "z")
    gains = {}
    for layer, mean in means.items():
        for head in range(mean.shape[0]):
            edit = mp.Replace(mean[head]).at("z", layer=layer, head=head, pos=-1)
            by_hand = [metric_of(model, prompt, edit) for prompt in PROMPTS[:2]]
            np.testing.assert_allclose(found.effects.sel(layer=layer, head=head).values, by_hand, rtol=1e-4, atol=1e-4)
            gains[layer, head] = np.mean(by_hand)
    assert list(found.heads) == sorted(gains, key=gains.get, reverse=True)[:3]
    some = recipes.function_vector(model, PROMPTS, PROMPTS[:2], METRIC, n_heads=1, layers=[1], **QUIET)
    assert some.heads[0][0] == 1
    assert some.effects.coords["layer"] == (1,)


@pytest.mark.parametrize("precision", ["float32", "4bit"])
def test_all_heads_write_what_attention_adds(tiny, precision):
    model = tiny("llama", precision)
    _, cache = model.run_with_cache([PROMPT], ["z", "attn_out"], pos=-1)
    means = recipes.mean_activations(model, [PROMPT], "z")
    for layer, mean in means.items():
        heads = [(layer, head) for head in range(mean.shape[0])]
        added = cache["attn_out", layer][0, 0].astype(mx.float32)
        whole = recipes.head_outputs(model, means, heads)
        np.testing.assert_allclose(np.array(whole), np.array(added), atol=1e-4 if precision == "float32" else 0.02)
    both = recipes.head_outputs(model, means, [(0, 1), (2, 3)])
    single = [recipes.head_outputs(model, means, [head]) for head in ((0, 1), (2, 3))]
    np.testing.assert_allclose(np.array(both), np.array(single[0] + single[1]), atol=1e-3)


def test_a_bias_is_no_head_s(tiny):
    model = tiny("gpt2")
    _, cache = model.run_with_cache([PROMPT], "attn_out", mp.Ablate("zero").at("z"))
    assert mx.abs(cache["attn_out", 1]).max() > 0.1
    nothing = {1: mx.zeros((model.n_heads, model.d_head))}
    assert mx.abs(recipes.head_outputs(model, nothing, [(1, 0)])).max() < 1e-6


def test_a_head_behind_a_norm_goes_through_it(tiny):
    model = tiny("gemma2")
    means = recipes.mean_activations(model, [PROMPT], "z")
    heads = [(1, head) for head in range(model.n_heads)]
    _, cache = model.run_with_cache([PROMPT], "attn_out", pos=-1)
    written = recipes.head_outputs(model, means, heads)
    np.testing.assert_allclose(np.array(written), np.array(cache["attn_out", 1][0, 0]), atol=1e-4)


REVERSED = mp.metrics.LogitDiff(7, 3)
HELD_OUT = [[7, 9, 11], [2, 60, 4]], [[1, 2, 3, 4], [30, 31, 32]]


def contrast(model, metric=REVERSED, **choices):
    return recipes.contrast_direction(model, PROMPTS, [[1, 5], [2, 6, 9]], metric, HELD_OUT, **choices, **QUIET)


def by_hand_of_candidate(model, layer, metric):
    """The direction, and the metric with it added and taken out of each stream, whole."""
    means = [
        mx.mean(
            mx.stack([model.run_with_cache([p], "resid_pre")[1]["resid_pre", layer][0, -1] for p in prompts]), axis=0
        )
        for prompts in (PROMPTS, [[1, 5], [2, 6, 9]])
    ]
    direction = means[0] - means[1]
    added = [metric_of(model, p, mp.Add(direction).at("resid_pre", layer=layer), metric=metric) for p in HELD_OUT[1]]
    taken_out = [mp.Project(direction).at(site) for site in ("resid_pre", "resid_post")]
    return direction, added, [metric_of(model, p, *taken_out, metric=metric) for p in HELD_OUT[0]]


@pytest.mark.parametrize(
    ("name", "metric"), [("mamba", REVERSED), ("phi", METRIC), ("cohere", mp.metrics.LogitDiff(60, 61))]
)
def test_a_direction_is_chosen_by_both_effects(tiny, name, metric):
    """In `mamba` and in parallel blocks, projecting each whole stream is the same as projecting what is added to it.

    In `cohere` the candidate whose removal does most does not raise the metric where it is added.
    """
    model = tiny(name)
    layers = [layer for layer in range(model.n_layers) if layer > 0]
    found = contrast(model, metric, layers=layers)
    scores = {}
    for layer in layers:
        direction, added, taken_out = by_hand_of_candidate(model, layer, metric)
        np.testing.assert_allclose(found.added.sel(layer=layer).values, added, rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose(found.ablated.sel(layer=layer).values, taken_out, rtol=1e-3, atol=1e-3)
        if np.mean(added) > found.added.baseline_mean():
            scores[layer] = np.mean(taken_out)
        if layer == found.layer:
            rounded = tolerance(model) * mx.max(mx.abs(direction)).item()
            np.testing.assert_allclose(np.array(found.vector), np.array(direction), rtol=1e-4, atol=max(1e-4, rounded))
    assert found.layer == min(scores, key=scores.get)


@pytest.mark.parametrize("name", ["llama", "gemma2", "mixtral", "mamba"])
def test_an_ablated_direction_is_nowhere_in_the_stream(tiny, name):
    model = tiny(name)
    direction = mx.random.normal((model.d_model,), key=mx.random.key(3))
    _, cache = model.run_with_cache([PROMPT], "resid_post", recipes.ablation_of(model, direction))
    for layer in range(model.n_layers):
        stream = cache["resid_post", layer]
        along = mx.abs(stream @ direction) / mx.linalg.norm(direction)
        assert mx.max(along).item() < 1e-4 * mx.max(mx.linalg.norm(stream, axis=-1)).item()


def test_the_edits_of_a_direction_are_those_that_were_measured(tiny):
    model = tiny("mamba")
    found = contrast(model)
    added = [metric_of(model, prompt, found.addition(), metric=REVERSED) for prompt in HELD_OUT[1]]
    np.testing.assert_allclose(found.added.sel(layer=found.layer).values, added, rtol=1e-3, atol=1e-3)
    ablated = [metric_of(model, prompt, *found.ablation(model), metric=REVERSED) for prompt in HELD_OUT[0]]
    np.testing.assert_allclose(found.ablated.sel(layer=found.layer).values, ablated, rtol=1e-3, atol=1e-3)


def test_a_direction_that_raises_nothing_is_refused(tiny):
    def constant(logits):
        return mx.zeros(logits.shape[0])

    with pytest.raises(ValueRefusedError, match=r"`negatives` must differ from `positives` .* Got no layer whose"):
        recipes.contrast_direction(tiny("llama"), PROMPTS, [[1, 5]], constant, HELD_OUT, **QUIET)


@pytest.mark.parametrize("name", ["llama", "gemma2", "mamba"])
def test_an_interchange_is_one_subspace_after_another(tiny, name):
    model = tiny(name)
    hosts, sources = PROMPTS, [prompt[1:] for prompt in PROMPTS]  # other lengths
    bases = {
        number: mp.orthonormal(mx.random.normal((2, model.d_model), key=mx.random.key(number))) for number in (1, 2)
    }
    named = {f"random {number}": basis for number, basis in bases.items()}
    result = recipes.interchange(model, hosts, sources, named, METRIC, "resid_post", 1, -1, **QUIET)
    assert result.coords["subspace"] == ("random 1", "random 2")
    for number, (host, source) in enumerate(zip(hosts, sources, strict=True)):
        _, cache = model.run_with_cache([source], "resid_post")
        edit = mp.Replace(cache["resid_post", 1][:, -1:], basis=bases[2]).at("resid_post", layer=1, pos=-1)
        value = result.sel(subspace="random 2").values[number]
        assert value == pytest.approx(metric_of(model, host, edit), rel=1e-4, abs=1e-4)


def test_rows_of_a_batch_are_interchanged_each_with_its_own(tiny):
    model = tiny("llama")
    named = {"of heads": mp.orthonormal(mx.random.normal((2, model.d_head), key=mx.random.key(1)))}
    ask = {"subspaces": named, "metric": METRIC, "at": "z", "layer": 1, "pos": 2, "head": 3, **QUIET}
    hosts, sources = mx.array(PROMPTS[:2]), mx.array([prompt[::-1] for prompt in PROMPTS[:2]])
    batch = recipes.interchange(model, hosts, sources, **ask)
    alone = recipes.interchange(model, PROMPTS[:2], [prompt[::-1] for prompt in PROMPTS[:2]], **ask)
    np.testing.assert_allclose(batch.values, alone.values, atol=1e-4)
    assert np.abs(batch.values - batch.baseline).min() > 1e-5


def test_an_interchange_has_a_source_for_each_host(tiny):
    subspaces = {"all": mx.eye(64)}
    with pytest.raises(ShapeError, match=r"`sources` must be as many prompts as `hosts`, 3\. Got 2\. Pair them"):
        recipes.interchange(tiny("llama"), PROMPTS, PROMPTS[:2], subspaces, METRIC, "resid_post", 1)


def test_an_interchange_is_of_named_subspaces(tiny):
    with pytest.raises(KindError, match=r"`subspaces` must be a mapping of names to bases\. Got array\. Write"):
        recipes.interchange(tiny("llama"), PROMPTS, PROMPTS, mx.eye(64), METRIC, "resid_post", 1)


@pytest.mark.parametrize("precision", ["float32", "4bit"])
@pytest.mark.parametrize("name", ["llama", "gemma2", "granite", "gpt2", "cohere", "phi"])
def test_the_unread_part_does_nothing_and_the_read_part_all(tiny, name, precision):
    model = tiny(name, precision)
    for at, added in (("mlp_post", "mlp_out"), ("z", "attn_out")):
        _, cache = model.run_with_cache([PROMPT], [mp.Site(at, 1), mp.Site(added, 1)])
        shape = cache[at, 1].shape[2:]
        direction = mx.random.normal((int(np.prod(shape)),), key=mx.random.key(5))
        read, unread = recipes.read_parts(model, at, 1, direction)
        np.testing.assert_allclose(np.array(read + unread), np.array(direction), atol=1e-5)

        def written(vector, at=at, added=added, shape=shape):
            edit = mp.Add(vector.reshape(shape)).at(at, layer=1, pos=-1)
            return np.array(model.run_with_cache([PROMPT], mp.Site(added, 1), edit)[1][added, 1].astype(mx.float32))

        unedited = np.array(cache[added, 1].astype(mx.float32))
        tolerance = 2e-4 if precision == "float32" else 0.03
        np.testing.assert_allclose(written(unread), unedited, atol=tolerance * np.abs(unedited).max())
        np.testing.assert_allclose(written(read), written(direction), atol=tolerance * np.abs(written(direction)).max())
        assert np.abs(written(direction) - unedited).max() > 0.05 * np.abs(unedited).max()


@pytest.mark.parametrize(
    ("at", "width", "error", "message"),
    [
        (
            "resid_post",
            64,
            UnknownNameError,
            r"`at` must be a site that one linear map reads: mlp_post, z\. Got 'resid",
        ),
        ("mlp_post", 3, ShapeError, r"`directions` must have the width of mlp_post, \d+\. Got shape \(3,\)"),
    ],
)
def test_parts_are_of_what_one_map_reads(tiny, at, width, error, message):
    with pytest.raises(error, match=message):
        recipes.read_parts(tiny("llama"), at, 1, mx.ones(width))


def test_parts_of_an_input_that_is_shared_are_refused(tiny):
    with pytest.raises(ArchitectureError, match=r"`at` must be the input of a module\. Got blocks\.0\.attn\.hook_z"):
        recipes.read_parts(tiny("deepseek_v41"), "z", 0, mx.ones(3))


def test_means_are_by_layer(tiny):
    model = tiny("llama")
    means = recipes.mean_activations(model, PROMPTS, "mlp_out", pos=1)
    by_hand = [model.run_with_cache([prompt], "mlp_out")[1]["mlp_out", 2][0, 1] for prompt in PROMPTS]
    np.testing.assert_allclose(np.array(means[2]), np.mean([np.array(row) for row in by_hand], axis=0), atol=1e-5)
    with pytest.raises(SelectionError, match=r"`at` must be a site of blocks\. Got 'embed'\. Take 'resid_post'"):
        recipes.mean_activations(model, PROMPTS, "embed")


def test_a_result_of_a_recipe_can_be_saved(tiny, tmp_path):
    result = recipes.knockout(tiny("llama"), [PROMPT], {"first": 0}, METRIC, width=2, **QUIET)
    result.save(tmp_path / "knockout.npz")
    loaded = mp.SweepResult.load(tmp_path / "knockout.npz")
    assert loaded.coords == result.coords
    assert loaded.to_pandas()["keys"].unique().tolist() == ["first"]
