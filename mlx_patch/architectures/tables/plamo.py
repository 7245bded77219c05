"""PLaMo: attention and MLP in parallel, on one norm.

Keys and values are tiled: query head i reads KV head i modulo their number. They are tiled after RoPE and the prompt
cache, so `rot_k` is read at RoPE, which runs on the queries and then on the keys.
"""

from mlx_patch.architectures._family import Family, Heads, Point
from mlx_patch.architectures._views import ByHead, HeadsFirst
from mlx_patch.architectures.tables.cohere import PARALLEL, PARALLEL_BLOCK

PLAMO = Family(
    "plamo",
    {
        **PARALLEL_BLOCK,
        "q": Point("self_attn.q_proj", "output", ByHead("self_attn.q_num_heads")),
        "k": Point("self_attn.k_proj", "output", ByHead("self_attn.k_num_heads")),
        "v": Point("self_attn.v_proj", "output", ByHead("self_attn.v_num_heads")),
        "z": Point("self_attn.o_proj", "input", ByHead("self_attn.q_num_heads")),
        "rot_k": Point("self_attn.rotary_emb", "output", HeadsFirst(), call=1),
    },
    absent=PARALLEL,
    blocks="model.layers.layers",
    heads=Heads(tiled=True),
)
