"""SmolLM2 with the weights that the golden arrays are of."""

import mlx.core as mx

import mlx_patch as mp
from mlx_patch.testing import smollm2_folder


def with_half_scales() -> mp.HookedModel:
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
