"""Nemotron-H: a block is one part, added to the stream: Mamba 2, attention without RoPE, an MLP or experts.

The state space has raw paths: `backbone.layers.0.mixer.conv1d:output`, `...mixer.out_proj:input`; its state is in the
prompt cache, which has entries for blocks with a token mixer alone.
"""

from mlx_patch.architectures._family import (
    BLOCK_ENDS,
    DENSE,
    NEURONS_OF_EXPERTS,
    Family,
    Point,
    attention_inside,
    heads_side_by_side,
    select_kept,
)

_ATTENTION = "NemotronHAttention"
_ATTN_OUT = Point("mixer", "output", of=_ATTENTION)

NEMOTRON_H = Family(
    "nemotron_h",
    {
        **BLOCK_ENDS,
        **heads_side_by_side("mixer", "num_heads", "num_key_value_heads"),
        **attention_inside("mixer", of=_ATTENTION),
        "attn_out": _ATTN_OUT,
        "mixer_out": (_ATTN_OUT, Point("mixer", "output", of="NemotronHMamba2Mixer")),
        **select_kept("mixer.gate"),
        "mlp_post": Point("mixer.down_proj", "input"),
        "mlp_out": (Point("mixer", "output", of="NemotronHMLP"), Point("mixer", "output", of="NemotronHMoE")),
    },
    absent={
        **DENSE,
        **NEURONS_OF_EXPERTS,
        "resid_mid": "its blocks have one part each, a mixer or an MLP, so there is nothing between the two",
    },
    blocks="backbone.layers",
    final_norm="backbone.norm_f",
)
