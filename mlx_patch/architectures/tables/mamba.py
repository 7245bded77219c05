"""Mamba (Falcon Mamba too) and Mamba 2: a block is one state-space mixer, added to the stream.

The recurrent state is in the prompt cache (`prompt_cache[layer][1]`); raw paths show what goes into it and comes out:
`backbone.layers.0.mixer.conv1d:output`, `...mixer.out_proj:input`. Mamba's `x_proj` and `dt_proj` run once a position,
`...mixer.x_proj:output[3]` is that of the fourth.
"""

from mlx_patch.architectures._family import BLOCK_ENDS, DENSE, Family, Point

NO_ATTENTION = "its mixer is a state space, which has no softmax attention"
_NO_MLP = "its blocks have a mixer and no MLP"

MAMBA = Family(
    "mamba",
    {**BLOCK_ENDS, "mixer_out": Point("mixer", "output")},
    absent={
        **dict.fromkeys(("q", "k", "v", "rot_q", "rot_k", "attn_scores", "pattern", "z", "attn_out"), NO_ATTENTION),
        **dict.fromkeys(("resid_mid", "mlp_post", "mlp_out"), _NO_MLP),
        **dict.fromkeys(DENSE, _NO_MLP),
    },
    blocks="backbone.layers",
    final_norm="backbone.norm_f",
    also=("mamba2",),
)
