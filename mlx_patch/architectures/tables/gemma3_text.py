"""Gemma 3: norms on both sides of attention and MLP; sliding and full attention.

`post_attention_layernorm` here normalises what attention writes, so `attn_out`, which is what is added to the stream,
is what that norm returns. Muse Glimmer has the same names, with a gate on what attention gathers: its `z` is gated.
"""

from mlx_patch.architectures._family import DENSE, Family, Heads, Point, adds
from mlx_patch.architectures.tables.llama import BLOCK

SANDWICH = {
    **BLOCK,
    **adds(Point("post_attention_layernorm", "output"), "attn_out", "mixer_out"),
    "resid_mid": Point("pre_feedforward_layernorm", "input", carried="mlp_out"),
    "mlp_out": Point("post_feedforward_layernorm", "output"),
}

GEMMA3_TEXT = Family("gemma3_text", SANDWICH, absent=DENSE)
MUSE_GLIMMER = Family("muse_glimmer", SANDWICH, absent=DENSE, heads=Heads(gated=True))
