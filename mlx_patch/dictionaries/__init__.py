"""Sparse autoencoders and transcoders from disk: their features, and edits of them."""

from mlx_patch._presence import shown_names as _shown_names
from mlx_patch.dictionaries._dictionary import Dictionary as Dictionary
from mlx_patch.dictionaries._features import Features as Features
from mlx_patch.dictionaries._load import load as load
from mlx_patch.dictionaries._top import TopFeatures as TopFeatures


def __dir__() -> list[str]:
    """What is meant for the user of the module."""
    return _shown_names(globals())
