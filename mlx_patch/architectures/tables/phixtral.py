"""Phixtral: Phi's parallel block, with experts; one projection for queries, keys and values."""

from mlx_patch.architectures._family import (
    BLOCK_ENDS,
    NEURONS_OF_EXPERTS,
    Family,
    Point,
    adds,
    attention_inside,
    routed,
)
from mlx_patch.architectures._views import ByHead, Fused

_HEADS = "mixer.num_heads"

PHIXTRAL = Family(
    "phixtral",
    {
        **BLOCK_ENDS,
        **{name: Point("mixer.Wqkv", "output", Fused((_HEADS,) * 3, index)) for index, name in enumerate("qkv")},
        **attention_inside("mixer"),
        "z": Point("mixer.out_proj", "input", ByHead(_HEADS)),
        **adds(Point("mixer", "output"), "attn_out", "mixer_out"),
        "mlp_out": Point("moe", "output"),
        **routed("moe"),
    },
    absent={**NEURONS_OF_EXPERTS, "resid_mid": "its attention and MLP run in parallel"},
    blocks="transformer.h",
    final_norm="lm_head.ln",
    width="args.model_dim",
    vocabulary="args.num_vocab",
)
