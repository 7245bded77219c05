"""What a tiny configuration consists of, and the arguments that most of them share."""

from typing import Any

Species = dict[str, tuple[str, dict[str, Any]]]
"""Tiny configurations by name: mlx_lm's module, and the arguments of its `ModelArgs`."""

VOCAB = 96
LLAMA: dict[str, Any] = {
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-5,
    "vocab_size": VOCAB,
    "max_position_embeddings": 128,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
}
SLIDING = ["sliding_attention", "full_attention", "sliding_attention"]
