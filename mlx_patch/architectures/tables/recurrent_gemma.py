"""Recurrent Gemma (Griffin): blocks of local attention with one KV head, or of a gated linear recurrence.

The recurrence has raw paths: `model.layers.0.temporal_block.rg_lru:input`, `...temporal_block.linear_out:input` (the
state times its gate); the last state is in the prompt cache (`prompt_cache[layer][1]`).
"""

from mlx_patch.architectures._family import BLOCK_ENDS, DENSE, Family, Point, attention_inside
from mlx_patch.architectures._views import ByHead

_MIXER, _ATTENTION = "temporal_block", "LocalAttentionBlock"
_HEADS = ByHead("temporal_block.num_heads")

RECURRENT_GEMMA = Family(
    "recurrent_gemma",
    {
        **BLOCK_ENDS,
        "q": Point("temporal_block.q_proj", "output", _HEADS),
        "k": Point("temporal_block.k_proj", "output", ByHead(1)),
        "v": Point("temporal_block.v_proj", "output", ByHead(1)),
        "z": Point("temporal_block.o_proj", "input", _HEADS),
        **attention_inside(_MIXER, of=_ATTENTION),
        "attn_out": Point(_MIXER, "output", of=_ATTENTION),
        "mixer_out": Point(_MIXER, "output"),
        "resid_mid": Point("channel_pre_norm", "input", carried="mlp_out"),
        "mlp_post": Point("mlp_block.down_proj", "input"),
        "mlp_out": Point("mlp_block", "output"),
    },
    absent=DENSE,
    final_norm="model.final_norm",
)
