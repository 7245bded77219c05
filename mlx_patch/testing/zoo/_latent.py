"""Latent attention, and what shares its parts."""

from mlx_patch.testing.zoo._species import Species

LATENT: Species = {}
