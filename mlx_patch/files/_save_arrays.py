"""Arrays into a safetensors file, so that a full disk is an `OSError` that says so."""

from collections.abc import Mapping
from pathlib import Path

import mlx.core as mx


def save_arrays(path: Path, arrays: Mapping[str, mx.array], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file.

    Args:
        path: The file.
        arrays: By name.
        metadata: Texts by name.
    Raises:
        OSError: It cannot be written. Given a name, MLX would raise a `RuntimeError` without the reason.
    """
    with path.open("wb") as file:
        mx.save_safetensors(file, dict(arrays), dict(metadata))
