"""State spaces, linear attention, convolutions, and their hybrids with attention."""

from mlx_patch.testing.zoo._species import Species

HYBRIDS: Species = {}
