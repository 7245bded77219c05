"""The zoo: a tiny model of every architecture that has a table, of mlx_lm's own classes, with seeded random weights.

Small enough to run in milliseconds, and not degenerate: norms near 1, weights large enough that attention is not
uniform and signals neither vanish nor explode, every kind of layer of a family present.
"""

from collections.abc import Mapping
from importlib import import_module
from typing import Any, Literal

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_map_with_path

from mlx_patch.errors import UnknownNameError, did_you_mean

Precision = Literal["float32", "bfloat16", "float16", "4bit"]

_VOCAB = 96
_LLAMA: dict[str, Any] = {
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-5,
    "vocab_size": _VOCAB,
    "max_position_embeddings": 128,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
}
_NEOX: dict[str, Any] = {
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "layer_norm_eps": 1e-5,
    "vocab_size": _VOCAB,
    "rotary_emb_base": 10000,
    "rotary_pct": 0.5,
    "max_position_embeddings": 128,
}
_SLIDING = ["sliding_attention", "full_attention", "sliding_attention"]

ZOO: Mapping[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {**_LLAMA, "head_dim": 32}),
    "llama-sliding": ("llama", {**_LLAMA, "layer_types": _SLIDING, "sliding_window": 4}),
    "llama-biased": ("llama", {**_LLAMA, "attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True}),
    "qwen2": ("qwen2", _LLAMA),
    "qwen3": ("qwen3", {**_LLAMA, "head_dim": 32}),
    "gemma2": (
        "gemma2",
        {**_LLAMA, "head_dim": 32, "query_pre_attn_scalar": 32.0, "attn_logit_softcapping": 5.0},
    ),
    "gpt2": (
        "gpt2",
        {
            "n_ctx": 128,
            "n_positions": 128,
            "n_embd": 64,
            "n_layer": 3,
            "n_head": 4,
            "layer_norm_epsilon": 1e-5,
            "vocab_size": _VOCAB,
        },
    ),
    "gpt_neox-parallel": ("gpt_neox", {**_NEOX, "use_parallel_residual": True}),
    "gpt_neox-sequential": ("gpt_neox", {**_NEOX, "use_parallel_residual": False}),
    "phi3": ("phi3", {**_LLAMA, "partial_rotary_factor": 0.5}),
    "mixtral": ("mixtral", {**_LLAMA, "num_local_experts": 4, "num_experts_per_tok": 2}),
    "granite": (
        "granite",
        {
            **_LLAMA,
            "logits_scaling": 2.0,
            "attention_multiplier": 0.2,
            "embedding_multiplier": 3.0,
            "residual_multiplier": 0.3,
            "attention_bias": False,
            "mlp_bias": False,
        },
    ),
}
"""Tiny configurations by name: mlx_lm's module, and the arguments of its `ModelArgs`."""


def tiny_model(name: str, precision: Precision = "float32", seed: int = 0) -> nn.Module:
    """A tiny model of the zoo.

    Args:
        name: A key of `ZOO`.
        precision: The dtype of its weights; "4bit" is affine, in groups of 32, on float32 activations.
        seed: For the weights.
    Raises:
        UnknownNameError: There is no such model.
    """
    if name not in ZOO:
        raise UnknownNameError(f"`name` must be a model of the zoo. Got {name!r}. {did_you_mean(name, ZOO)}")
    module_name, config = ZOO[name]
    module = import_module(f"mlx_lm.models.{module_name}")
    model = module.Model(module.ModelArgs.from_dict({"model_type": module_name, **config}))
    model.update(_weights(model, seed))
    if precision == "4bit":
        nn.quantize(model, group_size=32, bits=4)
    else:
        model.set_dtype(getattr(mx, precision))
    model.eval()
    mx.eval(model.parameters())
    return model


def _weights(model: nn.Module, seed: int) -> Any:
    keys = iter(mx.random.split(mx.random.key(seed), 4096))

    def drawn(path: str, array: mx.array) -> mx.array:
        noise = mx.random.normal(array.shape, key=next(keys))
        if path.endswith("bias"):
            return 0.2 * noise
        if array.ndim == 1:
            return array + 0.1 * noise
        return noise * (1.5 / array.shape[-1] ** 0.5) if "embed" not in path and "wte" not in path else noise

    return tree_map_with_path(drawn, model.parameters())
