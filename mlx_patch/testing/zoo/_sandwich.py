"""Norms on both sides, parallel blocks, several streams, and text towers inside vision models."""

from mlx_patch.testing.zoo._species import Species

SANDWICH: Species = {}
