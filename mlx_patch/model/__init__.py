"""`HookedModel`: an mlx_lm model whose activations can be read and edited."""

from mlx_patch.model._hooked import HookedModel as HookedModel
