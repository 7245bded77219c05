"""Qwen 3 Next and 3.5: three blocks of gated linear attention, then one of gated softmax attention.

`z` of softmax attention is behind its gate: what enters the output projection. The linear attention has raw paths:
`model.layers.0.linear_attn.conv1d:output`, `...norm:input` (what is read out of the state, by head),
`...out_proj:input`; its state is in the prompt cache (`prompt_cache[layer][1]`). Some blocks may have a dense MLP.
"""

from dataclasses import replace

from mlx_patch.architectures._family import (
    BLOCK_ENDS,
    DENSE,
    NEURONS_OF_EXPERTS,
    Family,
    Heads,
    Point,
    attention_inside,
    heads_side_by_side,
    routed,
    wrapped,
)
from mlx_patch.architectures._views import Interleaved

_HEADS, _KV_HEADS = "num_attention_heads", "num_key_value_heads"


_BLOCK = {
    **BLOCK_ENDS,
    **heads_side_by_side("self_attn", _HEADS, _KV_HEADS),
    "q": Point("self_attn.q_proj", "output", Interleaved(f"self_attn.{_HEADS}", 0, 2)),
    **attention_inside("self_attn"),
    "attn_out": Point("self_attn", "output"),
    "mixer_out": (Point("self_attn", "output"), Point("linear_attn", "output")),
    "resid_mid": Point("post_attention_layernorm", "input", carried="mlp_out"),
    "mlp_post": Point("mlp.down_proj", "input"),
    **routed(),
    "mlp_out": Point("mlp", "output"),
}


_ABSENT = {**NEURONS_OF_EXPERTS, **DENSE}


QWEN3_NEXT = Family("qwen3_next", _BLOCK, absent=_ABSENT, heads=Heads(gated=True))


_QWEN3_5_TEXT = Family("qwen3_5", _BLOCK, absent=_ABSENT, heads=Heads(gated=True), variant="text")


QWEN3_5 = replace(wrapped(_QWEN3_5_TEXT, "qwen3_5"), also=("qwen3_5_moe", "prism_hadamard_qwen35"))
