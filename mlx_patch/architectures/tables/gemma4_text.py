"""Gemma 4: Gemma 3's norms; keys and values shared by upper layers; an embedding of the tokens for each layer.

A block returns a tuple, the stream first. Behind the MLP a gate reads the stream and lets through what the layer's own
embedding of the tokens adds, and the sum is multiplied by the layer's scalar. `k` stands before its norm and `v` behind
its own, which has no weights; where one projection makes both, an edit of `k` leaves the values as they are. The upper
layers have queries only, and read the keys that RoPE, which runs on keys first, gave further down. Some models have
experts beside a dense MLP.
"""

from typing import Any

import mlx.core as mx

from mlx_patch.architectures._family import DENSE, Family, HasModule, Point, Stream
from mlx_patch.architectures._views import HeadsFirst
from mlx_patch.architectures.tables.gemma3_text import SANDWICH

_KEY_NORM = "self_attn.k_norm"


def _post(stream: mx.array, added: mx.array, block: Any, more: mx.array | None = None) -> mx.array:
    stream = stream + added
    return (stream if more is None else stream + more) * block.layer_scalar


GEMMA4_TEXT = Family(
    "gemma4_text",
    {
        **SANDWICH,
        "k": Point(_KEY_NORM, "input"),
        "v": Point("self_attn.v_norm", "output"),
        "rot_k": Point("self_attn.rope", "output", HeadsFirst(), call=0, given=HasModule(_KEY_NORM)),
        "router_logits": Point("router.proj", "output"),
        "expert_weights": Point("experts", "inside", recipe="given"),
        "resid_post": Point("", "output", item=0),
    },
    absent=DENSE,
    stream=Stream(
        says="resid_mid = resid_pre + mixer_out, "
        "resid_post = (resid_mid + mlp_out + what the layer's own embedding adds) * layer_scalar",
        post=_post,
        readers=("router", "pre_feedforward_layernorm_2"),
        last="per_layer_input_gate",
        more="post_per_layer_input_norm",
    ),
    shared=("rot_k", "v"),
    rereads=True,
)
