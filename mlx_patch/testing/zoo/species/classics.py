"""The nine families of the first release."""

from typing import Any

from mlx_patch.testing.zoo.species._common import LLAMA, SLIDING, VOCAB, Species

_NEOX: dict[str, Any] = {
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "layer_norm_eps": 1e-5,
    "vocab_size": VOCAB,
    "rotary_emb_base": 10000,
    "rotary_pct": 0.5,
    "max_position_embeddings": 128,
}

SPECIES: Species = {
    "llama": ("llama", {**LLAMA, "head_dim": 32}),
    "llama-sliding": ("llama", {**LLAMA, "layer_types": SLIDING, "sliding_window": 4}),
    "llama-biased": ("llama", {**LLAMA, "attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True}),
    "qwen2": ("qwen2", LLAMA),
    "qwen3": ("qwen3", {**LLAMA, "head_dim": 32}),
    "gemma2": (
        "gemma2",
        {**LLAMA, "head_dim": 32, "query_pre_attn_scalar": 32, "attn_logit_softcapping": 5.0},
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
            "vocab_size": VOCAB,
        },
    ),
    "gpt_neox-parallel": ("gpt_neox", {**_NEOX, "use_parallel_residual": True}),
    "gpt_neox-sequential": ("gpt_neox", {**_NEOX, "use_parallel_residual": False}),
    "phi3": ("phi3", {**LLAMA, "partial_rotary_factor": 0.5}),
    "mixtral": ("mixtral", {**LLAMA, "num_local_experts": 4, "num_experts_per_tok": 2}),
    "granite": (
        "granite",
        {
            **LLAMA,
            "logits_scaling": 2.0,
            "attention_multiplier": 0.2,
            "embedding_multiplier": 3.0,
            "residual_multiplier": 0.3,
            "attention_bias": False,
            "mlp_bias": False,
        },
    ),
}
