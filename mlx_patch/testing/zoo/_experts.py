"""Mixtures of experts."""

from mlx_patch.testing.zoo._species import Species

EXPERTS: Species = {}
