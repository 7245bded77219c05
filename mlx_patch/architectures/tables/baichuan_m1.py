"""Baichuan-M1: keys and values pass a convolution over two positions, before RoPE and before the KV cache.

`k` is what enters RoPE and `v` what attention reads, both after the convolution: one position of what enters it reaches
two. Sliding layers may have head counts of their own. `rope` runs twice in a forward pass: on queries, then on keys.
"""

from mlx_patch.architectures._family import DENSE, Family, Point
from mlx_patch.architectures._views import ByHead, Fused, HeadsFirst
from mlx_patch.architectures.tables.llama import BLOCK

_HEADS = ("self_attn.num_heads", "self_attn.num_kv_heads", "self_attn.num_kv_heads")

BAICHUAN_M1 = Family(
    "baichuan_m1",
    {
        **BLOCK,
        "q": Point("self_attn.W_pack", "output", Fused(_HEADS, 0)),
        "k": Point("self_attn.rope", "input", HeadsFirst(), call=1),
        "v": Point("self_attn", "inside", recipe="sdpa"),
        "z": Point("self_attn.o_proj", "input", ByHead("self_attn.num_heads")),
    },
    absent=DENSE,
    width="config.hidden_size",
    vocabulary="config.vocab_size",
)
