"""GLM-4: norms on both sides; `post_attention_layernorm` stands before the MLP, and gate and up are one projection."""

from mlx_patch.architectures._family import DENSE, Family, Point, adds
from mlx_patch.architectures.tables.llama import BLOCK

GLM4 = Family(
    "glm4",
    {
        **BLOCK,
        **adds(Point("post_self_attn_layernorm", "output"), "attn_out", "mixer_out"),
        "mlp_out": Point("post_mlp_layernorm", "output"),
    },
    absent=DENSE,
)
