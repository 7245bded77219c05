"""State spaces, linear attention, convolutions, and their hybrids with attention."""

from typing import Any

from mlx_patch.testing.zoo.species._common import VOCAB, Species

_SMALL: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "max_position_embeddings": 128,
}
ATTENTION: dict[str, Any] = {**_SMALL, "num_attention_heads": 4, "num_key_value_heads": 2, "rms_norm_eps": 1e-5}

_MAMBA: dict[str, Any] = {
    **_SMALL,
    "intermediate_size": 96,
    "state_size": 16,
    "conv_kernel": 4,
    "use_bias": False,
    "use_conv_bias": True,
    "time_step_rank": 32,
}
_MAMBA2: dict[str, Any] = {
    **_SMALL,
    "num_heads": 4,
    "head_dim": 32,
    "intermediate_size": 128,
    "state_size": 16,
    "layer_norm_epsilon": 1e-5,
    "conv_kernel": 4,
    "n_groups": 2,
    "use_bias": False,
    "use_conv_bias": True,
    "tie_word_embeddings": True,
    "time_step_limit": (0.0, float("inf")),
    "time_step_rank": "auto",
}
_FALCON_H1: dict[str, Any] = {
    **ATTENTION,
    "intermediate_size": 96,
    "head_dim": 16,
    "rope_theta": 1e4,
    "embedding_multiplier": 2.0,
    "lm_head_multiplier": 1.0,
    "mamba_d_conv": 4,
    "mamba_d_head": 32,
    "mamba_d_ssm": 128,
    "mamba_d_state": 16,
    "mamba_n_groups": 2,
    "mamba_n_heads": 4,
}
_RECURRENT_GEMMA: dict[str, Any] = {
    **ATTENTION,
    "attention_bias": False,
    "conv1d_width": 4,
    "intermediate_size": 192,
    "logits_soft_cap": 30.0,
    "num_key_value_heads": 1,
    "rope_theta": 1e4,
    "attention_window_size": 4,
    "block_types": ["recurrent", "attention", "recurrent"],
}
_RWKV7: dict[str, Any] = {
    **_SMALL,
    "intermediate_size": 96,
    "norm_eps": 1e-5,
    "head_dim": 32,
    "a_low_rank_dim": 32,
    "v_low_rank_dim": 32,
    "gate_low_rank_dim": 32,
    "decay_low_rank_dim": 32,
}
LFM2: dict[str, Any] = {
    **ATTENTION,
    "norm_eps": 1e-5,
    "conv_bias": False,
    "conv_L_cache": 3,
    "block_dim": 64,
    "block_ff_dim": 96,
    "block_multiple_of": 32,
    "block_ffn_dim_multiplier": 1.0,
    "block_auto_adjust_ff_dim": False,
    "layer_types": ["conv", "full_attention", "conv"],
}
_DELTA: dict[str, Any] = {
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 32,
    "linear_value_head_dim": 32,
    "linear_conv_kernel_dim": 4,
}
QWEN3_5: dict[str, Any] = {
    **ATTENTION,
    **_DELTA,
    "intermediate_size": 96,
    "head_dim": 32,
    "full_attention_interval": 2,
}
_OLMO_HYBRID: dict[str, Any] = {
    **ATTENTION,
    **_DELTA,
    "intermediate_size": 96,
    "linear_allow_neg_eigval": True,
    "tie_word_embeddings": False,
    "attention_bias": False,
    "layer_types": ["linear_attention", "full_attention", "linear_attention"],
}
_PLAMO2: dict[str, Any] = {
    **ATTENTION,
    "hidden_size_per_head": 32,
    "mamba_d_state": 32,
    "mamba_num_heads": 2,
    "mamba_step": 2,
    "intermediate_size": 96,
}
_PLAMO3: dict[str, Any] = {
    **ATTENTION,
    "head_dim": 32,
    # Shorter than the prompts, and as long as mlx_lm's mask, which is one longer than its cache, agrees with that.
    "window_size": 6,
    "sliding_window_pattern": 2,
    "intermediate_size": 96,
}
_GEAR: dict[str, Any] = {
    **ATTENTION,
    "intermediate_size": 96,
    "head_dim": 32,
    "num_hidden_layers": 3,
    "layer_types": ["conv_mixer", "sliding_attention", "full_attention"],
    "sliding_window": 4,
}
_PACKED: dict[str, Any] = {
    "tensor_namespace": "mlx-vlm-qwen3_5",
    "quantization": {"bits": 2, "group_size": 128, "mode": "affine"},
    "modules": [
        {"path": path, "embedding": path.endswith("embed_tokens"), "dtype": "float16", "block": block}
        for path, block in [
            ("model.embed_tokens", 0),
            *((f"model.layers.{layer}.mlp.down_proj", 512) for layer in range(3)),
            *((f"model.layers.{layer}.linear_attn.out_proj", 0) for layer in (0, 2)),
        ]
    ],
}

SPECIES: Species = {
    "mamba": ("mamba", _MAMBA),
    "mamba-falcon": (
        "mamba",
        {**_MAMBA, "model_type": "falcon_mamba", "use_bias": True, "tie_word_embeddings": False},
    ),
    "mamba2": ("mamba2", _MAMBA2),
    "falcon_h1": ("falcon_h1", _FALCON_H1),
    "falcon_h1-norm": (
        "falcon_h1",
        {**_FALCON_H1, "num_hidden_layers": 2, "mamba_rms_norm": True, "tie_word_embeddings": False},
    ),
    "recurrent_gemma": ("recurrent_gemma", _RECURRENT_GEMMA),
    "rwkv7": ("rwkv7", _RWKV7),
    "lfm2": ("lfm2", LFM2),
    "lfm2-vl": ("lfm2-vl", {"text_config": {"model_type": "lfm2", **LFM2}}),
    "qwen3_5": ("qwen3_5", {"text_config": QWEN3_5}),
    "prism_hadamard_qwen35": (
        "prism_hadamard_qwen35",
        {**_PACKED, "text_config": {**QWEN3_5, "hidden_size": 128, "intermediate_size": 512}},
    ),
    "olmo_hybrid": ("olmo_hybrid", _OLMO_HYBRID),
    "olmo_hybrid-nope": ("olmo_hybrid", {**_OLMO_HYBRID, "rope_theta": None}),
    "plamo2": ("plamo2", _PLAMO2),
    "plamo3": ("plamo3", _PLAMO3),
    "gear": ("gear", _GEAR),
    "gear-capped": ("gear", {**_GEAR, "attn_logit_softcapping": 5.0, "final_logit_softcapping": 20.0}),
}
