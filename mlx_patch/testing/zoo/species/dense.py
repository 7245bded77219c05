"""Dense transformers with one block after the other."""

from typing import Any

from mlx_patch.testing.zoo.species._common import LLAMA, SLIDING, VOCAB, Species

_NO_BIAS: dict[str, Any] = {"attention_bias": False, "mlp_bias": False}
_BIAS: dict[str, Any] = {"attention_bias": True, "mlp_bias": True}
_GPT: dict[str, Any] = {"n_embd": 64, "n_layer": 3, "n_head": 4, "vocab_size": VOCAB}

SPECIES: Species = {
    "afm7": (
        "afm7",
        {
            "vocab_size": VOCAB,
            "hidden_dim": 64,
            "num_layers": 4,
            "num_kv_reuse_layers": 2,
            "num_heads": 4,
            "num_kv_heads": 2,
            "hidden_dim_scale_factor": 1.5,
        },
    ),
    "apertus": ("apertus", {**LLAMA, **_NO_BIAS, "post_norm": False, "qk_norm": True}),
    "baichuan_m1": (
        "baichuan_m1",
        {
            **LLAMA,
            "sliding_window": 4,
            "sliding_window_layers": [0, 2],
            "conv_window": 2,
            "num_swa_attention_heads": 2,
            "num_swa_key_value_heads": 1,
        },
    ),
    "bitnet": ("bitnet", LLAMA),
    "ernie4_5": ("ernie4_5", {**LLAMA, "head_dim": 32, "use_bias": True}),
    "exaone": ("exaone", {**LLAMA, "num_layers": 3, "layer_norm_epsilon": 1e-5}),
    "gemma": ("gemma", {**LLAMA, "head_dim": 32}),
    "glm": ("glm", {**LLAMA, "head_dim": 32, "attention_bias": True}),
    "gpt_bigcode": ("gpt_bigcode", {**_GPT, "n_inner": 96, "n_positions": 128, "layer_norm_epsilon": 1e-5}),
    "gpt_bigcode-many": (
        "gpt_bigcode",
        {**_GPT, "n_inner": 96, "n_positions": 128, "layer_norm_epsilon": 1e-5, "multi_query": False},
    ),
    "helium": ("helium", {**LLAMA, **_NO_BIAS, "head_dim": 16}),
    "hunyuan_v1_dense": (
        "hunyuan_v1_dense",
        {**LLAMA, "head_dim": 32, "rope_scaling": {"type": "dynamic", "alpha": 2.0, "factor": 1.0}},
    ),
    "internlm2": ("internlm2", LLAMA),
    "internlm3": ("internlm3", {**LLAMA, "bias": True, "qkv_bias": True}),
    "laguna": (
        "laguna",
        {
            **LLAMA,
            "head_dim": 32,
            "sliding_window": 4,
            "layer_types": SLIDING,
            "num_attention_heads_per_layer": [4, 2, 4],
            "mlp_layer_types": ["dense", "sparse", "sparse"],
            "rope_parameters": {
                "sliding_attention": {"rope_theta": 10000.0},
                "full_attention": {"rope_theta": 50000.0, "partial_rotary_factor": 0.5},
            },
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 32,
            "shared_expert_intermediate_size": 32,
            "moe_routed_scaling_factor": 2.0,
            "moe_router_logit_softcapping": 3.0,
        },
    ),
    "lille-130m": (
        "lille-130m",
        {**_GPT, "block_size": 128, "layer_norm_eps": 1e-5, "n_kv_heads": 2, "rope_theta": 10000.0},
    ),
    "llama4_text": (
        "llama4_text",
        {**LLAMA, "intermediate_size_mlp": 96, "head_dim": 32, "no_rope_layers": [1, 1, 0], "use_qk_norm": True},
    ),
    "mimo": ("mimo", LLAMA),
    "minicpm": ("minicpm", {**LLAMA, "dim_model_base": 32, "scale_depth": 1.4, "scale_emb": 2.0}),
    "ministral3": (
        "ministral3",
        {
            **LLAMA,
            "head_dim": 32,
            "layer_types": SLIDING,
            "sliding_window": 4,
            "rope_parameters": {
                "rope_theta": 10000.0,
                "rope_type": "yarn",
                "factor": 4.0,
                "original_max_position_embeddings": 3,
                "llama_4_scaling_beta": 0.1,
            },
        },
    ),
    "nanbeige": ("nanbeige", {**LLAMA, "num_hidden_layers": 2, "num_loops": 2}),
    "nanbeige-normed-once": (
        "nanbeige",
        {**LLAMA, "num_hidden_layers": 2, "loop_loss_weights": [0.5], "skip_loop_final_norm": True},
    ),
    "nanochat": ("nanochat", LLAMA),
    "nemotron": ("nemotron", {**LLAMA, "hidden_act": "relu2", "norm_eps": 1e-5, "head_dim": 32}),
    "nemotron-nas": (
        "nemotron-nas",
        {
            **LLAMA,
            "num_hidden_layers": 5,
            "block_configs": [
                {"attention": {"replace_with_linear": True}, "ffn": {"replace_with_linear": True}},
                {"attention": {"n_heads_in_group": 2}, "ffn": {"ffn_mult": 1.0}},
                {"attention": {"no_op": True}, "ffn": {"ffn_mult": 1.0}},
                {"attention": {"n_heads_in_group": 4}, "ffn": {"no_op": True}},
                {"attention": {"n_heads_in_group": 1}, "ffn": {"ffn_mult": 1.0}},
            ],
        },
    ),
    "olmo": (
        "olmo",
        {
            "d_model": 64,
            "n_layers": 3,
            "mlp_hidden_size": 192,
            "n_heads": 4,
            "vocab_size": VOCAB,
            "embedding_size": VOCAB,
        },
    ),
    "openelm": (
        "openelm",
        {
            "head_dim": 32,
            "num_transformer_layers": 3,
            "model_dim": 64,
            "vocab_size": VOCAB,
            "ffn_dim_divisor": 32,
            "num_query_heads": [2, 4, 4],
            "num_kv_heads": [1, 2, 4],
            "ffn_multipliers": [0.5, 1.0, 1.5],
        },
    ),
    "qwen": ("qwen", {**LLAMA, "kv_channels": 16, "intermediate_size": 192}),
    "seed_oss": ("seed_oss", {**LLAMA, **_BIAS, "head_dim": 32}),
    "smollm3": ("smollm3", {**LLAMA, "no_rope_layers": [1, 0, 1]}),
    "spark2_5": (
        "spark2_5",
        {
            **LLAMA,
            "head_dim": 32,
            "sliding_window": 4,
            "layer_types": SLIDING,
            "rope_parameters": {
                "sliding_attention": {"rope_theta": 10000.0},
                "full_attention": {"rope_theta": 50000.0, "partial_rotary_factor": 0.5},
            },
        },
    ),
    "starcoder2": ("starcoder2", LLAMA),
    "talkie": ("talkie", {**LLAMA, "head_dim": 32}),
    "telechat3": ("telechat3", {**LLAMA, **_BIAS}),
}
