"""Sweeps of paths: axes, groups, batches, lists of prompts, half types, several metrics, executors, checkpoints."""

import mlx.core as mx
import numpy as np
import pytest
from rounding import largest_logit, same, tolerance

import mlx_patch as mp
from mlx_patch.metrics import LogitDiff, LogProb

HOST = mx.array([[11, 48, 85, 26, 63, 4, 41, 78], [5, 42, 79, 20, 57, 94, 35, 72]])
SOURCE = mx.array([[17, 54, 91, 32, 69, 10, 47, 84], [3, 40, 77, 18, 55, 92, 33, 70]])
METRIC = LogProb(3)
LOGITS = mp.Receiver("logits")
QUERIES = mp.Receiver("q", layer=1, head=[0, 2])


def patch_from(model, tokens=SOURCE):
    return mp.Replace(model.run_with_cache(tokens, sites=["z", "mlp_out", "embed"])[1])


def swept(model, paths, **choices):
    """The values of some cells of paths."""
    return mp.sweep(
        model, choices.pop("tokens", HOST), over=paths, metric=choices.pop("metric", METRIC), **choices
    ).values


def test_a_grid_of_paths_is_its_cells_one_by_one(tiny):
    model = tiny("qwen3")
    patch = patch_from(model)
    axes = {"over": ("layer", "head", "via"), "layers": [0], "via": [QUERIES, LOGITS, (QUERIES, LOGITS)]}
    result = mp.sweep(model, HOST, patch, at="z", metric=METRIC, **axes)
    assert result.axes[:3] == ("layer", "head", "via")
    assert result.coords["via"] == ("q.1.0+2", "logits", "q.1.0+2 and logits")
    cells = []
    for head in result.coords["head"]:
        sender = patch.at("z", layer=0, head=head)
        cells += [sender.via(QUERIES), sender.via(LOGITS), sender.via([QUERIES, LOGITS])]
    np.testing.assert_allclose(result.values.reshape(len(cells), -1), swept(model, cells), atol=1e-5)
    together = mp.sweep(model, HOST, patch, at="z", over="head", layers=[0], via=[QUERIES, LOGITS], metric=METRIC)
    np.testing.assert_allclose(together.values, result.values[0, :, 2], atol=1e-5)
    assert together.provenance["via"] == "q.1.0+2 and logits"


@pytest.mark.parametrize("executor", ["auto", "grow", "rows", "reference"])
def test_executors_agree(executor, tiny):
    model = tiny("llama")
    patch = patch_from(model)
    axes = {"over": ("pos", "via"), "layers": [0], "heads": [1], "via": [QUERIES, mp.Receiver("mlp", layer=1), LOGITS]}
    result = mp.sweep(model, HOST, patch, at="z", metric=METRIC, executor=executor, **axes)
    for number, pos in enumerate(result.coords["pos"]):
        for place, receiver in enumerate(axes["via"]):
            path = patch.at("z", layer=0, head=1, pos=pos).via(receiver)
            logits = model.run(HOST, mp.paths.edits_of(model, HOST, path))
            np.testing.assert_allclose(result.values[number, place], np.array(METRIC(logits)), atol=1e-5)


def test_several_senders_into_a_receiver_add_up(tiny):
    model = tiny("llama")
    patch = patch_from(model)
    first, second = patch.at("z", layer=0, head=0), patch.at("z", layer=0, head=3)
    both = swept(model, [[first.via(LOGITS), second.via(LOGITS)], patch.at("z", layer=0, head=[0, 3]).via(LOGITS)])
    np.testing.assert_allclose(both[0], both[1], atol=1e-6)
    layers = swept(model, [[first.via(LOGITS), patch.at("mlp_out", layer=1).via(LOGITS)]])
    edits = [first, patch.at("mlp_out", layer=1)]
    host = model.run_with_cache(HOST, sites=["mixer_out", "mlp_out"])[1]
    held = [mp.Replace(host).at("mixer_out", layer=range(1, model.n_layers)), mp.Replace(host).at("mlp_out", layer=0)]
    if model.n_layers > 2:
        held.append(mp.Replace(host).at("mlp_out", layer=range(2, model.n_layers)))
    np.testing.assert_allclose(layers[0], np.array(METRIC(model.run(HOST, [*edits, *held]))), atol=1e-5)


def test_a_longer_path_is_one_path_after_another(tiny):
    model = tiny("llama")
    path = patch_from(model).at("embed").via("v", layer=0, head=0)
    middle = mp.paths.edits_of(model, HOST, path)
    expected = [[edit.via("mlp", layer=1) for edit in middle]]
    np.testing.assert_array_equal(swept(model, [path.via("mlp", layer=1)]), swept(model, expected))


