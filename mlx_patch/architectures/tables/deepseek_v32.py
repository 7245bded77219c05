"""DeepSeek V3.2: the attention of V3, on those positions only that an indexer picks for each query.

Those that it does not pick are masked in `attn_scores`.
"""

from mlx_patch.architectures._family import Family, attention_inside
from mlx_patch.architectures.tables.deepseek_v3 import BLOCK, LATENT

DEEPSEEK_V32 = Family(
    "deepseek_v32",
    {**BLOCK, **attention_inside("self_attn", ("attn_scores", "pattern"), recipe="indexed")},
    absent=LATENT,
    also=("glm_moe_dsa",),
)
