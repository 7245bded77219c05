"""Cohere and Command R: attention and MLP in parallel, on one norm; Cohere 2 has sliding layers and NoPE ones."""

from mlx_patch.architectures._family import DENSE, Family
from mlx_patch.architectures.tables.llama import BLOCK

PARALLEL = {**DENSE, "resid_mid": "its attention and MLP run in parallel"}
PARALLEL_BLOCK = {name: point for name, point in BLOCK.items() if name != "resid_mid"}

COHERE = Family("cohere", PARALLEL_BLOCK, absent=PARALLEL, also=("cohere2",))
