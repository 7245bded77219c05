"""Falcon-H1: attention and a Mamba 2 mixer in parallel read one norm, and both are added to the stream.

`mixer_out` is their sum, `attn_out` the part of attention; an edit of `mixer_out` is written through attention. The
state space has raw paths: `model.layers.0.mamba:output`, `...mamba.out_proj:input`.
"""

from dataclasses import replace

from mlx_patch.architectures._family import DENSE, Family, Point, heads_side_by_side
from mlx_patch.architectures.tables.llama import BLOCK

_ATTENTION = Point("self_attn", "output")

FALCON_H1 = Family(
    "falcon_h1",
    {
        **BLOCK,
        **heads_side_by_side("self_attn", "num_heads", "num_kv_heads"),
        "attn_out": _ATTENTION,
        "mixer_out": replace(_ATTENTION, beside="mamba"),
        "resid_mid": Point("pre_ff_layernorm", "input", carried="mlp_out"),
        "mlp_post": Point("feed_forward.down_proj", "input"),
        "mlp_out": Point("feed_forward", "output"),
    },
    absent=DENSE,
    final_norm="model.final_layernorm",
)
