"""`.at([...])`: the same edit at each of several sites, all in one run."""

import mlx.core as mx
import numpy as np
import pytest

import mlx_patch as mp
from mlx_patch.errors import SelectionError, ValueRefusedError

TOKENS = mx.array([[11, 48, 85, 26], [5, 9, 2, 77]])
BOTH = ["attn_out", "mlp_out"]
METRIC = mp.metrics.LogitDiff(3, 7)


@pytest.fixture(scope="module")
def source(tiny):
    return tiny().run_with_cache(TOKENS[::-1], BOTH)[1]


@pytest.mark.parametrize("precision", ["float32", "4bit"])
@pytest.mark.parametrize("kind", ["llama", "gemma2", "granite"])
def test_both_edits_are_made_in_one_run(tiny, kind, precision):
    """Against functions that are hooked in by hand, one a site."""
    model = tiny(kind, precision)

    def halve(activation, site):
        activation = activation + 0
        activation[:, -2:] = activation[:, -2:] * 0.5
        return activation

    by_hand = model.run_with_hooks(TOKENS, [(f"blocks.1.hook_{name}", halve) for name in BOTH])
    edits = mp.Scale(0.5).at(BOTH, layer=1, pos=[-2, -1])
    assert mx.array_equal(model.run(TOKENS, edits), by_hand).item()
    assert not mx.array_equal(model.run(TOKENS, edits[:1]), by_hand).item()
    with model.editing(*edits):
        assert mx.array_equal(model.model(TOKENS), by_hand).item()


def test_they_are_the_edits_of_each_site_in_order():
    edits = mp.Scale(0.5).at(("z", "mlp_out.2"), pos=-1)
    assert edits == (mp.Scale(0.5).at("z", pos=-1), mp.Scale(0.5).at("mlp_out.2", pos=-1))
    assert repr(edits) == "Edits(Scale(0.5).at('z', pos=-1), Scale(0.5).at('mlp_out', layer=2, pos=-1))"


def test_a_source_is_read_at_each_site(tiny, source):
    logits = tiny().run(TOKENS, mp.Replace(source).at(BOTH, pos=-1))
    each = [mp.Replace(source).at(name, pos=-1) for name in BOTH]
    assert mx.array_equal(logits, tiny().run(TOKENS, each)).item()


def test_they_mix_with_other_edits(tiny):
    other = mp.Scale(2.0).at("resid_pre", layer=0)
    edits = mp.Ablate("zero").at(BOTH, layer=2)
    assert mx.array_equal(tiny().run(TOKENS, [other, edits]), tiny().run(TOKENS, [other, *edits])).item()
    prompts = [[1, 2, 3], [4, 5]]
    together = tiny().run_each(prompts, edits=edits)
    for logits, each in zip(together, tiny().run_each(prompts, edits=list(edits)), strict=True):
        assert mx.array_equal(logits, each).item()


@pytest.mark.parametrize("executor", ["auto", "reference"])
def test_a_sweep_takes_them_as_one_cell(tiny, executor):
    edits = mp.Ablate("zero").at(BOTH, layer=1)
    cells = [edits, {"site": BOTH, "layer": 1}, mp.Ablate("zero").at("attn_out", layer=1)]
    result = mp.sweep(tiny(), TOKENS, mp.Ablate("zero"), over=cells, metric=METRIC, executor=executor)
    by_hand = np.array(METRIC(tiny().run(TOKENS, list(edits))))
    np.testing.assert_allclose(result.values[0], by_hand, atol=1e-5)
    np.testing.assert_array_equal(result.values[0], result.values[1])
    assert np.abs(result.values[0] - result.values[2]).max() > 1e-3
    standing = mp.sweep(tiny(), TOKENS, mp.Scale(1.0), "z", "layer", METRIC, edits=edits, executor=executor)
    np.testing.assert_allclose(standing.baseline, by_hand, atol=1e-5)


def test_in_a_generation_they_act_in_their_steps():
    edits = mp.Scale(0.0).at(BOTH, layer=0).during(mp.steps.generated)
    assert [edit.steps for edit in edits] == [mp.steps.generated] * 2
    assert type(edits).__name__ == "Edits"


def test_paths_from_several_sites_are_refused():
    with pytest.raises(ValueRefusedError, match=r"`via` must begin at one site. Got 2. Write \[edit.via"):
        mp.Scale(0.0).at(BOTH, layer=0).via("logits")


@pytest.mark.parametrize("sites", [[], ()])
def test_no_site_is_refused(sites):
    with pytest.raises(ValueRefusedError, match=r"`site` must name a site. Got an empty list"):
        mp.Scale(0.0).at(sites)


def test_a_site_that_is_there_twice_is_refused():
    with pytest.raises(ValueRefusedError, match=r"`site` must name each site once. Got .*blocks.1.attn.hook_z"):
        mp.Scale(0.0).at(["z.1", "blocks.1.attn.hook_z"])


@pytest.mark.parametrize(
    ("sites", "choice", "message"),
    [
        (["z", "v"], {"head": 1}, "`head` must mean the same at each site. Got .*those of v are KV heads"),
        (["mlp_post", "resid_post"], {"neuron": 3}, "`neuron` must mean the same .* whose last axes are d_mlp"),
        (["resid_post", "model.norm:output"], {"neuron": 3}, "`neuron` must mean the same"),
        (["z", "mlp_out"], {"head": 1}, "`head` must be None at 'mlp_out'"),
        (["z", "mlp_out"], {"key": 1}, "`key` must be None at 'z'"),
    ],
)
def test_what_would_mean_two_things_is_refused(sites, choice, message):
    with pytest.raises(SelectionError, match=message):
        mp.Scale(0.0).at(sites, layer=1 if "model.norm:output" not in sites else None, **choice)


def test_what_means_the_same_is_taken():
    assert len(mp.Scale(0.0).at(["q", "z", "pattern"], layer=1, head=3)) == 3
    assert len(mp.Scale(0.0).at(["k", "v"], layer=1, head=1)) == 2
    assert len(mp.Scale(0.0).at(["resid_pre", "mlp_out"], layer=1, neuron=5)) == 2
