"""Step 3.5: sliding layers with more heads, a gate for each head on what it gathers, and experts.

`z` is what enters the output projection, after the gate.
"""

from mlx_patch.architectures._family import NEURONS_OF_EXPERTS, Family, Heads, heads_side_by_side, routed
from mlx_patch.architectures.tables.llama import BLOCK

STEP3P5 = Family(
    "step3p5",
    {**BLOCK, **heads_side_by_side("self_attn", "num_heads", "num_kv_heads"), **routed(router="gate.gate")},
    absent=NEURONS_OF_EXPERTS,
    heads=Heads(gated=True),
)
