"""EXAONE 3: GPT-2's names for the block, and llama's for an attention that stands one module deeper."""

from mlx_patch.architectures._family import BLOCK_ENDS, DENSE, Family, Point, adds, attention_inside, heads_side_by_side
from mlx_patch.architectures._views import ByHead

_ATTENTION = "attn.attention"

EXAONE = Family(
    "exaone",
    {
        **BLOCK_ENDS,
        **heads_side_by_side(_ATTENTION),
        **attention_inside(_ATTENTION),
        "z": Point(f"{_ATTENTION}.out_proj", "input", ByHead(f"{_ATTENTION}.n_heads")),
        **adds(Point(_ATTENTION, "output"), "attn_out", "mixer_out"),
        "resid_mid": Point("ln_2", "input", carried="mlp_out"),
        "mlp_post": Point("mlp.c_proj", "input"),
        "mlp_out": Point("mlp", "output"),
    },
    absent=DENSE,
    blocks="transformer.h",
    final_norm="transformer.ln_f",
)
