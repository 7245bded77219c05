"""Whatever a sweep goes over, its fast executor finds what one full forward pass a cell finds."""

from dataclasses import dataclass

import mlx.core as mx
import numpy as np
import pytest
from typing_extensions import override

from mlx_patch import Ablate, Add, Apply, Clamp, HookedModel, Interpolate, Project, Replace, Scale
from mlx_patch.interventions import Intervention
from mlx_patch.metrics import Entropy, LogitDiff, Prob
from mlx_patch.sweeps import onwards, sweep, up_to, windows

OTHER = mx.array([[5, 90, 33, 26, 17, 71, 2, 64]])
DIFF = LogitDiff(3, 4)


@pytest.fixture(scope="module")
def model(tiny):
    return tiny()


@pytest.fixture(scope="module")
def other(model):
    """Every activation of another prompt."""
    return model.run_with_cache(OTHER, sites=lambda site: True)[1]


def equal(model, tokens, *args, executor="grow", acts=True, metric=DIFF, **chosen):
    """The result by the fast executor, once it has been found equal to the reference's, number by number."""
    fast = sweep(model, tokens, *args, metric=metric, **chosen)
    slow = sweep(model, tokens, *args, metric=metric, executor="reference", **chosen)
    assert (fast.plan.executor, slow.plan.executor) == (executor, "reference")
    assert (fast.axes, dict(fast.coords)) == (slow.axes, dict(slow.coords))
    for ran in (fast, slow):
        cost, planned = ran.provenance["token_layers"], ran.plan.token_layers
        assert cost == planned or (ran.provenance["skipped"] and cost < planned)
    np.testing.assert_allclose(fast.values, slow.values, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(fast.baseline, slow.baseline, rtol=1e-5, atol=1e-5)
    assert not acts or np.abs(slow.values - slow.baseline).max() > 1e-2  # or nothing has been compared
    return fast


def test_sites_layers_and_positions(model, tokens, other):
    sites = ("resid_pre", "resid_mid", "attn_out", "mlp_out", "resid_post")
    result = equal(model, tokens, Replace(other), sites, ("site", "layer", "pos"))
    assert result.values.shape == (5, 3, 8, 1)
    assert result.coords["site"] == sites
    assert result.plan.token_layers == result.plan.minimum


@pytest.mark.parametrize("site", ["q", "k", "v", "rot_q", "rot_k", "attn_scores", "pattern", "z"])
def test_heads_of_attention_at_each_site(model, tokens, other, site):
    equal(model, tokens, Replace(other), site, ("layer", "pos", "head"), positions=[0, 5, -1])


@pytest.mark.parametrize("site", ["embed", "final_norm"])
def test_sites_that_have_no_layer(model, tokens, other, site):
    equal(model, tokens, Replace(other), site, "pos")


@pytest.mark.parametrize("groups", [windows(range(3), 2), up_to(range(3)), onwards(range(3)), [(2, 0), 1]])
@pytest.mark.parametrize("site", ["resid_post", "mlp_out"])
def test_groups_of_layers(model, tokens, other, groups, site):
    result = equal(model, tokens, Interpolate(other, 0.5), site, ("layer", "pos"), layers=groups, positions=[2, (3, 6)])
    assert result.coords["layer"] == tuple(groups)
    assert result.coords["pos"] == (2, (3, 6))


def test_groups_of_heads_and_of_neurons(model, tokens, other):
    equal(model, tokens, Replace(other), "z", ("head", "layer"), heads=[0, (1, 3), (3, 2)], positions=[-1])
    equal(model, tokens, Replace(other), "mlp_post", ("neuron",), neurons=[0, range(10, 50), (95, 3)], layers=1)


def test_every_neuron(model, tokens):
    result = equal(model, tokens, Scale(9.0), "mlp_post", ("neuron",), layers=2, positions=-1)
    assert result.coords["neuron"] == tuple(range(96))


def test_alphas(model, tokens, other):
    result = equal(model, tokens, Interpolate(other, 0.3), "resid_post", ("alpha", "pos"), layers=1, alphas=[0, 0.5, 1])
    assert result.coords["alpha"] == (0.0, 0.5, 1.0)
    replaced = sweep(model, tokens, Replace(other), "resid_post", "pos", DIFF, layers=1)
    np.testing.assert_allclose(result.values[0], np.broadcast_to(result.baseline, (8, 1)), atol=1e-5)
    np.testing.assert_allclose(result.values[2], replaced.values, atol=1e-5)


def test_cells_that_are_given_one_by_one(model, tokens, other):
    swap, double = Replace(other), Scale(2.0)
    cells = [
        swap.at("resid_post", layer=2, pos=-1),
        [swap.at("z", layer=1, head=2), double.at("mlp_out", layer=0, pos=[1, 6]), double.at("resid_pre", layer=2)],
        {"layer": 1, "pos": 4},
        {"site": "attn_out", "layer": -1},
        [double.at("final_norm", pos=-1), double.at("embed", pos=3)],
    ]
    result = equal(model, tokens, swap, at="resid_mid", over=cells)
    assert result.axes == ("cell", "example")
    by_axes = sweep(model, tokens, swap, "resid_mid", ("layer", "pos"), DIFF, layers=1, positions=4)
    np.testing.assert_allclose(result.values[2], by_axes.values[0, 0], atol=1e-5)


def test_edits_of_one_place_keep_their_order_in_every_cell(model, tokens):
    scale, add = Scale(3.0), Add(mx.arange(64) / 16)
    cells = [
        [scale.at("embed"), add.at("resid_pre", layer=0)],
        [add.at("resid_pre", layer=0), scale.at("embed")],
        [scale.at("attn_out", layer=1), add.at("mixer_out", layer=1)],
        [add.at("mixer_out", layer=1), scale.at("attn_out", layer=1)],
        [add.at("mlp_out", layer=1), scale.at("model.layers.1.mlp:output"), add.at("mlp_out", layer=1)],
    ]
    result = equal(model, tokens, over=cells)
    assert len(result.plan.passes) == 1
    assert abs(result.values[0] - result.values[1]) > 1e-3
    assert abs(result.values[2] - result.values[3]) > 1e-3


@pytest.mark.parametrize(
    ("path", "executor"),
    [
        ("model.layers.1:input", "grow"),
        ("model.layers.1.mlp.gate_proj:output", "grow"),
        ("model.layers.2.self_attn.o_proj:input", "grow"),
        ("model.norm:input", "grow"),
        ("model.norm:output", "grow"),
        ("lm_head:input", "rows"),
        ("lm_head:output", "rows"),
        ("model.embed_tokens:output", "rows"),
    ],
)
def test_raw_paths(model, tokens, path, executor):
    square = Apply(lambda activation, site: activation * activation, name="square")
    equal(model, tokens, square, path, "pos", executor=executor)
    equal(model, tokens, over=[square.at(path), Ablate("mean").at(path)], executor=executor)


def test_a_raw_path_means_the_same_whatever_is_read(model, tokens):
    """However few positions."""
    mean = Ablate("mean").at("lm_head:input")
    expected = DIFF(model.run(tokens, [mean]))
    np.testing.assert_allclose(sweep(model, tokens, over=[mean], metric=DIFF).values[0], np.array(expected), atol=1e-5)


def test_several_metrics_read_where_each_reads(model, tokens, other):
    def loudest(logits):
        return logits.max(axis=(1, 2))

    few = [LogitDiff(3, 4), Prob(5, pos=4), Entropy(pos=-8)]
    for metrics in (few, [*few, loudest], few[:2]):
        result = equal(model, tokens, Replace(other), "resid_post", ("layer", "pos"), metric=metrics)
        assert result.values.shape == (3, 8, len(metrics), 1)
        logits = model.run(tokens, [Replace(other).at("resid_post", layer=1, pos=2)])
        expected = [mx.array(metric(logits)).item() for metric in metrics]
        np.testing.assert_allclose(result.values[1, 2, :, 0], expected, atol=1e-5)


def test_a_batch(model, tokens, other):
    both = mx.concatenate([tokens, OTHER[:, ::-1]])
    metric = LogitDiff([3, 7], [4, 9])
    result = equal(model, both, Replace(other), "resid_post", ("layer", "pos"), metric=metric)
    alone = sweep(model, both[1:], Replace(other), "resid_post", ("layer", "pos"), LogitDiff(7, 9))
    np.testing.assert_allclose(result.values[..., 1], alone.values[..., 0], atol=1e-5)


def test_prompts_with_an_intervention_and_an_answer_each(model):
    """Prompts of three lengths."""
    prompts = [[1, 2, 3, 4, 5], [6, 7, 8], [9, 10, 11, 12, 13], [14, 15, 16, 17], [18, 19, 20]]
    sources = [model.run_with_cache(mx.array([one[::-1]]), sites="resid_post")[1] for one in prompts]
    right, wrong = [20, 21, 22, 23, 24], [30, 31, 32, 33, 34]
    chosen = {"over": ("layer", "pos"), "positions": [-1, (-3, -2)]}
    swaps = [Replace(source) for source in sources]
    result = equal(model, prompts, swaps, "resid_post", metric=LogitDiff(right, wrong), **chosen)
    assert result.coords["pos"] == (-1, (-3, -2))
    for n, prompt in enumerate(prompts):
        metric = LogitDiff(right[n], wrong[n])
        alone = sweep(model, mx.array([prompt]), swaps[n], "resid_post", metric=metric, **chosen)
        np.testing.assert_allclose(result.values[..., n], alone.values[..., 0], atol=1e-5)
        np.testing.assert_allclose(result.baseline[n], alone.baseline[0], atol=1e-5)


def test_an_intervention_for_each_row_of_a_batch(model, tokens, other):
    both = mx.concatenate([tokens, OTHER[:, ::-1]])
    result = equal(model, both, [Replace(other), Scale(0.0)], "z", ("layer", "head"), positions=[3, -1])
    alone = sweep(model, both[1:], Scale(0.0), "z", ("layer", "head"), DIFF, positions=[3, -1])
    np.testing.assert_allclose(result.values[..., 1], alone.values[..., 0], atol=1e-5)
    by_dict = equal(model, both, [Replace(other), Scale(0.0)], "z", [{"layer": 1, "head": 2, "pos": [3, -1]}])
    np.testing.assert_allclose(by_dict.values[0], result.values[1, 2], atol=1e-5)


def test_strings_as_prompts(word_tokenizer, model):
    named = HookedModel(model.model, word_tokenizer)
    texts = ["w03 w04 w05", "w06 w07", "w08 w09 w10"]
    result = equal(named, texts, Ablate("zero"), "mlp_out", metric=LogitDiff("w20", "w21"))
    assert [len(ids) for ids in result.provenance["tokens"]] == [3, 2, 3]
    one = equal(named, texts[1], Ablate("zero"), "mlp_out", metric=LogitDiff("w20", "w21"))
    np.testing.assert_allclose(result.values[:, 1], one.values[:, 0], atol=1e-5)


def test_numbers_from_the_end_become_those_from_the_start(model, tokens, other):
    result = equal(model, tokens, Replace(other), "z", ("layer", "pos"), layers=[-1, 0], positions=[-1, (0, -2)])
    assert result.coords["layer"] == (2, 0)
    assert result.coords["pos"] == (7, (0, 6))


@dataclass(frozen=True)
class Louder(Intervention):
    """The picked part times the largest number anywhere, which only the whole activation has."""

    @override
    def __call__(self, own, where):
        return own * mx.max(mx.abs(where.whole))


@pytest.mark.parametrize(
    "whole", [Ablate("mean"), Ablate("noise", seed=3), Louder(), Scale(2.0) | Louder(), Louder() | Scale(2.0)]
)
def test_what_reads_more_than_it_edits_begins_at_the_start(model, tokens, whole):
    """At the first position."""
    result = equal(model, tokens, whole, "resid_mid", ("layer", "pos"), positions=[3, -1])
    assert {one.start for one in result.plan.passes} == {0}


@pytest.mark.parametrize(
    "local",
    [
        Ablate("zero"),
        Ablate("mean", over="batch"),
        Ablate("resample"),
        Ablate("resample", source=mx.random.normal((3, 8, 64), key=mx.random.key(1))),
        Ablate("mean", source=mx.random.normal((3, 8, 64), key=mx.random.key(1))),
        Add(mx.random.normal((1, 8, 64), key=mx.random.key(2))),
        Project(mx.arange(64) / 64),
        Scale(2.0) | Clamp(-1.0, 1.0),
        Apply(lambda activation, site: mx.sin(activation), name="sine"),
    ],
)
def test_what_reads_only_what_it_edits_begins_there(model, tokens, local):
    both = mx.concatenate([tokens, OTHER])
    result = equal(model, both, local, "resid_mid", ("layer", "pos"), positions=[3, -1], acts=local.by_position)
    assert {one.start for one in result.plan.passes} == {3, 7}


def test_an_array_of_the_picked_part_keeps_the_picks_order(model, tokens):
    """The positions after 4 are as many as the array has, so that a run of them could take it for the whole."""
    rows, heads = mx.random.normal((1, 4, 64)) * 4, mx.random.normal((1, 1, 4, 32)) * 4
    cells = [
        Replace(rows).at("resid_mid", layer=1, pos=[7, 6, 5, 4]),
        Replace(rows).at("resid_mid", layer=1, pos=[4, 5, 6, 7]),
        Replace(heads).at("z", layer=1, pos=-1, head=[3, 2, 1, 0]),
        Replace(heads).at("z", layer=1, pos=-1, head=[-1, 0, 1, 2]),
    ]
    result = equal(model, tokens, over=cells)
    assert [cell.start for cell in result.plan.passes] == [0, 4]


def test_a_raw_axis_is_not_taken_for_positions(model, tokens):
    """Though it is as long as the rest of the prompt."""
    rope = "model.layers.1.self_attn.rope:output[0]"  # four heads along axis 1, and four positions after 4
    for executor in ("auto", "rows", "reference"):
        with pytest.raises(IndexError, match=r"`site` must have the 8 positions of this pass along axis 1"):
            sweep(model, tokens, over=[Scale(2.0).at(rope, pos=4)], metric=DIFF, executor=executor)


def test_a_slice_of_positions(model, tokens, other):
    cells = [Replace(other).at("resid_post", layer=1, pos=slice(3, 99)), {"layer": 0, "pos": slice(None, None, 3)}]
    result = equal(model, tokens, Replace(other), "mlp_out", cells)
    assert {one.start for one in result.plan.passes} == {0, 3}


def test_one_position_is_enough(model):
    equal(model, mx.array([[9]]), Scale(3.0), "resid_post", ("layer", "pos"))


def test_a_metric_that_is_nan_spoils_no_other(model, tokens, other):
    def undefined(logits):
        return logits[:, -1, 3] * mx.nan

    result = sweep(model, tokens, Replace(other), "resid_post", ("layer", "pos"), [DIFF, undefined])
    alone = sweep(model, tokens, Replace(other), "resid_post", ("layer", "pos"), DIFF)
    np.testing.assert_allclose(result.values[:, :, 0], alone.values, atol=1e-5)
    assert np.isnan(result.values[:, :, 1]).all()
