"""Gradients in groups of layers: the same to the last bit, in less memory."""

from dataclasses import dataclass

import mlx.core as mx
import numpy as np
import pytest
from two_rows import OTHER, TOKENS

import mlx_patch as mp
from mlx_patch.attribution import _gradients, _layer_groups
from mlx_patch.errors import ArchitectureError, KindError, ValueRefusedError
from mlx_patch.testing.zoo import built

pytestmark = pytest.mark.slow

METRICS = [mp.metrics.LogitDiff(3, 5), mp.metrics.Prob(7), mp.metrics.Entropy(pos=4)]
SITES = ("resid_pre", "resid_mid", "attn_out", "mlp_out", "q", "z")
CONFIG = {
    "hidden_size": 256,
    "num_hidden_layers": 12,
    "intermediate_size": 768,
    "num_attention_heads": 4,
    "rms_norm_eps": 1e-5,
    "vocab_size": 96,
}
ONE_LAYER = 1
"""Bytes of memory with which groups have one layer each."""


def in_groups(model, tokens, *arguments, n_groups=None, **cells):
    """An attribution in groups of layers, which is compared with that of all layers at once."""
    whole = mp.attribute(model, tokens, *arguments, **cells)
    grouped = mp.attribute(model, tokens, *arguments, memory=ONE_LAYER, **cells)
    assert whole.provenance["layer_groups"] == 1
    assert grouped.provenance["layer_groups"] == (n_groups or model.n_layers)
    assert "undivided" not in grouped.provenance
    assert np.abs(whole.values - whole.baseline).max() > 1e-2
    np.testing.assert_array_equal(grouped.values, whole.values)
    np.testing.assert_array_equal(grouped.baseline, whole.baseline)
    return grouped


CELLS = {
    "all sites": {"at": SITES, "over": ("site", "layer")},
    "positions": {"at": "resid_post", "over": ("layer", "pos")},
    "the last position, after a past": {"at": "z", "over": ("layer", "head"), "positions": -1, "metric": METRICS[0]},
    "neurons": {"at": "mlp_post", "over": ("layer", "neuron"), "neurons": [0, (3, 95), -1]},
    "scores and pattern": {"at": ("attn_scores", "pattern"), "over": ("site", "layer"), "positions": [-1]},
    "windows": {"at": "resid_pre", "over": ("layer",), "layers": mp.sweeps.windows(range(3), 2)},
    "both ends": {"at": ("embed", "final_norm"), "over": ("site", "pos")},
    "raw paths": {"at": "model.layers.1.mlp.gate_proj:output", "over": ("pos",)},
}
N_GROUPS = {"raw paths": 2}


@pytest.mark.parametrize("name", CELLS)
def test_groups_of_one_layer_give_the_same(model, source, name):
    intervention = mp.Replace(source)
    if name == "raw paths":
        intervention = mp.Ablate("zero")
    in_groups(model, TOKENS, intervention, n_groups=N_GROUPS.get(name), **{"metric": METRICS, **CELLS[name]})


@pytest.mark.parametrize("precision", ["4bit", "bfloat16", "float16"])
def test_in_coarser_precision(tiny, precision):
    model = tiny("llama", precision)
    _, cache = model.run_with_cache(OTHER, sites=SITES)
    in_groups(model, TOKENS, mp.Replace(cache), metric=METRICS, **CELLS["all sites"])


@pytest.mark.parametrize("intervention", [mp.Ablate("mean"), mp.Ablate("noise"), mp.Scale(0.5)], ids=repr)
def test_of_prompts_of_several_lengths(model, intervention):
    prompts = [[3, 1, 4, 1, 5, 9], [2, 7, 1, 8], [1, 6, 1, 8, 0, 3]]
    in_groups(model, prompts, intervention, at=SITES, over=("site", "layer"), metric=METRICS[:2])


def test_cells_with_edits_in_several_groups(model, source):
    edits = [mp.Replace(source).at("z", layer=layer) for layer in range(3)]
    together = in_groups(model, TOKENS, over=[edits, [edits[0], edits[2]]], metric=METRICS)
    alone = mp.attribute(model, TOKENS, over=edits, metric=METRICS, memory=ONE_LAYER)
    effects = alone.values - alone.baseline
    np.testing.assert_allclose(together.values[0] - together.baseline, effects.sum(axis=0), atol=1e-5)


