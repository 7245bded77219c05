"""Nemotron-NAS: found by search, so that a block may lack attention or MLP, or have a linear map in its place.

A linear map in attention's place mixes no tokens; it is `mixer_out` all the same, since it adds to the stream there.
"""

from mlx_patch.architectures._family import DENSE, Family, Point, attention_inside
from mlx_patch.architectures.tables.llama import BLOCK

_ATTENTION = ("q", "k", "v", "rot_q", "rot_k", "attn_scores", "pattern", "z", "attn_out")

NEMOTRON_NAS = Family(
    "nemotron-nas",
    {
        **BLOCK,
        **attention_inside("self_attn", of="Attention"),
        "attn_out": Point("self_attn", "output", of="Attention"),
    },
    absent={
        **DENSE,
        **dict.fromkeys(_ATTENTION, "the architecture search left no block with attention"),
        **dict.fromkeys(("resid_mid", "mlp_post", "mlp_out"), "the architecture search left no block with such an MLP"),
        "mixer_out": "the architecture search left no block with a mixer",
    },
)
