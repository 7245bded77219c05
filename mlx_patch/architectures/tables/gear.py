"""Gear: norms on both sides; blocks of attention, sliding or full, or of short convolutions over keys and values.

Where scores are soft-capped attention is written out, by a function; else it is mlx_lm's. The convolutions have raw
paths: `model.layers.0.local_mixer.key_conv:output`, `...local_mixer.o_proj:input`; their state is in the prompt cache.
"""

import mlx.nn as nn

from mlx_patch.architectures._family import DENSE, Family, HasModule, Point, attention_inside
from mlx_patch.architectures._views import HeadsFirst, attribute_at
from mlx_patch.architectures.tables.llama import BLOCK

_ADDED = Point("post_attention_layernorm", "output")

_BLOCK = {
    **BLOCK,
    "attn_out": Point("post_attention_layernorm", "output", given=HasModule("self_attn")),
    "mixer_out": _ADDED,
    "resid_mid": Point("pre_feedforward_layernorm", "input", carried="mlp_out"),
    "mlp_out": Point("post_feedforward_layernorm", "output"),
}


def _capped(model: nn.Module) -> bool:
    return bool(attribute_at(model, "args.attn_logit_softcapping"))


GEAR = Family("gear", _BLOCK, absent=DENSE, applies=lambda model: not _capped(model))
GEAR_CAPPED = Family(
    "gear",
    {
        **_BLOCK,
        "rot_q": Point("self_attn.rope", "output", HeadsFirst(), call=0),
        "rot_k": Point("self_attn.rope", "output", HeadsFirst(), call=1),
        **attention_inside("self_attn", ("attn_scores", "pattern"), recipe="capped"),
    },
    absent=DENSE,
    applies=_capped,
    variant="soft-capped",
)
