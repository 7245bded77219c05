"""Mixtures of experts."""

from typing import Any

from mlx_patch.testing.zoo.species._common import LLAMA, SLIDING, VOCAB, Species

_FOUR: dict[str, Any] = {"num_experts": 4, "num_experts_per_tok": 2}
_FOUR_LOCAL: dict[str, Any] = {"num_local_experts": 4, "num_experts_per_tok": 2}
_GRANITE: dict[str, Any] = {
    "logits_scaling": 2.0,
    "attention_multiplier": 0.2,
    "embedding_multiplier": 3.0,
    "residual_multiplier": 0.3,
    "attention_bias": False,
}
_QWEN3: dict[str, Any] = {
    **LLAMA,
    "head_dim": 32,
    "num_experts": 6,
    "num_experts_per_tok": 3,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [1],
    "moe_intermediate_size": 32,
    "norm_topk_prob": True,
}
_HUNYUAN: dict[str, Any] = {
    **LLAMA,
    "num_hidden_layers": 4,
    "attention_bias": False,
    "moe_topk": 2,
    "num_experts": 4,
    "num_shared_expert": 1,
    "use_mixed_mlp_moe": True,
    "use_qk_norm": True,
    "use_cla": True,
    "cla_share_factor": 2,
    "moe_intermediate_size": 32,
    "rope_scaling": {"type": "dynamic", "factor": 1.0, "alpha": 2.0},
}

SPECIES: Species = {
    "Klear": (
        "Klear",
        {
            **LLAMA,
            "attention_bias": False,
            "mlp_only_layers": [0],
            **_FOUR,
            "decoder_sparse_step": 1,
            "n_shared_experts": 1,
            "moe_intermediate_size": 32,
            "norm_topk_prob": True,
        },
    ),
    "dbrx": (
        "dbrx",
        {
            "vocab_size": VOCAB,
            "d_model": 64,
            "n_layers": 2,
            "n_heads": 4,
            "ffn_config": {"ffn_hidden_size": 64, "moe_num_experts": 6, "moe_top_k": 3},
            "attn_config": {"kv_n_heads": 2, "clip_qkv": 1.0, "rope_theta": 10000.0},
        },
    ),
    "ernie4_5_moe": (
        "ernie4_5_moe",
        {
            **LLAMA,
            "use_bias": False,
            "moe_num_experts": 4,
            "moe_k": 2,
            "moe_layer_start_index": 1,
            "moe_intermediate_size": 32,
            "moe_num_shared_experts": 1,
        },
    ),
    "gpt_oss": (
        "gpt_oss",
        {
            **LLAMA,
            "num_hidden_layers": 2,
            **_FOUR_LOCAL,
            "head_dim": 32,
            "sliding_window": 4,
            "layer_types": SLIDING[:2],
        },
    ),
    "granitemoe": (
        "granitemoe",
        {**LLAMA, **_GRANITE, **_FOUR_LOCAL},
    ),
    "hunyuan": ("hunyuan", _HUNYUAN),
    "hunyuan-dense": ("hunyuan", {**_HUNYUAN, "num_experts": 1, "use_mixed_mlp_moe": False}),
    "llama4": (
        "llama4",
        {
            "text_config": {
                **LLAMA,
                "model_type": "llama4_text",
                "num_hidden_layers": 4,
                "attention_bias": False,
                "attention_chunk_size": 4,
                "head_dim": 32,
                "interleave_moe_layer_step": 2,
                "intermediate_size": 32,
                "intermediate_size_mlp": 96,
                "num_experts_per_tok": 1,
                "num_local_experts": 4,
                "rope_scaling": None,
                "use_qk_norm": True,
                "floor_scale": 2,
            }
        },
    ),
    "mellum": (
        "mellum",
        {
            **LLAMA,
            "head_dim": 32,
            **_FOUR,
            "moe_intermediate_size": 32,
            "norm_topk_prob": True,
            "sliding_window": 4,
            "layer_types": SLIDING,
            "rope_parameters": {
                "full_attention": {"rope_theta": 10000.0},
                "sliding_attention": {"rope_theta": 1000.0},
            },
        },
    ),
    "minimax": (
        "minimax",
        {
            **LLAMA,
            **_FOUR_LOCAL,
            "shared_intermediate_size": 0,
            "rotary_dim": 8,
        },
    ),
    "minimax_m3_vl": (
        "minimax_m3_vl",
        {
            "text_config": {
                **LLAMA,
                "dense_intermediate_size": 96,
                "intermediate_size": 32,
                "shared_intermediate_size": 32,
                **_FOUR_LOCAL,
                "head_dim": 32,
                "moe_layer_freq": [0, 1, 1],
                "index_n_heads": 2,
                "index_head_dim": 32,
                "index_block_size": 2,
                "index_topk_blocks": 2,
                "sparse_attention_freq": [0, 1, 1],
            }
        },
    ),
    "olmoe": (
        "olmoe",
        {**LLAMA, **_FOUR, "norm_topk_prob": True},
    ),
    "phimoe": (
        "phimoe",
        {
            **LLAMA,
            "original_max_position_embeddings": 128,
            "rope_scaling": {
                "short_factor": [1.0] * 8,
                "long_factor": [2.0] * 8,
                "short_mscale": 1.0,
                "long_mscale": 1.0,
            },
            **_FOUR_LOCAL,
            "router_jitter_noise": 0.4,
        },
    ),
    "phixtral": (
        "phixtral",
        {
            "num_vocab": VOCAB,
            "model_dim": 64,
            "num_heads": 4,
            "num_layers": 2,
            "rotary_dim": 8,
            "num_experts_per_tok": 2,
            "num_local_experts": 4,
        },
    ),
    "qwen2_moe": (
        "qwen2_moe",
        {
            **LLAMA,
            **_FOUR,
            "moe_intermediate_size": 32,
            "shared_expert_intermediate_size": 32,
        },
    ),
    "qwen3_moe": ("qwen3_moe", _QWEN3),
    "qwen3_vl_moe": ("qwen3_vl_moe", {"text_config": {"model_type": "qwen3_moe", **_QWEN3}}),
    "step3p5": (
        "step3p5",
        {
            **LLAMA,
            "num_attention_groups": 2,
            "head_dim": 32,
            "sliding_window": 4,
            "layer_types": SLIDING,
            "attention_other_setting": {"num_attention_heads": 6, "num_attention_groups": 2},
            "moe_num_experts": 4,
            "moe_top_k": 2,
            "moe_intermediate_size": 32,
            "share_expert_dim": 32,
            "swiglu_limits": [0.0, 1.0, 0.0],
        },
    ),
}
