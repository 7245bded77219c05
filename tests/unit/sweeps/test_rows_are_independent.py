"""Rows are independent: what a row gets does not depend on how its batch was made, nor on the edits of other rows."""

import mlx.core as mx
import numpy as np
import pytest

import mlx_patch as mp
from mlx_patch.errors import ShapeError, ValueRefusedError

BATCH = mx.array([[5, 50, 51, 7, 11, 3], [5, 9, 50, 51, 11, 3], [50, 51, 8, 4, 11, 3]])
NAME = mp.pos.token(50) | mp.pos.token(51)  # at 1 and 2, at 2 and 3, at 0 and 1
PLACES = ((1, 2), (2, 3), (0, 1))
DIFF = mp.metrics.LogitDiff(10, 20)
EXECUTORS = ("reference", "rows", "grow")
SOURCELESS = [
    mp.Ablate("noise", scale=3.0),
    mp.Ablate("mean"),
    mp.Ablate("mean", over="batch"),
    mp.Ablate("resample"),
    mp.Scale(2.0) | mp.Ablate("noise"),
    mp.Ablate("resample") | mp.Ablate("mean"),
]


@pytest.fixture
def model(tiny):
    return tiny()


def embedded(model, *edits, tokens=BATCH):
    return model.run_with_cache(tokens, "embed", edits=edits)[1]["embed"]


def at_names(edited, plain):
    """`plain` with the rows of `edited` where the names are."""
    rows = np.array(plain)
    for row, positions in enumerate(PLACES):
        for pos in positions:
            rows[row, pos] = np.array(edited[row, pos])
    return rows


@pytest.mark.parametrize("ablation", SOURCELESS[:4], ids=repr)
def test_a_selector_is_one_edit_over_the_batch(model, ablation):
    plain, everywhere = embedded(model), embedded(model, ablation.at("embed"))
    got = embedded(model, ablation.at("embed", pos=NAME))
    if ablation == mp.Ablate("mean"):  # of the whole activation, wherever it is put
        everywhere = mx.broadcast_to(plain.mean(axis=(0, 1)), plain.shape)
    np.testing.assert_allclose(np.array(got), at_names(everywhere, plain), atol=1e-6)


def test_steps_at_a_selector_are_edits_one_after_the_other(model):
    """Steps that are composed."""
    first, second = mp.Scale(2.0), mp.Ablate("noise")
    composed = embedded(model, (first | second).at("embed", pos=NAME))
    apart = embedded(model, first.at("embed", pos=NAME), second.at("embed", pos=NAME))
    assert mx.array_equal(composed, apart).item()


@pytest.mark.parametrize("ablation", SOURCELESS, ids=repr)
@pytest.mark.parametrize("executor", EXECUTORS)
def test_the_same_intervention_for_each_prompt_is_one(model, ablation, executor):
    how = {"at": "mlp_out", "metric": DIFF, "executor": executor, "layers": [0, 2]}
    whole = mp.sweep(model, BATCH, ablation, **how).values
    of_each = mp.sweep(model, BATCH, [ablation] * 3, **how).values
    np.testing.assert_allclose(of_each, whole, atol=1e-5)


@pytest.mark.parametrize("executor", EXECUTORS)
def test_interventions_of_other_prompts_do_not_reach_a_row(model, executor):
    """Row 0's noise has the deviation of the unpatched batch, whatever is done to rows 1 and 2."""
    several = [mp.Ablate("noise"), mp.Scale(50.0), mp.Ablate("resample")]
    values = mp.sweep(model, BATCH, several, "mlp_out", metric=DIFF, executor=executor).values
    for row, intervention in enumerate(several):
        alone = [DIFF(model.run(BATCH, [intervention.at("mlp_out", layer=layer, batch=row)])) for layer in range(3)]
        np.testing.assert_allclose(values[:, row], np.array(mx.stack(alone))[:, row], atol=1e-5)


