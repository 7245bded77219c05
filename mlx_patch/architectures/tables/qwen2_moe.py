"""Llama's names, with a mixture of experts in place of the MLP, in all layers or in some.

Those in `also` route in ways of their own: softmax before or after the choice, normalised, scaled, with shared experts.
`expert_weights` is the end of it: what the experts' outputs are multiplied with.
"""

from mlx_patch.architectures._family import NEURONS_OF_EXPERTS, Family, routed, wrapped
from mlx_patch.architectures.tables.llama import BLOCK

QWEN2_MOE = Family(
    "qwen2_moe",
    {**BLOCK, **routed()},
    absent=NEURONS_OF_EXPERTS,
    also=("ernie4_5_moe", "mellum", "qwen3_moe"),
)
QWEN3_VL_MOE = wrapped(QWEN2_MOE, "qwen3_vl_moe")
