"""The models of random sweeps, and how often each is drawn."""

from collections.abc import Mapping, Sequence
from functools import cache

import numpy as np

from mlx_patch.laws import ErrorScale
from mlx_patch.model import HookedModel
from mlx_patch.testing.zoo import EXCEPTIONS, ZOO, Precision, tiny_model

_OFTEN: Mapping[str, int] = {
    **dict.fromkeys(("llama", "llama-sliding", "gemma3_text", "gpt_oss", "gemma2"), 8),  # plain, windows, soft-caps
    **dict.fromkeys(("gpt_neox-parallel", "cohere2", "gptj", "phi"), 3),  # blocks in parallel
    **dict.fromkeys(("gemma4_text", "gemma3n", "hunyuan-dense"), 4),  # keys that layers share
    **dict.fromkeys(("mixtral", "qwen3_moe", "gpt_oss", "afmoe"), 3),  # experts
    **dict.fromkeys(("mamba2", "rwkv7", "recurrent_gemma", "qwen3_5", "lfm2", "jamba", "falcon_h1"), 2),  # states
    **dict.fromkeys(("longcat_flash", "iquestloopcoder", "nanbeige", "talkie", "muse_spark", "kimi_k3"), 3),
    **dict.fromkeys(("plamo3", "llama4", "baichuan_m1", "gear", "step3p5", "exaone4"), 2),  # more windows
}
"""How often a model is drawn, where that is not once."""

_NAMES = tuple(name for name in ZOO if name not in EXCEPTIONS)
_WEIGHTS = np.array([_OFTEN.get(name, 1) for name in _NAMES], float)

_HALVES = ("llama", "llama-sliding", "gemma2", "gpt_neox-parallel", "qwen3", "gemma3_text", "phi3", "granite", "mamba2")
"""Models that are also drawn in half types; MLX's CPU backend multiplies experts in float32 alone."""


def draw_model(rng: np.random.Generator, names: Sequence[str] | None) -> tuple[str, Precision]:
    """A model of the zoo, or one of some, and the precision of its weights."""
    if names is None:
        name = str(rng.choice(_NAMES, p=_WEIGHTS / _WEIGHTS.sum()))
    else:
        name = str(rng.choice(names))
    if name in _HALVES and rng.random() < 0.2:
        if rng.random() < 0.6:
            return name, "bfloat16"
        return name, "float16"
    if rng.random() < 0.05:
        return name, "4bit"
    return name, "float32"


@cache
def model_of(name: str, precision: Precision) -> HookedModel:
    """A wrapped model of the zoo; the same one each time."""
    return HookedModel(tiny_model(name, precision))


def rounding_of(model: HookedModel) -> float:
    """The rounding of a number near 1, in the coarsest type that the model computes in."""
    return ErrorScale(model.model, model.layout.family.rounds).rounding
