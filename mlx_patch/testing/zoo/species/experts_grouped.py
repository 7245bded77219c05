"""Mixtures of experts that are chosen by groups."""

from typing import Any

from mlx_patch.testing.zoo.species._common import LLAMA, SLIDING, Species

_DENSE_FIRST: dict[str, Any] = {**LLAMA, "first_k_dense_replace": 1, "moe_intermediate_size": 32, "head_dim": 32}
_GROUPS: dict[str, Any] = {
    **_DENSE_FIRST,
    "n_routed_experts": 8,
    "n_shared_experts": 1,
    "num_experts_per_tok": 3,
    "n_group": 4,
    "topk_group": 2,
    "norm_topk_prob": True,
    "routed_scaling_factor": 1.5,
}

SPECIES: Species = {
    "afmoe": (
        "afmoe",
        {
            **LLAMA,
            "layer_types": SLIDING,
            "sliding_window": 4,
            "head_dim": 32,
            "moe_intermediate_size": 32,
            "num_experts": 8,
            "num_experts_per_tok": 2,
            "num_dense_layers": 1,
            "n_group": 4,
            "topk_group": 2,
        },
    ),
    "bailing_moe": (
        "bailing_moe",
        {
            **_DENSE_FIRST,
            "num_experts": 4,
            "num_shared_experts": 1,
            "norm_topk_prob": True,
            "num_experts_per_tok": 2,
            "routed_scaling_factor": 1.5,
        },
    ),
    "bailing_moe-grouped": (
        "bailing_moe",
        {
            **_DENSE_FIRST,
            "num_experts": 8,
            "num_shared_experts": 1,
            "norm_topk_prob": True,
            "num_experts_per_tok": 2,
            "score_function": "sigmoid",
            "n_group": 4,
            "topk_group": 2,
            "use_qk_norm": True,
            "moe_router_enable_expert_bias": True,
        },
    ),
    "dots1": ("dots1", _GROUPS),
    "exaone_moe": (
        "exaone_moe",
        {
            **_GROUPS,
            "num_experts": 8,
            "num_shared_experts": 1,
            "layer_types": SLIDING,
            "sliding_window": 4,
            "is_moe_layer": [False, True, True],
        },
    ),
    "glm4_moe": (
        "glm4_moe",
        {**_GROUPS, "rope_scaling": None, "use_qk_norm": True, "attention_bias": True, "partial_rotary_factor": 0.5},
    ),
    "mimo_v2_flash": (
        "mimo_v2_flash",
        {
            **_GROUPS,
            "hybrid_layer_pattern": [0, 1, 1],
            "moe_layer_freq": [0, 1, 1],
            "add_swa_attention_sink_bias": True,
            "add_full_attention_sink_bias": False,
            "sliding_window_size": 4,
            "topk_method": "noaux_tc",
            "scoring_func": "sigmoid",
            "layernorm_epsilon": 1e-5,
            "swa_rope_theta": 1000.0,
            "swa_num_attention_heads": 4,
            "swa_num_key_value_heads": 4,
            "v_head_dim": 16,
            "swa_head_dim": 32,
            "swa_v_head_dim": 16,
            "partial_rotary_factor": 0.5,
            "attention_value_scale": 0.7,
        },
    ),
}
