"""Kimi K3: Kimi Linear's two mixers, with gated heads, on a stream that starts anew every few blocks.

With residual attention, mixer and MLP read a mixture of the stream and of those that ended before: the first block of
each stretch puts its `resid_pre` away for later blocks, and begins a new stream with what its mixer adds. So one
`resid_pre` does not decide what follows. `q` and `z` are latent attention's; the linear attention has raw paths:
`language_model.model.layers.0.self_attn.qkv_conv:input`, `...self_attn.o_norm:input`, `...self_attn.o_proj:input`.
"""

from dataclasses import replace

import mlx.core as mx
import mlx.nn as nn

from mlx_patch.architectures._family import Family, HasModule, Heads, Point, Stream, attention_inside
from mlx_patch.architectures._views import ByHead, attribute_at
from mlx_patch.architectures.tables.kimi_linear import KIMI_LINEAR

_LATENT = "KimiK3MLAAttention"
_HEADS = ByHead("self_attn.num_heads")


def _mid(stream: mx.array, added: mx.array, block: nn.Module) -> mx.array:
    return added if _starts(block) else stream + added


def _starts(block: nn.Module) -> bool:
    return bool(block.is_block_start)


def _mixes(model: nn.Module) -> bool:
    return attribute_at(model, "language_model.model.use_attn_res")


KIMI_K3 = Family(
    "kimi_k3",
    {
        **KIMI_LINEAR.block,
        "q": (
            Point("self_attn.q_b_proj", "output", _HEADS),
            Point("self_attn.q_proj", "output", _HEADS),
        ),
        **attention_inside("self_attn", ("attn_scores", "pattern"), of=_LATENT),
        "z": Point("self_attn.o_proj", "input", _HEADS, given=HasModule("self_attn", class_name=_LATENT)),
        "attn_out": Point("self_attn", "output", of=_LATENT),
        "resid_post": Point("", "output", item=0),
    },
    absent=KIMI_LINEAR.absent,
    blocks="language_model.model.layers",
    final_norm="language_model.model.norm",
    width="language_model.args.hidden_size",
    vocabulary="language_model.args.vocab_size",
    applies=lambda model: not _mixes(model),
    variant="plain",
    heads=Heads(gated=True),
)
KIMI_K3_MIXED = replace(
    KIMI_K3,
    block={**KIMI_K3.block, "resid_mid": Point("", "inside", recipe="mixed", carried="mlp_out")},
    applies=_mixes,
    variant="residual attention",
    stream=Stream(
        says="resid_mid = mixer_out in the first block of a stretch, whose resid_pre all later parts read as well, "
        "else resid_pre + mixer_out; resid_post = resid_mid + mlp_out",
        mid=_mid,
        kept=_starts,
    ),
    shared=("embed",),
    read_out="its final norm reads a mixture of the streams that began each stretch of blocks",
)
