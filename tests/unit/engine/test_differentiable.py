"""What stands in the way of a gradient is moved out of it for a while, or refused by name."""

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx_lm.models.switch_layers import SwitchGLU
from mlx_lm.tuner.utils import linear_to_lora_layers

from mlx_patch import Apply, HookedModel
from mlx_patch.engine import ROUNDING, WITHOUT_GRADIENT, _differentiable, differentiable
from mlx_patch.errors import ArchitectureError, KindError
from mlx_patch.testing import tiny_model

TOKENS = mx.array([[(11 + 37 * i) % 96 for i in range(8)]])
SWITCHED = ["bailing_moe_v3", "kimi_k3", "kimi_linear", "olmo_hybrid", "qwen3_5", "qwen3_next"]
"""Models with a Metal kernel that training mode replaces."""


def gradient(model, site, layer):
    """The gradient of the sum of the sines of all logits at a site."""

    def metric(delta):
        edit = Apply(lambda activation, site: activation + delta).at(site, layer=layer)
        return mx.sum(mx.sin(model.run(TOKENS, [edit])))

    zeros = mx.zeros(model.run_with_cache(TOKENS, sites=site)[1][site, layer].shape)
    with differentiable(model.model):
        return mx.grad(metric)(zeros)


def state(raw):
    return [(type(module), module.training) for module in raw.modules()]


@pytest.mark.parametrize("name", SWITCHED)
def test_training_mode_replaces_kernels_and_changes_no_bit(name):
    raw = tiny_model(name)
    before, logits = state(raw), raw(TOKENS)
    with differentiable(raw):
        switched = [module for module in raw.modules() if module.training]
        assert switched
        assert {"training"} <= set.intersection(*(_differentiable._names(module) for module in switched))
        assert mx.array_equal(raw(TOKENS), logits)
    assert state(raw) == before


def test_modes_are_put_back_after_an_error():
    raw = tiny_model("qwen3_next")
    first = next(module for module in raw.modules() if _differentiable._names(module) & {"gated_delta_update"})
    first._set_training_mode(True)
    before = state(raw)
    with pytest.raises(ValueError, match="mine"), differentiable(raw):
        raise ValueError("mine")
    assert state(raw) == before


def test_contexts_nest():
    raw = tiny_model("qwen3_next")
    before = state(raw)
    with differentiable(raw):
        inside = state(raw)
        with differentiable(raw):
            assert state(raw) == inside
        assert state(raw) == inside
    assert state(raw) == before


def test_active_dropout_is_refused():
    raw = tiny_model("llama").eval()
    linear_to_lora_layers(raw, 3, {"rank": 2, "scale": 4.0, "dropout": 0.5})
    with pytest.raises(KindError, match="must not draw random numbers"), differentiable(raw):
        pass


@pytest.mark.slow
def test_experts_that_are_chosen_by_sorting_are_constants():
    model = HookedModel(tiny_model("deepseek_v41"))
    last = model.n_layers - 1
    before = state(model.model)
    assert mx.max(mx.abs(gradient(model, "z", last))) > 0
    assert mx.max(mx.abs(gradient(model, "router_logits", last))) > 0
    assert state(model.model) == before


@pytest.mark.slow
def test_the_same_module_may_run_several_times():
    """A module of a loop that sorts has one call a walk, and no hook of it says which."""

    class Loop(nn.Module):
        def __init__(self):
            super().__init__()
            self.sort = Sort()
            self.experts = SwitchGLU(4, 4, 3)

        def __call__(self, tokens):
            values = mx.broadcast_to(tokens[..., None] / 7, (*tokens.shape, 4)) + mx.arange(4)
            for _ in range(2):
                values = self.sort(values)
            return values

    class Sort(nn.Module):
        def __call__(self, values):
            order = mx.argsort(-mx.sin(values), axis=-1)
            return mx.take_along_axis(values * values, order, axis=-1)

    raw = Loop()
    tokens = mx.array([[1.0, 2.0]])

    def total(tokens):
        return raw(tokens).sum()

    with pytest.raises(ValueError, match="Cannot calculate VJP with respect to indices"):
        mx.grad(total)(tokens)
    with differentiable(raw):
        by_gradient = mx.grad(total)(tokens)
    step = 1e-3
    by_difference = [(total(tokens + d) - total(tokens - d)) / (2 * step) for d in step * mx.eye(2)[:, None]]
    assert np.allclose(by_gradient[0], [difference.item() for difference in by_difference], rtol=1e-3)


ROUNDED = {"fake_8bit_quant": "afm7", "_fake_quant_fp8": "deepseek_v41"}


@pytest.mark.slow
@pytest.mark.parametrize("function", ROUNDING)
def test_what_rounds_is_refused_with_the_reason(function):
    raw = tiny_model(ROUNDED[function])
    before = state(raw)
    with pytest.raises(ArchitectureError) as refused:
        gradient(HookedModel(raw), "resid_pre", 0)
    assert ROUNDING[function] in str(refused.value)
    assert state(raw) == before


@pytest.mark.parametrize("name", ["afm7", "deepseek_v41"])
def test_rounding_changes_no_bit_inside(name):
    raw = tiny_model(name)
    logits = raw(TOKENS)
    with differentiable(raw):
        assert mx.array_equal(raw(TOKENS), logits)


ON_METAL = {
    "wkv7_kernel": "rwkv7",
    "_sinkhorn": "deepseek_v41",
    "norm_add_norm": "muse_spark",
    "execute_matmul_kernel": "bitnet",
}


@pytest.mark.parametrize("kernel", WITHOUT_GRADIENT)
def test_kernels_without_another_path_are_refused_by_name(kernel, monkeypatch):
    raw = tiny_model(ON_METAL[kernel])
    monkeypatch.setattr(_differentiable, "_runs_metal", lambda: True)
    what, remedy = WITHOUT_GRADIENT[kernel]
    with pytest.raises(ArchitectureError) as refused, differentiable(raw):
        pass
    assert what in str(refused.value)
    assert str(refused.value).endswith(remedy)


def test_other_models_are_not_refused_on_metal(monkeypatch):
    monkeypatch.setattr(_differentiable, "_runs_metal", lambda: True)
    for name in ("llama", "qwen3_next", "kimi_k3", "mixtral", "mamba2"):
        with differentiable(tiny_model(name)):
            pass


def test_other_errors_come_through_as_they_are():
    with pytest.raises(ValueError, match=r"^mine$"), differentiable(tiny_model("llama")):
        raise ValueError("mine")
