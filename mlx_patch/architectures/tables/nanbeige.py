"""Nanbeige: llama's names; the stack may run several times over, each time with a KV cache of its own.

Each time is layers of its own: with 20 blocks and 2 loops, layer 25 is the second run of block 5.
"""

from mlx_patch.architectures._family import DENSE, Family, Loop
from mlx_patch.architectures._views import attribute_at
from mlx_patch.architectures.tables.llama import BLOCK

NANBEIGE = Family(
    "nanbeige",
    BLOCK,
    absent=DENSE,
    loop=Loop(
        times=lambda model: attribute_at(model, "model.num_loops"),
        normed=lambda model: not attribute_at(model, "model.skip_loop_final_norm"),
    ),
)
