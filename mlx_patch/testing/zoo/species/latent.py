"""Latent attention, and what shares its parts."""

from typing import Any

from mlx_patch.testing.zoo.species._common import LLAMA, VOCAB, Species

_SIZES: dict[str, Any] = {
    **LLAMA,
    "num_key_value_heads": 4,
    "num_hidden_layers": 2,
    "q_lora_rank": 32,
    "kv_lora_rank": 32,
    "qk_nope_head_dim": 32,
    "qk_rope_head_dim": 16,
    "v_head_dim": 64,
}
_SU: dict[str, Any] = {
    "type": "longrope",
    "original_max_position_embeddings": 64,
    "short_factor": [1.0] * 8,
    "long_factor": [2.0] * 8,
}
_MOE: dict[str, Any] = {
    **_SIZES,
    "moe_intermediate_size": 32,
    "n_shared_experts": 1,
    "n_routed_experts": 8,
    "num_experts_per_tok": 3,
    "first_k_dense_replace": 1,
}
_YARN: dict[str, Any] = {
    "type": "yarn",
    "factor": 2.0,
    "original_max_position_embeddings": 64,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
}
_GROUPED: dict[str, Any] = {**_MOE, "n_group": 4, "topk_group": 2, "routed_scaling_factor": 1.5}
_DSA: dict[str, Any] = {"index_head_dim": 32, "index_n_heads": 2, "index_topk": 4}
_SCALED: dict[str, Any] = {**_YARN, "rope_theta": 10000.0, "llama_4_scaling_beta": 0.1}
_LONGCAT: dict[str, Any] = {
    **_SIZES,
    "attention_method": "MLA",
    "zero_expert_type": "identity",
    "ffn_hidden_size": 96,
    "moe_topk": 3,
    "expert_ffn_hidden_size": 32,
    "n_routed_experts": 6,
    "zero_expert_num": 2,
    "num_layers": 2,
    "routed_scaling_factor": 1.5,
    "mla_scale_q_lora": True,
    "mla_scale_kv_lora": True,
    "attention_bias": False,
}
_NGRAMS: dict[str, Any] = {"hidden_size": 192, "ngram_vocab_size_ratio": 2, "emb_neighbor_num": 3, "emb_split_num": 3}
_V41: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "head_dim": 32,
    "q_lora_rank": 32,
    "qk_rope_head_dim": 16,
    "o_groups": 2,
    "o_lora_rank": 32,
    "moe_intermediate_size": 32,
    "n_routed_experts": 8,
    "num_experts_per_tok": 3,
    "sliding_window": 4,
    "compress_ratios": (0, 2, 2, 2),
    "kv_source_layer_ids": (1,),
    "index_source_layer_ids": (1, 2),
    "candidate_source_layer_id": 1,
    "candidate_topk_blocks": 1,
    "candidate_block_size": 2,
    "index_n_heads": 2,
    "index_head_dim": 32,
    "index_topk": 2,
    "hc_mult": 2,
}

SPECIES: Species = {
    "deepseek_v41": ("deepseek_v41", _V41),
    "longcat_flash": ("longcat_flash", _LONGCAT),
    "longcat_flash_ngram": ("longcat_flash_ngram", {**_LONGCAT, **_NGRAMS}),
    "iquestloopcoder": (
        "iquestloopcoder",
        {**LLAMA, "num_hidden_layers": 2, "head_dim": 32, "loop_window_size": 4},
    ),
    "deepseek": ("deepseek", {**_MOE, "num_key_value_heads": 2}),
    "deepseek_v2": (
        "deepseek_v2",
        {**_GROUPED, "topk_method": "group_limited_greedy", "rope_scaling": _YARN},
    ),
    "deepseek_v3": ("deepseek_v3", {**_GROUPED, "rope_scaling": _YARN}),
    "deepseek_v32": ("deepseek_v32", {**_GROUPED, **_DSA}),
    "glm_moe_dsa": (
        "glm_moe_dsa",
        {
            **_GROUPED,
            **_DSA,
            "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"},
            "topk_method": "noaux_tc",
            "scoring_func": "sigmoid",
            "norm_topk_prob": True,
            "moe_layer_freq": 1,
            "attention_bias": False,
        },
    ),
    "glm4_moe_lite": ("glm4_moe_lite", _GROUPED),
    "kimi_k25": ("kimi_k25", {"text_config": _MOE}),
    "kimi_vl": ("kimi_vl", {"text_config": _MOE}),
    "bailing_moe_v3": (
        "bailing_moe_v3",
        {
            **_GROUPED,
            "num_hidden_layers": 4,
            "layer_group_size": 2,
            "moe_shared_expert_intermediate_size": 32,
            "num_experts": 8,
            "num_shared_experts": 1,
            "head_dim": 32,
        },
    ),
    "mistral4": (
        "mistral4",
        {**_GROUPED, "norm_topk_prob": True, "rope_parameters": {**_SCALED, "original_max_position_embeddings": 4}},
    ),
    "youtu_llm": ("youtu_llm", _SIZES),
    "youtu_llm-plain": ("youtu_llm", {**_SIZES, "q_lora_rank": None, "tie_word_embeddings": True}),
    "minicpm3": (
        "minicpm3",
        {**_SIZES, "dim_model_base": 32, "scale_depth": 1.4, "scale_emb": 3.0, "rope_scaling": _SU},
    ),
}