def test_prompts_of_a_list_are_independent(tiny):
    model = tiny("llama")
    prompts = [HOST[:1], HOST[1:], HOST[:1, :5]]
    paths = [
        mp.Scale(-1.0).at("z", layer=0, head=1, pos=-1).via(QUERIES),
        mp.Ablate("zero").at("z", layer=0).via(LOGITS),
    ]
    values = swept(model, paths, tokens=prompts)
    for number, prompt in enumerate(prompts):
        alone = swept(model, paths, tokens=prompt)
        np.testing.assert_allclose(values[:, number], alone[:, 0], atol=1e-5)


def test_each_prompt_may_have_its_own_source(tiny):
    model = tiny("llama")
    patches = [patch_from(model, SOURCE[row : row + 1]) for row in range(2)]
    axes = {"over": ("head", "via"), "at": "z", "layers": [0], "via": [QUERIES, LOGITS], "metric": METRIC}
    result = mp.sweep(model, [HOST[:1], HOST[1:]], patches, **axes)
    whole = mp.sweep(model, HOST, patch_from(model), **axes)
    np.testing.assert_allclose(result.values, whole.values, atol=1e-5)


@pytest.mark.parametrize("precision", ["bfloat16", "4bit"])
def test_half_types_and_packed_weights(precision, tiny):
    model = tiny("llama", precision)
    patch = patch_from(model)
    last = patch.at("mlp_out", layer=model.n_layers - 1)
    values = swept(model, [last.via(LOGITS), last, mp.Scale(1.0).at("z", layer=0).via(QUERIES)])
    np.testing.assert_array_equal(values[0], values[1])
    np.testing.assert_array_equal(values[2], np.array(METRIC(model.run(HOST))))


def test_several_metrics_and_answers_of_several_tokens(tiny):
    model = tiny("llama")
    metrics = [METRIC, LogitDiff(3, 5), mp.metrics.SequenceLogProb([7, 8])]
    sender = patch_from(model).at("z", layer=0, head=1)
    cells = [[sender.via(QUERIES)], [sender.via(LOGITS)], [sender.via([QUERIES, LOGITS])]]
    result = mp.sweep(model, HOST, over=cells, metric=metrics)
    for cell, values in zip(cells, result.values, strict=True):
        edits = mp.paths.edits_of(model, HOST, cell)
        np.testing.assert_allclose(values, mp.measure(model, HOST, metrics, edits), atol=1e-5)


def test_standing_edits_are_the_hosts(tiny):
    model = tiny("llama")
    standing = [mp.Ablate("noise", scale=2.0).at("embed", pos=[1, 2]), mp.Scale(0.5).at("mlp_out", layer=0)]
    path = patch_from(model).at("z", layer=0, head=1).via(QUERIES)
    silent = mp.Scale(1.0).at("z", layer=0).via(LOGITS)
    result = mp.sweep(model, HOST, over=[path, silent], metric=METRIC, edits=standing)
    edits = mp.paths.edits_of(model, HOST, path, edits=standing)
    np.testing.assert_allclose(result.values[0], np.array(METRIC(model.run(HOST, [*standing, *edits]))), atol=1e-5)
    np.testing.assert_array_equal(result.values[1], result.baseline)
    last = patch_from(model).at("mlp_out", layer=model.n_layers - 1)
    ends = mp.sweep(model, HOST, over=[last.via(LOGITS), last], metric=METRIC, edits=standing)
    np.testing.assert_allclose(ends.values[0], ends.values[1], atol=1e-5)


def test_senders_of_every_kind_are_those_of_plain_runs(tiny):
    model = tiny("llama")
    _, cache = model.run_with_cache(SOURCE, sites=model.sites)
    patch = mp.Replace(cache)
    senders = [patch.at(site, layer=0) for site in ("q", "k", "rot_q", "attn_scores", "pattern", "z", "attn_out")]
    senders += [mp.Ablate("resample").at("z", layer=0), patch.at("mlp_post", layer=0, batch=1)]
    for sender in senders:
        writer = "mlp_out" if sender.site == "mlp_post" else "mixer_out"
        _, written = model.run_with_cache(HOST, sites=[writer], edits=[sender])
        cells = [sender.via(QUERIES), mp.Replace(written).at(writer, layer=0).via(QUERIES)]
        values = swept(model, cells)
        np.testing.assert_allclose(values[0], values[1], atol=1e-5)


