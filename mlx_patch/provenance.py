"""What a number came from: versions, and which model."""

import hashlib
from collections.abc import Iterator
from dataclasses import asdict, is_dataclass
from importlib.metadata import version

import mlx.core as mx
import mlx.nn as nn

from mlx_patch._version import __version__


def versions() -> dict[str, str]:
    """The versions of mlx_patch, mlx and mlx_lm."""
    return {"mlx_patch": __version__, "mlx": version("mlx"), "mlx_lm": version("mlx-lm")}


def model_identity(model: nn.Module, name: str | None = None) -> dict[str, str]:
    """What a model is: where it came from, a hash of its config, its dtypes and its quantisation.

    Args:
        model: The model.
        name: The folder or hub id that it was loaded from, if known.
    Returns:
        Strings by `name`, `architecture`, `config` (16 hex digits), `dtype` and `bits` ("" where not quantised).
    """
    args = getattr(model, "args", None)
    config = repr(sorted(asdict(args).items())) if is_dataclass(args) and not isinstance(args, type) else repr(args)
    parts = list(_parts(model))
    dtypes = {part.dtype for part in parts if isinstance(part, mx.array)}
    names = {str(dtype).removeprefix("mlx.core.") for dtype in dtypes if mx.issubdtype(dtype, mx.floating)}
    bits = {str(vars(part)["bits"]) for part in parts if isinstance(part, nn.Module) and "bits" in vars(part)}
    return {
        "name": name or "",
        "architecture": type(model).__module__.removeprefix("mlx_lm.models."),
        "config": hashlib.sha256(config.encode()).hexdigest()[:16],
        "dtype": ",".join(sorted(names)),
        "bits": ",".join(sorted(bits)),
    }


def parameters(model: nn.Module) -> list[mx.array]:
    """Every parameter of a model."""
    return [part for part in _parts(model) if isinstance(part, mx.array)]


def _parts(model: nn.Module) -> Iterator[object]:
    """Every module and array in a model.

    `model.parameters()` and `model.modules()` give them too, in several times the time. That would be felt: each run
    that keeps activations says what the model was.
    """
    left: list[object] = [model]
    while left:
        part = left.pop()
        if isinstance(part, dict):
            left += [value for name, value in part.items() if not str(name).startswith("_")]
        elif isinstance(part, list | tuple):
            left += part
        if isinstance(part, nn.Module | mx.array):
            yield part
