"""Bailing (Ling): one projection for queries, keys and values; a dense first layer, and experts chosen by groups."""

from mlx_patch.architectures._family import NEURONS_OF_EXPERTS, Family, Point, adds, attention_inside, select_kept
from mlx_patch.architectures._views import ByHead, Fused
from mlx_patch.architectures.tables.llama import BLOCK

_HEADS = ("attention.num_attention_heads", "attention.num_key_value_heads", "attention.num_key_value_heads")

BAILING_MOE = Family(
    "bailing_moe",
    {
        **BLOCK,
        **{
            name: Point("attention.query_key_value", "output", Fused(_HEADS, index)) for index, name in enumerate("qkv")
        },
        **attention_inside("attention"),
        "z": Point("attention.dense", "input", ByHead(_HEADS[0])),
        **adds(Point("attention", "output"), "attn_out", "mixer_out"),
        **select_kept(),
    },
    absent=NEURONS_OF_EXPERTS,
)