def test_integrated(model, source):
    cells = {"at": SITES, "over": ("site", "layer"), "metric": METRICS[:2], "method": "integrated", "steps": 3}
    grouped = in_groups(model, TOKENS, mp.Replace(source), **cells)
    assert grouped.residual == mp.attribute(model, TOKENS, mp.Replace(source), **cells).residual


@pytest.mark.parametrize("metric", [mp.metrics.SequenceLogProb([[3, 5, 7]]), mp.metrics.LogProb(7, pos=2)])
def test_of_other_metrics(model, source, metric):
    in_groups(model, TOKENS, mp.Replace(source), at="resid_post", over=("layer", "pos"), metric=metric)


def test_layers_below_the_first_site_are_in_no_group(model, source):
    in_groups(model, TOKENS, mp.Replace(source), at="z", over=("layer",), layers=[2], n_groups=1, metric=METRICS)
    in_groups(model, TOKENS, mp.Replace(source), at="z", over=("layer",), layers=[1], n_groups=2, metric=METRICS)


@dataclass
class Measured:
    """An attribution and its peak of memory, in bytes above what was there."""

    estimate: mp.Estimate
    peak: int

    @property
    def n_groups(self):
        return self.estimate.provenance["layer_groups"]


MIB = 2**20
MEMORIES = (ONE_LAYER, 4 * MIB, 7 * MIB, 1024 * MIB)


def peak_of(run):
    mx.clear_cache()
    mx.reset_peak_memory()
    at_rest = mx.get_active_memory()
    result = run()
    return result, mx.get_peak_memory() - at_rest


@pytest.fixture(scope="module")
def measured():
    """A model of 12 layers and 32 tokens: what attribution takes by the memory that it may take; None a bare run."""
    model = mp.HookedModel(built("llama", CONFIG))
    source, host = (mx.array([[(11 + step * i) % 96 for i in range(32)]]) for step in (29, 37))
    _, cache = model.run_with_cache(source, sites=SITES)
    mx.eval(host)

    def attribute(memory):
        ask = {"at": SITES, "over": ("site", "layer"), "metric": METRICS[0], "memory": memory}
        return mp.attribute(model, host, mp.Replace(cache), **ask)

    taken = {memory: Measured(*peak_of(lambda memory=memory: attribute(memory))) for memory in MEMORIES}
    _, bare_peak = peak_of(lambda: mx.eval(model.model(host)))
    return bare_peak, taken


def test_the_peak_is_within_the_memory(measured):
    _, taken = measured
    for memory in MEMORIES[1:]:
        assert taken[memory].peak <= memory
    assert taken[MEMORIES[-1]].peak > MEMORIES[-2]


def test_there_are_as_few_groups_as_fit(measured):
    _, taken = measured
    n_groups = [taken[memory].n_groups for memory in MEMORIES]
    assert n_groups == sorted(set(n_groups), reverse=True)
    assert (n_groups[0], n_groups[-1]) == (12, 1)
    for memory in MEMORIES[1:-1]:
        assert taken[memory].peak > 0.5 * memory


def test_groups_of_a_layer_take_a_few_forward_passes(measured):
    bare_peak, taken = measured
    assert taken[ONE_LAYER].peak < 3.5 * bare_peak  # activations and gradients at six sites among them
    assert taken[ONE_LAYER].peak < taken[MEMORIES[-1]].peak / 3


def test_groups_of_any_size_give_the_same(measured):
    _, taken = measured
    for memory in MEMORIES[:-1]:
        np.testing.assert_array_equal(taken[memory].estimate.values, taken[MEMORIES[-1]].estimate.values)


def test_changes_take_the_memory_too(model, source, monkeypatch):
    """Cells that are changed one by one, and not 64 at once."""
    monkeypatch.setattr("mlx_patch.execution.cells._together.may_go_together", lambda edits: False)
    in_groups(model, TOKENS, mp.Replace(source), at="resid_post", over=("layer", "pos"), metric=METRICS)


