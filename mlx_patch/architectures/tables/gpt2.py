"""GPT-2: one projection for queries, keys and values side by side; learned positions, so nothing is rotated."""

from mlx_patch.architectures._family import BLOCK_ENDS, DENSE, Family, Point, adds, attention_inside
from mlx_patch.architectures._views import ByHead, Fused

_HEADS = "attn.n_head"
_NOT_ROTATED = "its positions are learned and added to the embedding, so attention sees q and k as they are"

GPT2 = Family(
    "gpt2",
    {
        **BLOCK_ENDS,
        **{name: Point("attn.c_attn", "output", Fused((_HEADS,) * 3, index)) for index, name in enumerate("qkv")},
        **attention_inside("attn", ("attn_scores", "pattern")),
        "z": Point("attn.c_proj", "input", ByHead(_HEADS)),
        **adds(Point("attn", "output"), "attn_out", "mixer_out"),
        "resid_mid": Point("ln_2", "input", carried="mlp_out"),
        "mlp_post": Point("mlp.c_proj", "input"),
        "mlp_out": Point("mlp", "output"),
    },
    absent={**DENSE, "rot_q": _NOT_ROTATED, "rot_k": _NOT_ROTATED},
    blocks="model.h",
    final_norm="model.ln_f",
    width="args.n_embd",
    positions="model.wpe",
)
