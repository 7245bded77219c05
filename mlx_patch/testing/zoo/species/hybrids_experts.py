"""Hybrids of other mixers with attention, whose MLP is a mixture of experts in some layers or in all."""

from typing import Any

from mlx_patch.testing.zoo.species._common import Species
from mlx_patch.testing.zoo.species.hybrids import ATTENTION, LFM2, QWEN3_5

_JAMBA: dict[str, Any] = {
    **ATTENTION,
    "intermediate_size": 96,
    "attn_layer_offset": 1,
    "attn_layer_period": 4,
    "expert_layer_offset": 1,
    "expert_layer_period": 2,
    "mamba_d_conv": 4,
    "mamba_d_state": 16,
    "mamba_expand": 2,
    "mamba_dt_rank": 32,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "num_hidden_layers": 4,
}
_LFM2_MOE: dict[str, Any] = {
    **{name: value for name, value in LFM2.items() if not name.startswith("block_")},
    "intermediate_size": 96,
    "moe_intermediate_size": 32,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "norm_topk_prob": True,
    "use_expert_bias": True,
    "num_dense_layers": 1,
    "routed_scaling_factor": 1.5,
}
_QWEN_EXPERTS: dict[str, Any] = {
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "decoder_sparse_step": 1,
    "shared_expert_intermediate_size": 32,
    "moe_intermediate_size": 32,
    "norm_topk_prob": True,
}
_QWEN3_NEXT: dict[str, Any] = {
    **QWEN3_5,
    **_QWEN_EXPERTS,
    "mlp_only_layers": [0],
    "rope_theta": 1e4,
    "partial_rotary_factor": 0.5,
}
_GRANITE: dict[str, Any] = {
    **ATTENTION,
    "intermediate_size": 96,
    "attention_bias": False,
    "embedding_multiplier": 3.0,
    "attention_multiplier": 0.2,
    "logits_scaling": 2.0,
    "residual_multiplier": 0.3,
    "layer_types": ["mamba", "attention", "mamba"],
    "mamba_n_heads": 4,
    "mamba_d_head": 32,
    "mamba_proj_bias": False,
    "mamba_d_state": 16,
    "mamba_d_conv": 4,
    "mamba_n_groups": 2,
    "mamba_conv_bias": True,
}
_NEMOTRON_H: dict[str, Any] = {
    **ATTENTION,
    "intermediate_size": 96,
    "attention_bias": False,
    "mamba_num_heads": 4,
    "mamba_head_dim": 32,
    "mamba_proj_bias": False,
    "ssm_state_size": 16,
    "conv_kernel": 4,
    "n_groups": 2,
    "mlp_bias": False,
    "layer_norm_epsilon": 1e-5,
    "use_bias": False,
    "use_conv_bias": True,
    "hybrid_override_pattern": ["M", "*", "E", "-"],
    "moe_intermediate_size": 64,
    "moe_shared_expert_intermediate_size": 64,
    "n_group": 2,
    "n_routed_experts": 8,
    "n_shared_experts": 1,
    "topk_group": 1,
    "num_experts_per_tok": 2,
    "norm_topk_prob": True,
    "routed_scaling_factor": 1.5,
}
_BAILING: dict[str, Any] = {
    **ATTENTION,
    "intermediate_size": 96,
    "moe_intermediate_size": 32,
    "num_experts": 8,
    "num_shared_experts": 1,
    "norm_topk_prob": True,
    "num_experts_per_tok": 2,
    "rope_theta": 1e4,
    "first_k_dense_replace": 1,
    "layer_group_size": 2,
    "group_norm_size": 2,
    "use_qk_norm": True,
    "moe_router_enable_expert_bias": True,
    "score_function": "sigmoid",
    "n_group": 2,
    "topk_group": 1,
    "routed_scaling_factor": 1.5,
}
_LATENT: dict[str, Any] = {"kv_lora_rank": 32, "qk_rope_head_dim": 16, "qk_nope_head_dim": 32, "v_head_dim": 32}
# Two layers: its linear attention goes by chunks, which a prompt in two parts reorders, and each layer adds to that.
_BAILING_HYBRID: dict[str, Any] = {
    **_BAILING,
    **_LATENT,
    "num_hidden_layers": 2,
    "group_norm_size": 4,
    "head_dim": 32,
    "q_lora_rank": 32,
    "qk_nope_head_dim": 64,
}
_KIMI_LINEAR: dict[str, Any] = {
    **ATTENTION,
    **_LATENT,
    "intermediate_size": 96,
    "head_dim": 32,
    "rope_theta": 1e4,
    "linear_attn_config": {"kda_layers": [1, 3], "num_heads": 2, "head_dim": 32, "short_conv_kernel_size": 4},
    "model_max_length": 128,
    "num_experts": 8,
    "num_experts_per_token": 2,
    "num_shared_experts": 1,
    "moe_intermediate_size": 32,
    "first_k_dense_replace": 1,
    "num_expert_group": 2,
    "topk_group": 1,
    "routed_scaling_factor": 1.5,
}
_KIMI_K3: dict[str, Any] = {
    **_KIMI_LINEAR,
    "num_hidden_layers": 4,
    "linear_attn_config": {
        "kda_layers": [1, 3],
        "num_heads": 2,
        "head_dim": 32,
        "short_conv_kernel_size": 4,
        "gate_lower_bound": -5.0,
    },
    "q_lora_rank": 32,
    "routed_expert_hidden_size": 32,
    "mla_use_nope": True,
}

SPECIES: Species = {
    "lfm2_moe": ("lfm2_moe", _LFM2_MOE),
    "qwen3_5_moe": ("qwen3_5_moe", {"text_config": {**QWEN3_5, **_QWEN_EXPERTS}}),
    "qwen3_next": ("qwen3_next", _QWEN3_NEXT),
    "jamba": ("jamba", _JAMBA),
    "granitemoehybrid": (
        "granitemoehybrid",
        {**_GRANITE, "num_local_experts": 4, "num_experts_per_tok": 2, "shared_intermediate_size": 32},
    ),
    "granitemoehybrid-dense": ("granitemoehybrid", {**_GRANITE, "position_embedding_type": "nope"}),
    "nemotron_h": ("nemotron_h", _NEMOTRON_H),
    "nemotron_h-latent": ("nemotron_h", {**_NEMOTRON_H, "moe_latent_size": 32, "n_group": 1}),
    "bailing_moe_linear": ("bailing_moe_linear", _BAILING),
    "bailing_hybrid": ("bailing_hybrid", _BAILING_HYBRID),
    "bailing_hybrid-plain": ("bailing_hybrid", {**_BAILING_HYBRID, "q_lora_rank": None}),
    "kimi_linear": ("kimi_linear", _KIMI_LINEAR),
    "kimi_k3": (
        "kimi_k3",
        {"text_config": {**_KIMI_K3, "attn_res_block_size": 2, "mla_use_output_gate": True}},
    ),
    "kimi_k3-plain": ("kimi_k3", {"text_config": {**_KIMI_K3, "q_lora_rank": None}}),
}
