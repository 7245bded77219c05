"""Muse Spark: norms on both sides in fused kernels, gates on both sides of each sum, and a mixture of experts.

A block hands on the stream and, beside it, what its norm makes of it for the next; both change with an edit. The norms
behind attention and experts, and the sums, are inside one kernel, so all that stands in the stream is inside the block.
What attention gathers is normed by head and gated before it enters the output projection as `z`.
"""

from collections.abc import Callable

import mlx.core as mx
import mlx.nn as nn

from mlx_patch.architectures._family import NEURONS_OF_EXPERTS, Family, Heads, Point, Stream, attention_inside
from mlx_patch.architectures._views import ByHead, Fused

_HEADS, _KV_HEADS, _TOWER = "self_attn.n_heads", "self_attn.n_kv_heads", "model.language_model"
_IN_BLOCK = ("resid_pre", "attn_out", "mixer_out", "resid_mid", "mlp_out", "resid_post")


def _sum(alpha: str) -> Callable[..., mx.array]:
    def added(stream: mx.array, added: mx.array, block: nn.Module) -> mx.array:
        return getattr(block, alpha) * stream + added

    return added


MUSE_SPARK = Family(
    "muse_spark",
    {
        **dict.fromkeys(_IN_BLOCK, Point("", "inside", recipe="fused_sums")),
        **{
            name: Point("self_attn.qkvg_proj", "output", Fused((_HEADS, _KV_HEADS, _KV_HEADS, _HEADS), index))
            for index, name in enumerate("qkv")
        },
        **attention_inside("self_attn"),
        "z": Point("self_attn.o_proj", "input", ByHead(_HEADS)),
        **dict.fromkeys(("router_logits", "expert_weights"), Point("mlp", "inside", recipe="select")),
    },
    absent=NEURONS_OF_EXPERTS,
    blocks=f"{_TOWER}.layers",
    final_norm=f"{_TOWER}.norm",
    width="args.text.hidden_size",
    vocabulary="args.text.vocab_size",
    stream=Stream(
        says="resid_mid = add_attn_alpha * resid_pre + mixer_out, resid_post = add_ffn_alpha * resid_mid + mlp_out",
        mid=_sum("add_attn_alpha"),
        post=_sum("add_ffn_alpha"),
    ),
    heads=Heads(gated=True, normed=True),
    rounds="bfloat16",
)