@pytest.mark.parametrize("ablation", [mp.Ablate("noise"), mp.Ablate("mean"), mp.Apply(lambda x, site: x[::-1])])
@pytest.mark.parametrize("executor", EXECUTORS)
def test_a_prompt_of_a_list_gets_what_it_gets_alone(model, ablation, executor):
    prompts = [[5, 9, 2, 7, 11], [6, 1, 2, 8, 3], [5, 9, 2, 7, 11, 3]]
    how = {"at": "mlp_out", "over": ("layer", "pos"), "metric": DIFF, "executor": executor, "positions": [1, -1]}
    together = mp.sweep(model, prompts, ablation, **how)
    measured = mp.measure(model, prompts, DIFF, ablation.at("mlp_out", layer=0, pos=1))
    for n, prompt in enumerate(prompts):
        alone = mp.sweep(model, mx.array([prompt]), ablation, **how)
        np.testing.assert_allclose(together.values[..., n], alone.values[..., 0], atol=1e-5)
        assert measured[n] == pytest.approx(alone.values[0, 0, 0], abs=1e-5)
    of_each = model.run_each(prompts, ablation.at("mlp_out", layer=0, pos=1))
    np.testing.assert_allclose(measured, [DIFF(logits).item() for logits in of_each], atol=1e-5)


def test_an_array_is_a_batch_and_lists_of_ids_are_prompts(model):
    prompts = [[5, 9, 2, 7, 11], [6, 1, 2, 8, 3]]
    batch, listed = (
        mp.sweep(model, given, mp.Ablate("mean"), "mlp_out", metric=DIFF, layers=0).values
        for given in (mx.array(prompts), prompts)
    )
    wanted = DIFF(model.run(mx.array(prompts), [mp.Ablate("mean").at("mlp_out", layer=0)]))
    np.testing.assert_allclose(batch.ravel(), np.array(wanted), atol=1e-5)
    assert np.abs(batch - listed).max() > 1e-2


@pytest.mark.parametrize("ablation", [mp.Ablate("resample"), mp.Ablate("mean", over="batch")])
def test_a_prompt_of_a_list_has_no_other_row(model, ablation):
    prompts, remedy = [[5, 9, 2, 7, 11], [6, 1, 2, 8, 3]], "`source` must be given if the run has one row"
    with pytest.raises(ValueRefusedError, match=remedy):
        mp.sweep(model, prompts, ablation, "mlp_out", metric=DIFF)
    with pytest.raises(ValueRefusedError, match=remedy):
        mp.measure(model, prompts, DIFF, ablation.at("mlp_out"))


def test_answers_behind_a_batch_leave_its_edits_as_they_are(model):
    answers, metric = [[10, 20], [11, 3], [7, 7]], mp.metrics.SequenceLogProb([[10, 20], [11, 3], [7, 7]])
    swept = mp.sweep(model, BATCH, over=[mp.Ablate("noise").at("mlp_out", layer=0, pos=NAME)], metric=metric).values[0]
    logits = mx.concatenate([BATCH, mx.array(answers)], axis=1)
    edits, deviation = [], model.run_with_cache(BATCH, "mlp_out")[1]["mlp_out", 0]
    noise = model.run_with_cache(BATCH, "mlp_out", [mp.Ablate("noise").at("mlp_out", layer=0)])[1]["mlp_out", 0]
    for row, positions in enumerate(PLACES):
        edits.append(
            mp.Replace(noise[row : row + 1, mx.array(positions)]).at("mlp_out", layer=0, pos=positions, batch=row)
        )
    logprobs = model.run(logits, edits)
    logprobs = logprobs - mx.logsumexp(logprobs, axis=-1, keepdims=True)
    wanted = [sum(logprobs[row, 5 + n, token].item() for n, token in enumerate(own)) for row, own in enumerate(answers)]
    np.testing.assert_allclose(swept, wanted, atol=1e-4)
    assert not mx.array_equal(noise, deviation).item()


def test_raw_paths_that_hold_no_rows_are_refused_for_lists(tiny):
    model, prompts = tiny("olmoe"), [[1, 2, 3], [4, 5, 6]]
    heap = mp.Apply(lambda x, site: 2.0 * x).at("model.layers.1.mlp.gate:output")
    with pytest.raises(ShapeError, match="must have the 2 prompts of one length along its first axis"):
        mp.measure(model, prompts, DIFF, heap)
    norm = mp.Apply(lambda x, site: 2.0 * x).at("model.norm:input")
    assert mp.measure(model, prompts, DIFF, norm).shape == (2,)