def test_a_metric_of_an_earlier_position(tiny):
    model = tiny("llama")
    zero = mp.Ablate("zero")
    metrics = [LogProb(3, pos=2), LogProb(3)]
    axes = {"over": "pos", "layers": [0], "via": LOGITS, "at": "z", "metric": metrics}
    result = mp.sweep(model, HOST, zero, **axes)
    for pos in range(HOST.shape[1]):
        logits = model.run(HOST, mp.paths.edits_of(model, HOST, zero.at("z", layer=0, pos=pos).via(LOGITS)))
        expected = np.stack([np.array(metric(logits)) for metric in metrics])
        np.testing.assert_allclose(result.values[pos], expected, atol=1e-5)
    unread = [pos for pos in range(HOST.shape[1]) if pos != 2]
    unchanged = np.tile(result.baseline[0], (7, 1))
    assert same(result.values[unread, 0], unchanged, model, largest_logit(model, HOST))


def test_a_sweep_of_paths_is_resumed(tiny, tmp_path):
    model = tiny("llama")
    axes = {"at": "z", "over": ("layer", "head"), "layers": [0], "via": QUERIES, "metric": METRIC}
    path = tmp_path / "paths.npz"
    first = mp.sweep(model, HOST, patch_from(model), checkpoint=path, **axes)
    again = mp.sweep(model, HOST, patch_from(model), checkpoint=path, **axes)
    np.testing.assert_array_equal(first.values, again.values)
    with pytest.raises(mp.errors.FileError):
        mp.sweep(model, HOST, patch_from(model), checkpoint=path, freeze="attention", **axes)
    with pytest.raises(mp.errors.FileError):
        mp.sweep(model, HOST, patch_from(model, HOST[::-1]), checkpoint=path, **axes)
    with pytest.raises(mp.errors.FileError):
        mp.sweep(model, HOST, patch_from(model), checkpoint=path, **{**axes, "via": mp.Receiver("k", layer=1)})


def test_an_alignment_says_where_paths_begin(tiny):
    model = tiny("llama")
    source = mx.array([[17, 48, 85, 26, 63, 4, 41, 78]])
    alignment = mp.align(source, HOST[:1])
    patch = mp.Replace(model.run_with_cache(source, sites=["z"])[1], alignment)
    axes = {"at": "z", "over": "head", "layers": [0], "via": LOGITS, "metric": METRIC}
    result = mp.sweep(model, HOST[:1], patch, **axes)
    edits = [patch.at("z", layer=0, head=head).via(LOGITS) for head in result.coords["head"]]
    np.testing.assert_array_equal(result.values, swept(model, edits, tokens=HOST[:1]))


def test_the_plan_of_a_path_begins_at_its_receiver(tiny):
    model = tiny("llama")
    axes = {"at": "z", "over": "head", "layers": [0], "metric": METRIC}
    nodes = mp.plan(model, HOST, patch_from(model), **axes)
    direct = mp.plan(model, HOST, patch_from(model), via=LOGITS, **axes)
    assert direct.token_layers < nodes.token_layers


@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt_neox-parallel", "granite"])
def test_logits_of_the_answers_alone_are_those_of_full_runs(name, tiny):
    """With a soft-cap and a multiplier as well, and answers of each example."""
    model = tiny(name)
    patch, metric = patch_from(model), LogitDiff([3, 9], [5, 3])
    axes = {"at": "z", "over": ("layer", "head"), "via": LOGITS, "metric": metric}
    result = mp.sweep(model, HOST, patch, **axes)
    full = mp.sweep(model, HOST, patch, executor="reference", **axes)
    np.testing.assert_allclose(result.values, full.values, atol=1e-5)
    allowed = max(1e-6, tolerance(model) * largest_logit(model, HOST))
    np.testing.assert_allclose(result.baseline, np.array(metric(model.run(HOST))), atol=allowed)


@pytest.mark.parametrize("at", ["z", "mlp_post", "mixer_out"])
@pytest.mark.parametrize("name", ["falcon_h1", "qwen3_5", "llama", "gemma2"])
def test_what_is_read_of_direct_paths_is_what_all_positions_give(name, at, tiny):
    """A plain function reads all logits, so senders run at all positions; one mixer may stand beside another."""
    model = tiny(name)
    axes = {"at": at, "over": "layer", "via": LOGITS}
    _, cache = model.run_with_cache(SOURCE, sites=(at,))
    found = mp.sweep(model, HOST, mp.Replace(cache), metric=LogitDiff(3, 5), **axes)
    whole = mp.sweep(model, HOST, mp.Replace(cache), metric=lambda logits: logits[:, -1, 3] - logits[:, -1, 5], **axes)
    np.testing.assert_allclose(found.values, whole.values, atol=1e-5)
    assert np.abs(found.values - found.baseline).max() > 1e-4
