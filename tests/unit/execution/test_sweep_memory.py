"""Memory does not grow with the number of cells, and `memory=` bounds it."""

import mlx.core as mx
import pytest
from mlx_lm.models import llama, mixtral

from mlx_patch import Ablate, HookedModel, plan, sweep
from mlx_patch.execution.readouts import Readout
from mlx_patch.metrics import LogProb

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wide():
    """A llama whose logits take more room than its weights' activations: 30,000 tokens."""
    shape = {"hidden_size": 64, "num_hidden_layers": 4, "intermediate_size": 512, "num_attention_heads": 4}
    args = llama.ModelArgs.from_dict({"model_type": "llama", "rms_norm_eps": 1e-5, "vocab_size": 30_000, **shape})
    model = llama.Model(args)
    mx.eval(model.parameters())
    return HookedModel(model)


TOKENS = mx.array([[5 * i % 97 for i in range(40)]])


def peak_of(*args, **choices) -> int:
    """Bytes that a sweep takes at the most, beside what is there before."""
    mx.clear_cache()
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    sweep(*args, **choices)
    return mx.get_peak_memory() - before


def peak(model, neurons: int, **choices) -> int:
    args = (model, TOKENS, Ablate("zero"), "mlp_post", ("layer", "neuron"), LogProb(3))
    return peak_of(*args, positions=-1, neurons=range(neurons), **choices)


def test_two_thousand_cells_take_no_more_than_two_hundred(wide):
    few, many = (min(peak(wide, neurons) for _ in range(3)) for neurons in (50, 500))
    assert many <= 1.2 * few  # kept logits would take twice as much and more


def test_logits_that_are_kept_would_show(wide, monkeypatch):
    measure, kept = Readout.measure, []

    def keeping(self, logits, length):
        kept.append(logits)
        return measure(self, logits, length)

    monkeypatch.setattr(Readout, "measure", keeping)
    few = peak(wide, 50)
    kept.clear()
    assert peak(wide, 500) > 2 * few


def test_a_budget_is_kept(wide):
    free = peak(wide, 100)
    assert peak(wide, 100, memory=free // 8) < free // 2


SIZES = {"llama": {}, "narrow": {"intermediate_size": 128}, "mixtral": {"num_local_experts": 4}}


@pytest.mark.parametrize("name", SIZES)
def test_the_estimate_is_near_what_a_pass_takes(name):
    """Of the whole sequence, for which the rows of all layers run together."""
    module = mixtral if name == "mixtral" else llama
    shape = {"hidden_size": 128, "num_hidden_layers": 8, "intermediate_size": 1024, "num_attention_heads": 2}
    more = {"model_type": "llama", "rms_norm_eps": 1e-5, "vocab_size": 500, "num_key_value_heads": 2, **SIZES[name]}
    model = module.Model(module.ModelArgs.from_dict({**shape, **more}))
    mx.eval(model.parameters())
    hooked, tokens = HookedModel(model), mx.array([[7 * i % 97 for i in range(200)]])
    args = (hooked, tokens, Ablate("zero"), "resid_post", "layer", LogProb(3))
    sweep(*args)  # what is compiled or kept the first time is no part of it
    taken = peak_of(*args)
    assert 0.5 < plan(*args).memory / taken < 2.5, (plan(*args).memory, taken)
