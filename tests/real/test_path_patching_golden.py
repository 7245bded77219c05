"""Path patching on SmolLM2's weights gives what an independent brute force gives, with MLPs frozen and recomputed."""

from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

import mlx_patch as mp
from mlx_patch.testing import smollm2_folder

GOLDEN = Path(__file__).parents[1] / "golden" / "path_patching_smollm2.npz"
FREEZES = {"mlps_frozen": "all", "mlps_recomputed": "attention"}
HEADS_PER_KEY = 3
LAYERS = range(1, 30, 4)


@pytest.fixture(scope="module")
def golden():
    return np.load(GOLDEN)


@pytest.fixture(scope="module")
def sweep(golden):
    """`sweep(**choices)` of paths from the corrupted prompts' z into the clean prompts."""
    model = exact_smollm2()
    host, source = (mx.array(golden[f"tokens_{name}"]) for name in ("clean", "corrupted"))
    metric = mp.metrics.LogitDiff(golden["right"].tolist(), golden["wrong"].tolist())
    patch = mp.Replace(model.run_with_cache(source, sites="z", logits_at=-1)[1])

    def sweep(**choices):
        if isinstance(choices["over"], list):
            return mp.sweep(model, host, patch, metric=metric, **choices)
        return mp.sweep(model, host, patch, at="z", metric=metric, **choices)

    return sweep


def exact_smollm2():
    """SmolLM2 with each weight dequantised in float16, as the file's scales are, which is what the arrays are of."""
    model = mp.HookedModel.load(smollm2_folder("float32"))
    packed = mx.load(str(smollm2_folder("4bit") / "model.safetensors"))
    weights = []
    for name, scales in packed.items():
        if name.endswith(".scales"):
            module = name.removesuffix(".scales")
            bits = 8 if "embed" in module else 4
            half = [array.astype(mx.float16) for array in (scales, packed[f"{module}.biases"])]
            plain = mx.dequantize(packed[f"{module}.weight"], *half, group_size=32, bits=bits)
            weights.append((f"{module}.weight", plain.astype(mx.float32)))
    model.model.load_weights(weights, strict=False)
    return model


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.parametrize("mlps", FREEZES)
def test_direct_effects_of_heads_are_those_of_brute_force(mlps, golden, sweep):
    for sender_pos, positions in (("all", None), ("last", [-1])):
        over, logits = ("layer", "head"), mp.Receiver("logits")
        result = sweep(over=over, via=logits, layers=LAYERS, positions=positions, freeze=FREEZES[mlps])
        expected = golden[f"to_final_resid__{mlps}__sender_pos_{sender_pos}__noising"][list(LAYERS)]
        effects = result.values - result.baseline
        np.testing.assert_allclose(effects, expected - golden["metric_clean"], atol=1e-4)


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.parametrize("mlps", FREEZES)
@pytest.mark.parametrize("name", ["q", "k", "v"])
def test_paths_into_a_head_are_those_of_brute_force(name, mlps, golden, sweep):
    cells = []
    queries_per_head = 1 if name == "q" else HEADS_PER_KEY
    for layer, head, receiver_layer, receiver_head in golden["pairs"].tolist():
        receiver = mp.Receiver(name, layer=receiver_layer, head=receiver_head // queries_per_head)
        cells.append({"site": "z", "layer": layer, "head": head, "via": receiver})
    result = sweep(over=cells, freeze=FREEZES[mlps])
    effects = result.values - result.baseline
    np.testing.assert_allclose(effects, golden[f"to_{name}__{mlps}__noising"] - golden["metric_clean"], atol=1e-4)
