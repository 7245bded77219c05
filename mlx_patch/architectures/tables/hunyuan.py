"""Hunyuan: blocks that return a pair, the stream and the keys and values, which the next block may use as its own.

Blocks that use another's have no `k` and `v`; with `num_experts` 1 the model is dense.
"""

from mlx_patch.architectures._family import BLOCK_ENDS, DENSE, NEURONS_OF_EXPERTS, Family, Point, adds, routed
from mlx_patch.architectures._views import attribute_at
from mlx_patch.architectures.tables.llama import BLOCK

_BLOCK = {
    **BLOCK,
    **BLOCK_ENDS,
    "resid_post": Point("", "output", item=0),
    **adds(Point("self_attn", "output", item=0), "attn_out", "mixer_out"),
}


def _dense(model) -> bool:
    return attribute_at(model, "args.num_experts") == 1


HUNYUAN = Family(
    "hunyuan",
    {**_BLOCK, **routed()},
    absent=NEURONS_OF_EXPERTS,
    applies=lambda model: not _dense(model),
    variant="experts",
    shared=("k", "v"),
)
HUNYUAN_DENSE = Family("hunyuan", _BLOCK, absent=DENSE, applies=_dense, variant="dense", shared=("k", "v"))
