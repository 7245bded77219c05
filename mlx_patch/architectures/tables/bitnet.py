"""BitNet: ternary weights, which only a Metal kernel multiplies; a norm before each output projection.

The norm behind attention is over all heads at once, so `z` is what enters that norm, where heads are still apart.
`mlp_post` is what enters the down projection, behind its norm.
"""

from mlx_patch.architectures._family import DENSE, Family, Point
from mlx_patch.architectures._views import ByHead
from mlx_patch.architectures.tables.llama import BLOCK

BITNET = Family(
    "bitnet",
    {**BLOCK, "z": Point("self_attn.attn_sub_norm", "input", ByHead("self_attn.n_heads"))},
    absent=DENSE,
)
