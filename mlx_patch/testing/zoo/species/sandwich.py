"""Norms on both sides, parallel blocks, several streams, and text towers inside vision models."""

from typing import Any

from mlx_patch.testing.zoo.species import dense, latent
from mlx_patch.testing.zoo.species._common import LLAMA, SLIDING, VOCAB, Species

_GEMMA3: dict[str, Any] = {
    **LLAMA,
    "head_dim": 32,
    "query_pre_attn_scalar": 32,
    "sliding_window": 4,
    "sliding_window_pattern": 2,
}
_EXAONE4: dict[str, Any] = {**LLAMA, "head_dim": 32, "rope_scaling": None, "sliding_window": 4}
_COHERE: dict[str, Any] = {**LLAMA, "logit_scale": 0.5, "layer_norm_bias": True}
_STABLELM: dict[str, Any] = {**LLAMA, "partial_rotary_factor": 0.5, "layer_norm_eps": 1e-5, "use_qkv_bias": True}
_GEMMA4: dict[str, Any] = {
    **LLAMA,
    "head_dim": 32,
    "global_head_dim": 64,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
    "num_hidden_layers": 4,
    "sliding_window": 4,
}
_GEMMA4_SHARED: dict[str, Any] = {
    **_GEMMA4,
    "vocab_size_per_layer_input": VOCAB,
    "hidden_size_per_layer_input": 32,
    "num_kv_shared_layers": 2,
}
_GEMMA4_EXPERTS: dict[str, Any] = {
    **_GEMMA4,
    "hidden_size_per_layer_input": 0,
    "num_kv_shared_layers": 0,
    "attention_k_eq_v": True,
    "num_global_key_value_heads": 1,
    "enable_moe_block": True,
    "num_experts": 4,
    "top_k_experts": 2,
    "moe_intermediate_size": 32,
}
_GEMMA3N: dict[str, Any] = {
    **LLAMA,
    "model_type": "gemma3n_text",
    "num_hidden_layers": 4,
    "head_dim": 32,
    "num_kv_shared_layers": 2,
    "vocab_size_per_layer_input": VOCAB,
    "hidden_size_per_layer_input": 32,
    "sliding_window": 4,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
    "rope_local_base_freq": 10000.0,
    "final_logit_softcapping": 30.0,
    "activation_sparsity_pattern": [0.5, 0.0, 0.0, 0.0],
    "altup_num_inputs": 4,
    "altup_coef_clip": 120.0,
    "altup_correct_scale": True,
    "altup_active_idx": 0,
    "laurel_rank": 32,
}
_MUSE_SPARK: dict[str, Any] = {
    **LLAMA,
    "head_dim": 32,
    "post_norm_eps": 1e-5,
    "rope_parameters": {"rope_theta": 10000.0},
    "layer_rope_theta": [10000.0, 0.0, 10000.0],
    "layer_types": SLIDING,
    "sliding_window": 4,
    "final_logit_softcapping": 20.0,
    "output_multiplier": 0.5,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "moe_hidden_size": 32,
    "moe_intermediate_size": 64,
    "qk_scale_factor": 2.0,
}
# The unembedding writes to rows for special tokens, up to 100351, so the vocabulary must be that large.
_PHI3SMALL: dict[str, Any] = {
    **LLAMA,
    "num_hidden_layers": 2,
    "dense_attention_every_n_layers": 2,
    "ff_intermediate_size": 96,
    "gegelu_limit": 20.0,
    "layer_norm_epsilon": 1e-5,
    "vocab_size": 100352,
    "blocksparse_block_size": 32,
    "mup_attn_multiplier": 4.0,
    "mup_embedding_multiplier": 1.0,
}

_MINISTRAL3: dict[str, Any] = {"model_type": "ministral3", **dense.SPECIES["ministral3"][1]}
_MISTRAL4: dict[str, Any] = {"model_type": "mistral4", **latent.SPECIES["mistral4"][1]}

SPECIES: Species = {
    "gemma3_text": ("gemma3_text", _GEMMA3),
    "muse_glimmer": (
        "muse_glimmer",
        {**LLAMA, "head_dim": 32, "layer_types": SLIDING, "sliding_window": 4, "output_multiplier": 0.5},
    ),
    "gemma4_text": ("gemma4_text", _GEMMA4_SHARED),
    "gemma4_text-experts": ("gemma4_text", _GEMMA4_EXPERTS),
    "gemma3n": ("gemma3n", {"text_config": _GEMMA3N}),
    "muse_spark": ("muse_spark", {"text_config": _MUSE_SPARK}),
    "glm4": ("glm4", {**LLAMA, "head_dim": 32, "attention_bias": True, "partial_rotary_factor": 0.5}),
    "olmo2": ("olmo2", LLAMA),
    "olmo3": ("olmo3", {**LLAMA, "layer_types": SLIDING, "sliding_window": 4}),
    "exaone4": ("exaone4", {**_EXAONE4, "sliding_window_pattern": "LG"}),
    "exaone4-full": ("exaone4", {**_EXAONE4, "sliding_window_pattern": None}),
    "cohere": ("cohere", {**_COHERE, "use_qk_norm": True}),
    "cohere2": ("cohere2", {**_COHERE, "head_dim": 16, "sliding_window": 4, "sliding_window_pattern": 2}),
    "gptj": (
        "gptj",
        {"n_embd": 64, "vocab_size": VOCAB, "n_positions": 128, "n_head": 4, "rotary_dim": 8, "n_layer": 3},
    ),
    "phi": ("phi", {**LLAMA, "partial_rotary_factor": 0.5}),
    "plamo": ("plamo", {**LLAMA, "n_shared_head": 2}),
    "phi3small": ("phi3small", _PHI3SMALL),
    "stablelm-parallel": ("stablelm", {**_STABLELM, "use_parallel_residual": True}),
    "stablelm-sequential": ("stablelm", {**_STABLELM, "use_parallel_residual": False, "qk_layernorm": True}),
    "gemma3": ("gemma3", {"text_config": {"model_type": "gemma3_text", **_GEMMA3}, "vocab_size": VOCAB}),
    "gemma4": ("gemma4", {"text_config": {"model_type": "gemma4_text", **_GEMMA4_SHARED}, "vocab_size": VOCAB}),
    "pixtral": ("pixtral", {"text_config": {"model_type": "llama", **LLAMA}}),
    "mistral3-llama": ("mistral3", {"text_config": {"model_type": "llama", **LLAMA}}),
    "mistral3-ministral3": (
        "mistral3",
        {"text_config": {"model_type": "ministral3", **dense.SPECIES["ministral3"][1]}},
    ),
    "mistral3-mistral4": ("mistral3", {"text_config": _MISTRAL4}),
    "qwen2_vl": ("qwen2_vl", {"text_config": {"model_type": "qwen2", **LLAMA}}),
    "qwen3_vl": ("qwen3_vl", {"text_config": {"model_type": "qwen3", **LLAMA, "head_dim": 32}}),
}
