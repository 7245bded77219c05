"""Laguna: llama's attention with a gate on each head, and experts with one that always runs; some layers are dense."""

from mlx_patch.architectures._family import Family, Heads, routed
from mlx_patch.architectures.tables.llama import BLOCK

LAGUNA = Family("laguna", {**BLOCK, **routed("mlp", "gate.proj")}, heads=Heads(gated=True))
