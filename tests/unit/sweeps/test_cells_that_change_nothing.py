"""Cells whose edits give back, bit for bit, what stands there are not run: their values are the baseline."""

import mlx.core as mx
import numpy as np
import pytest
from rounding import one_order, skips

import mlx_patch as mp
from mlx_patch.model import HookedModel
from mlx_patch.sweeps import pieces_of

CLEAN = [3, 1, 4, 1, 5, 9, 2, 6]
CORRUPTED = [3, 1, 4, 1, 8, 9, 2, 6]
METRICS = [mp.metrics.LogitDiff(3, 5), mp.metrics.LogProb(7, pos=5)]
SAME = 4  # positions before the first that differs


@pytest.fixture(scope="module")
def model(tiny):
    return tiny("llama")


@pytest.fixture(scope="module")
def clean(model):
    return model.run_with_cache(mx.array([CLEAN]), sites=model.sites)[1]


def swept(model, tokens, intervention, **cells):
    """A sweep, with its numbers held to those of plain runs."""
    fast = mp.sweep(model, tokens, intervention, progress=False, **cells)
    plain = mp.sweep(model, tokens, intervention, progress=False, executor="reference", **cells)
    np.testing.assert_allclose(fast.values, plain.values, atol=2e-5)
    assert plain.provenance["skipped"] == 0
    return fast


