"""Paths: what of an edit reaches one receiver, while every other writer is frozen.

A path becomes ordinary edits at its receivers, whose values are computed here. So sweeps plan, save and divide cells
of paths as they do all others.
"""

from mlx_patch._presence import shown_names as _shown_names
from mlx_patch.paths._edits_of import edits_of as edits_of
from mlx_patch.paths._refusals import checked_freeze as checked_freeze
from mlx_patch.paths._resolve import ResolvedPaths as ResolvedPaths
from mlx_patch.paths._resolve import has_paths as has_paths
from mlx_patch.paths._resolve import resolve_paths as resolve_paths


def __dir__() -> list[str]:
    """What is meant for the user of the module."""
    return _shown_names(globals(), plumbing=("checked_freeze", "has_paths", "resolve_paths", "ResolvedPaths"))
