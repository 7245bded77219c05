"""nanochat: norms without weights, which are functions and no modules; keys and queries are normed after RoPE.

The stream between attention and MLP is found where the block norms it; `final_norm` is what the whole stack returns.
"""

from mlx_patch.architectures._family import BLOCK_ENDS, DENSE, Family, Point, adds, attention_inside
from mlx_patch.architectures._views import ByHead

_HEADS, _KV_HEADS = "attn.num_heads", "attn.num_kv_heads"

NANOCHAT = Family(
    "nanochat",
    {
        **BLOCK_ENDS,
        "q": Point("attn.c_q", "output", ByHead(_HEADS)),
        "k": Point("attn.c_k", "output", ByHead(_KV_HEADS)),
        "v": Point("attn.c_v", "output", ByHead(_KV_HEADS)),
        **attention_inside("attn"),
        "z": Point("attn.c_proj", "input", ByHead(_HEADS)),
        **adds(Point("attn", "output"), "attn_out", "mixer_out"),
        "resid_mid": Point("", "inside", recipe="norms", carried="mlp_out"),
        "mlp_post": Point("mlp.c_proj", "input"),
        "mlp_out": Point("mlp", "output"),
    },
    absent=DENSE,
    blocks="transformer.h",
    final_norm="transformer",
)
