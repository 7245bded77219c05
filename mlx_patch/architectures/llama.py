"""llama, with and without sliding layers. Mistral, SmolLM and others load as it; many families share its names."""

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

LLAMA = Family("llama", BLOCK, absent=DENSE)
