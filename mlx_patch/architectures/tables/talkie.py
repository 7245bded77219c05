"""Talkie: each block adds the normed embedding of its tokens again, times a learned number.

Norms are functions and no modules, and what attention and MLP add is multiplied by a learned number. `embed` is the
normed embedding for all that read it; `resid_pre` of block 0 is what enters that block alone.
"""

import mlx.core as mx
import mlx.nn as nn

from mlx_patch.architectures._family import DENSE, Family, Point, Stream, adds, attention_inside
from mlx_patch.architectures._views import ByHead

_HEADS = ByHead("attn.n_heads")


def _post(stream: mx.array, added: mx.array, block: nn.Module, more: mx.array) -> mx.array:
    return stream + added + more


TALKIE = Family(
    "talkie",
    {
        "resid_pre": Point("", "input", item=1),
        "q": Point("attn.attn_query", "output", _HEADS),
        "k": Point("attn.attn_key", "output", _HEADS),
        "v": Point("attn.attn_value", "output", _HEADS),
        **attention_inside("attn"),
        "z": Point("attn.attn_resid", "input", _HEADS),
        **adds(Point("attn_gain", "output"), "attn_out", "mixer_out"),
        "resid_mid": Point("", "inside", recipe="norms", carried="mlp_out"),
        "mlp_post": Point("mlp.mlp_resid", "input"),
        "mlp_out": Point("mlp_gain", "output"),
        "resid_post": Point("", "output"),
    },
    absent=DENSE,
    blocks="model.blocks",
    final_norm="model",
    embed=Point("model", "inside", recipe="normed"),
    stream=Stream(
        says="resid_mid = resid_pre + mixer_out, resid_post = resid_mid + mlp_out + a number * embed",
        post=_post,
        more="embed_skip",
    ),
    shared=("embed",),
)
