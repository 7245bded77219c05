"""Dense transformers with one block after the other."""

from mlx_patch.testing.zoo._species import Species

DENSE: Species = {}