@pytest.mark.parametrize("executor", ["auto", "rows"])
@pytest.mark.parametrize("site", ["resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "z", "q", "rot_k"])
def test_positions_before_the_first_difference(model, clean, site, executor):
    cells = {"at": site, "over": ("layer", "pos"), "metric": METRICS}
    result = mp.sweep(model, [CORRUPTED], mp.Replace(clean), executor=executor, progress=False, **cells)
    expected = swept(model, mx.array([CORRUPTED]), mp.Replace(clean), **cells)
    assert expected.provenance["skipped"] >= SAME * model.n_layers
    assert (expected.values[:, :SAME] == expected.baseline).all()
    np.testing.assert_allclose(result.values, expected.values, atol=2e-5)
    assert expected.provenance["token_layers"] < expected.plan.token_layers


def test_only_cells_of_which_nothing_changes_are_skipped(model, clean):
    result = swept(
        model,
        mx.array([CORRUPTED]),
        mp.Replace(clean),
        at="resid_post",
        over=("layer", "pos"),
        positions=[(0, 1), (3, 4), 2],
        metric=METRICS[0],
    )
    assert result.provenance["skipped"] == 2 * model.n_layers
    assert (result.values[:-1, 1] != result.baseline).all()


def test_heads_and_neurons(model, clean):
    for site, axis in (("z", "head"), ("mlp_post", "neuron")):
        chosen = {"neurons": [0, 5, (7, 9)]} if axis == "neuron" else {}
        result = swept(
            model,
            mx.array([CORRUPTED]),
            mp.Replace(clean),
            at=site,
            over=("layer", axis, "pos"),
            positions=[2, 6],
            metric=METRICS[0],
            **chosen,
        )
        assert skips(result, result.values.size // 2)


def test_edits_of_any_kind_that_give_back_what_stands_there(model):
    tokens = mx.array([CORRUPTED, CLEAN])
    _, own = model.run_with_cache(tokens, "resid_post")
    interventions = [mp.Replace(own), mp.Scale(1.0), mp.Interpolate(own, 0.0), mp.Clamp(-1e9, 1e9), mp.Add(0.0)]
    for intervention in interventions:
        result = swept(model, tokens, intervention, at="resid_post", over=("layer", "pos"), metric=METRICS)
        assert result.provenance["skipped"] == result.values[..., 0, 0].size, intervention
        assert (result.values == result.baseline).all()


def test_a_cell_with_one_edit_that_changes_something_is_run(model, clean):
    over = [
        [mp.Replace(clean).at("resid_post", layer=0, pos=1), mp.Replace(clean).at("z", layer=1, pos=2)],
        [mp.Replace(clean).at("resid_post", layer=0, pos=1), mp.Replace(clean).at("z", layer=1, pos=5)],
        [mp.Scale(2.0).at("resid_post", layer=0, pos=1), mp.Scale(0.5).at("resid_post", layer=0, pos=1)],
    ]
    result = swept(model, mx.array([CORRUPTED]), None, over=over, metric=METRICS[0])
    assert result.provenance["skipped"] == 2
    assert result.values[1] != result.baseline


def test_rows_count_together(model, clean):
    """One row that changes is enough."""
    result = swept(
        model,
        mx.array([CORRUPTED, [8, *CORRUPTED[1:]]]),
        mp.Replace(clean),
        at="resid_post",
        over=("layer", "pos"),
        metric=METRICS[0],
    )
    assert result.provenance["skipped"] == 0


def test_prompts_of_a_list_and_one_intervention_each(model, clean):
    prompts = [CORRUPTED, [*CLEAN[:5], 7, 7, 7]]
    result = swept(
        model,
        prompts,
        [mp.Replace(clean), mp.Replace(clean)],
        at="resid_post",
        over=("layer", "pos"),
        metric=METRICS[0],
    )
    assert skips(result, SAME * model.n_layers)


def test_functions_of_the_caller_run(model):
    calls = []

    def count(activation, site):
        calls.append(site)
        return activation

    result = mp.sweep(model, [CORRUPTED], mp.Apply(count), at="z", metric=METRICS[0], progress=False)
    assert result.provenance["skipped"] == 0


def test_prompts_that_run_in_pieces(model, clean):
    with pieces_of(3):
        result = swept(
            model, mx.array([CORRUPTED]), mp.Replace(clean), at="resid_post", over=("layer", "pos"), metric=METRICS[0]
        )
    assert skips(result, SAME * model.n_layers)


@pytest.mark.parametrize("name", ["gemma3_text", "gpt_neox-parallel", "mixtral", "rwkv7", "granite"])
def test_of_other_architectures(tiny, name):
    model: HookedModel = tiny(name)
    _, clean = model.run_with_cache(mx.array([CLEAN]), sites="resid_post")
    result = swept(
        model, mx.array([CORRUPTED]), mp.Replace(clean), at="resid_post", over=("layer", "pos"), metric=METRICS[0]
    )
    assert result.provenance["skipped"] >= SAME * model.n_layers or not one_order()


def test_a_checkpoint_goes_on_with_what_was_skipped(model, clean, tmp_path):
    cells = {"at": "resid_post", "over": ("layer", "pos"), "metric": METRICS[0], "progress": False}
    path = tmp_path / "sweep.checkpoint"
    first = mp.sweep(model, [CORRUPTED], mp.Replace(clean), checkpoint=path, **cells)
    again = mp.sweep(model, [CORRUPTED], mp.Replace(clean), checkpoint=path, **cells)
    np.testing.assert_array_equal(again.values, first.values)
    assert again.provenance["skipped"] == first.provenance["skipped"] > 0


def test_a_sign_of_zero_is_a_difference(model):
    """-0 is not 0, bit for bit."""
    _, own = model.run_with_cache(mx.array([CORRUPTED]), "resid_post")
    edited = [mp.Replace(mx.zeros((1, 8, 64))).at("resid_post", layer=0)]
    _, zeros = model.run_with_cache(mx.array([CORRUPTED]), "resid_post", edits=edited)
    assert not mx.any(zeros["resid_post", 0]).item()
    negative = mp.sweep(model, [CORRUPTED], over=[mp.Replace(own).at("resid_post", layer=1)], metric=METRICS[0])
    assert negative.provenance["skipped"] == 1


def test_a_function_beside_another_edit_is_not_called_to_compare(model):
    """It is called as often as one that has a cell to itself: its cell always runs."""
    calls = []

    def noted(activation, site):
        calls.append(site)
        return activation

    edit = mp.Apply(noted).at("mlp_out", layer=1)
    counts = []
    for cell in ([edit], [mp.Scale(1.0).at("mlp_out", layer=0), edit]):
        calls.clear()
        result = mp.sweep(model, [CLEAN], over=[cell], metric=METRICS, progress=False)
        counts.append((len(calls), result.provenance["skipped"]))
    assert counts[0] == counts[1]
    assert counts[0][1] == 0
