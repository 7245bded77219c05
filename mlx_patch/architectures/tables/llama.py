"""llama, with and without sliding layers. Mistral, SmolLM and others load as it; many families share its names.

What those in `also` have of their own is inside the modules that are tapped: norms by head after RoPE (Hunyuan), layers
without RoPE (SmolLM 3), queries scaled by position (Ministral 3), norms that add 1 to their weight (Gemma, Nemotron).
"""

from mlx_patch.architectures._family import BLOCK_ENDS, DENSE, Family, Point, adds, attention_inside, heads_side_by_side

BLOCK = {
    **BLOCK_ENDS,
    **heads_side_by_side("self_attn"),
    **attention_inside("self_attn"),
    **adds(Point("self_attn", "output"), "attn_out", "mixer_out"),
    "resid_mid": Point("post_attention_layernorm", "input", carried="mlp_out"),
    "mlp_post": Point("mlp.down_proj", "input"),
    "mlp_out": Point("mlp", "output"),
}

LLAMA = Family(
    "llama",
    BLOCK,
    absent=DENSE,
    also=(
        "ernie4_5",
        "gemma",
        "helium",
        "hunyuan_v1_dense",
        "internlm3",
        "mimo",
        "ministral3",
        "nemotron",
        "seed_oss",
        "smollm3",
    ),
)
