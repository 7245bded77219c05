"""GLM and TeleChat 3: llama's names, with head counts under longer ones; GLM's gate and up are one projection."""

from mlx_patch.architectures._family import DENSE, Family, heads_side_by_side
from mlx_patch.architectures.tables.llama import BLOCK

GLM = Family(
    "glm",
    {**BLOCK, **heads_side_by_side("self_attn", "num_attention_heads", "num_key_value_heads")},
    absent=DENSE,
    also=("telechat3",),
)
