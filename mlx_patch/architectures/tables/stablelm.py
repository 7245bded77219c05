"""StableLM: attention and MLP in parallel, on one norm, or one by one.

Attention is in float32, to which keys are cast behind the prompt cache; `rot_k` is what RoPE gives, before that.
"""

import mlx.nn as nn

from mlx_patch.architectures._family import DENSE, Family, Point, heads_side_by_side
from mlx_patch.architectures._views import HeadsFirst, attribute_at
from mlx_patch.architectures.tables.cohere import PARALLEL, PARALLEL_BLOCK
from mlx_patch.architectures.tables.llama import BLOCK

_HEADS = {
    **heads_side_by_side("self_attn", "num_heads", "num_key_value_heads"),
    "rot_k": Point("self_attn.rope", "output", HeadsFirst(), call=1),
}


def _parallel(model: nn.Module) -> bool:
    return attribute_at(model, "args.use_parallel_residual")


STABLELM_PARALLEL = Family(
    "stablelm", {**PARALLEL_BLOCK, **_HEADS}, absent=PARALLEL, applies=_parallel, variant="parallel"
)
STABLELM_SEQUENTIAL = Family(
    "stablelm",
    {**BLOCK, **_HEADS},
    absent=DENSE,
    applies=lambda model: not _parallel(model),
    variant="sequential",
)
