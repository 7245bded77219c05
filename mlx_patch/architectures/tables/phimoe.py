"""Phi-3.5-MoE: experts chosen one by one, each weighed by a softmax over the logits that are near the largest left."""

from mlx_patch.architectures._family import NEURONS_OF_EXPERTS, Family, Point, routed
from mlx_patch.architectures.tables.llama import BLOCK

_MOE = "block_sparse_moe"

PHIMOE = Family("phimoe", {**BLOCK, "mlp_out": Point(_MOE, "output"), **routed(_MOE)}, absent=NEURONS_OF_EXPERTS)
