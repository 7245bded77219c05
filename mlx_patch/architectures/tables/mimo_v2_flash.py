"""MiMo V2 Flash: sliding layers with heads, RoPE and attention sinks of their own; values scaled after `v`."""

from mlx_patch.architectures._family import NEURONS_OF_EXPERTS, Family, Heads, select_kept
from mlx_patch.architectures.tables.llama import BLOCK

MIMO_V2_FLASH = Family(
    "mimo_v2_flash",
    {**BLOCK, **select_kept()},
    absent=NEURONS_OF_EXPERTS,
    heads=Heads(sinks="self_attn.attention_sink_bias"),
)
