"""The laws on models as people have them: quantised in each of mlx's ways, with LoRA adapters, and with these fused."""

import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx_lm.tuner.utils import linear_to_lora_layers

from mlx_patch import HookedModel
from mlx_patch.laws import independent
from mlx_patch.testing import ALL, check_laws, tiny_model

NAMES = ("llama", "gemma2", "gpt2", "gpt_neox-parallel", "phi3", "mixtral", "deepseek_v3", "qwen3_next", "mamba2")
WAYS = {
    "8-bit": {"group_size": 32, "bits": 8},
    "4-bit in groups of 64": {"group_size": 64, "bits": 4},
    "mxfp4": {"group_size": 32, "bits": 4, "mode": "mxfp4"},
    "nvfp4": {"group_size": 16, "bits": 4, "mode": "nvfp4"},
}


OF_ONE_ROW = tuple(law for law in ALL if law is not independent)
"""Law 10, of several rows, has nothing to do with how weights are stored."""


def fits(module: nn.Module, group_size: int) -> bool:
    return hasattr(module, "to_quantized") and module.weight.shape[-1] % group_size == 0


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", NAMES)
def test_the_laws_hold_of_every_way_to_quantise(name, way):
    model, how = tiny_model(name), WAYS[way]
    nn.quantize(model, **how, class_predicate=lambda path, module: fits(module, how["group_size"]))
    assert any(hasattr(module, "bits") for module in model.modules())
    report = check_laws(HookedModel(model), laws=OF_ONE_ROW)
    assert report.ok, report


def adapted(name: str, precision: str = "float32") -> nn.Module:
    """A tiny model with an adapter on every linear map that is not 0."""
    model = tiny_model(name, precision)
    mx.random.seed(0)
    linear_to_lora_layers(model, len(model.layers), {"rank": 4, "scale": 10.0, "dropout": 0.0})
    for module in model.modules():
        if "lora_b" in module:
            module.lora_b = 0.1 * mx.random.normal(module.lora_b.shape)
    return model


@pytest.mark.parametrize("precision", ["float32", "4bit"])
@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt2", "phi3", "mixtral", "qwen2"])
def test_the_laws_hold_with_an_adapter(name, precision):
    model = adapted(name, precision)
    assert any("lora_b" in module for module in model.modules())
    report = check_laws(HookedModel(model), laws=OF_ONE_ROW)
    assert report.ok, report


def test_the_laws_hold_of_a_model_with_its_adapter_fused():
    model = adapted("llama")
    for path, module in model.named_modules():
        if hasattr(module, "fuse"):
            *parents, last = path.split(".")
            holder = model
            for part in parents:
                holder = holder[int(part)] if part.isdecimal() else getattr(holder, part)
            setattr(holder, last, module.fuse())
    assert not any("lora_b" in module for module in model.modules())
    report = check_laws(HookedModel(model))
    assert report.ok, report
