"""Mistral 4: the latent attention of DeepSeek V3, and a router that is a linear map.

For a prompt its attention is given whole queries and keys, for a single token it is given the latent.
"""

from mlx_patch.architectures._family import Family, routed
from mlx_patch.architectures.tables.deepseek_v3 import BLOCK, LATENT

_BY_LENGTH = "attention sees {} by head in a prompt, and folded into the latent at a single token"

MISTRAL4 = Family(
    "mistral4",
    {**BLOCK, **routed()},
    absent={**LATENT, "rot_q": _BY_LENGTH.format("queries"), "rot_k": _BY_LENGTH.format("keys")},
)
