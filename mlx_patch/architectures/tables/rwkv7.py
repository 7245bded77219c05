"""RWKV 7: a linear recurrence over time, then a channel mixer that looks one position back.

The first block norms the embedding before anything is added to it: that normed stream is `embed` and the first
`resid_pre`. Blocks hand on the values of the first block beside the stream (`model.layers.0.attn.v_proj:output`), so a
stream that is replaced further up does not replace those. The state is in the prompt cache (`prompt_cache[layer][1]`).
"""

from mlx_patch.architectures._family import DENSE, Family, Point

_NO_ATTENTION = "its mixer is a linear recurrence, which has no softmax attention"

RWKV7 = Family(
    "rwkv7",
    {
        "resid_pre": (Point("pre_norm", "output"), Point("", "input")),
        "mixer_out": Point("attn", "output", item=0),
        "resid_mid": Point("ffn_norm", "input", carried="mlp_out"),
        "mlp_post": Point("ffn.value", "input"),
        "mlp_out": Point("ffn", "output"),
        "resid_post": Point("", "output", item=0),
    },
    absent={
        **DENSE,
        **dict.fromkeys(("q", "k", "v", "rot_q", "rot_k", "attn_scores", "pattern", "z", "attn_out"), _NO_ATTENTION),
    },
    shared=("model.layers.0.attn.v_proj:output",),
)
