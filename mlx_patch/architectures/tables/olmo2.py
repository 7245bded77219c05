"""OLMo 2, OLMo 3 and EXAONE 4: norms behind attention and MLP only, which read the stream as it is.

What is added to the stream is what those norms return. OLMo normalises queries and keys before they are split into
heads; `q` and `k` stand before that.
"""

from mlx_patch.architectures._family import DENSE, Family, Heads, Point, adds, heads_side_by_side
from mlx_patch.architectures.tables.llama import BLOCK

_BLOCK = {
    **BLOCK,
    **adds(Point("post_attention_layernorm", "output"), "attn_out", "mixer_out"),
    "resid_mid": Point("mlp", "input", carried="mlp_out"),
    "mlp_out": Point("post_feedforward_layernorm", "output"),
}

OLMO2 = Family("olmo2", _BLOCK, absent=DENSE, heads=Heads(mixed=True))
EXAONE4 = Family("exaone4", _BLOCK, absent=DENSE)
OLMO3 = Family(
    "olmo3",
    {**_BLOCK, **heads_side_by_side("self_attn", "num_attention_heads", "num_key_value_heads")},
    absent=DENSE,
    heads=Heads(mixed=True),
)