@pytest.mark.parametrize("name", ["gemma3n", "kimi_k3", "longcat_flash", "hunyuan", "rwkv7", "talkie"])
def test_what_cannot_be_divided_says_why(tiny, name):
    model = tiny(name)
    ask = {"at": "resid_post", "over": ("layer",), "metric": METRICS[0]}
    estimate = mp.attribute(model, TOKENS, mp.Ablate("zero"), memory=ONE_LAYER, **ask)
    assert estimate.provenance["layer_groups"] == 1
    assert "later blocks of" in estimate.provenance["undivided"]
    enough = mp.attribute(model, TOKENS, mp.Ablate("zero"), **ask)
    assert "undivided" not in enough.provenance


def test_a_module_of_unknown_layer_says_so(model):
    ask = {"at": "lm_head:input", "over": ("pos",), "metric": METRICS[0], "memory": ONE_LAYER}
    estimate = mp.attribute(model, TOKENS, mp.Ablate("zero"), **ask)
    assert estimate.provenance["undivided"] == "a cell edits a module whose layer is unknown"


def test_the_model_is_as_it_was(tiny):
    model = tiny("qwen3_next")
    before = model.run(TOKENS), [module.training for module in model.model.modules()]
    classes = [type(module) for module in model.model.modules()]
    ask = {"at": "resid_post", "over": ("layer",), "memory": ONE_LAYER}
    mp.attribute(model, TOKENS, mp.Ablate("zero"), metric=METRICS, **ask)

    @mp.metric("breaks")
    def breaks(logits):
        raise RuntimeError("it breaks")

    with pytest.raises(RuntimeError, match="it breaks"):
        mp.attribute(model, TOKENS, mp.Ablate("zero"), metric=breaks, **ask)
    assert mx.array_equal(model.run(TOKENS), before[0])
    assert [module.training for module in model.model.modules()] == before[1]
    assert [type(module) for module in model.model.modules()] == classes


def test_a_gradient_that_is_no_number_is_refused(tiny):
    ask = {"at": "embed", "metric": METRICS[0], "memory": ONE_LAYER}
    with pytest.raises(ArchitectureError, match=r"gradient at .* is not a number"):
        mp.attribute(tiny("recurrent_gemma"), TOKENS, mp.Ablate("zero"), over=("pos",), **ask)


@pytest.mark.parametrize("memory", [1.5, True])
def test_memory_is_a_whole_number_of_bytes(model, memory):
    with pytest.raises(KindError, match=r"`memory` must be a whole number of bytes\. Got "):
        mp.attribute(model, TOKENS, mp.Ablate("zero"), at="z", metric=METRICS[0], memory=memory)


def test_memory_is_some(model):
    with pytest.raises(ValueRefusedError, match=r"`memory` must be 1 byte or more\. Got 0"):
        mp.attribute(model, TOKENS, mp.Ablate("zero"), at="z", metric=METRICS[0], memory=0)


def slopes_of_another_metric(monkeypatch):
    through = _gradients._WayBack.through

    def exchanged(self, group):
        gradients = through(self, group)
        self.slopes.reverse()
        return gradients

    monkeypatch.setattr(_gradients._WayBack, "through", exchanged)


def doubled_stream(monkeypatch):
    putting = _gradients.putting
    monkeypatch.setattr(_gradients, "putting", lambda stream: putting(2 * stream))


def a_group_left_out(monkeypatch):
    def fewer(prompt_run, blanks):
        planned = _layer_groups.layer_groups(prompt_run, blanks)
        return type(planned)((planned.groups[0], *planned.groups[2:]))

    monkeypatch.setattr(_gradients, "layer_groups", fewer)


@pytest.mark.parametrize("fault", [slopes_of_another_metric, doubled_stream, a_group_left_out])
def test_a_fault_turns_it_red(model, source, monkeypatch, fault):
    fault(monkeypatch)
    with pytest.raises((AssertionError, KeyError)):
        in_groups(model, TOKENS, mp.Replace(source), metric=METRICS, **CELLS["all sites"])
