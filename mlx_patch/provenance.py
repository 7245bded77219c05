"""What a number came from: versions, and which model."""

import hashlib
from dataclasses import asdict, is_dataclass
from importlib.metadata import version
from typing import cast

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

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
    dtypes = {str(p.dtype).removeprefix("mlx.core.") for p in parameters(model) if mx.issubdtype(p.dtype, mx.floating)}
    bits = {str(module.bits) for module in model.modules() if hasattr(module, "bits")}
    return {
        "name": name or "",
        "architecture": type(model).__module__.removeprefix("mlx_lm.models."),
        "config": hashlib.sha256(config.encode()).hexdigest()[:16],
        "dtype": ",".join(sorted(dtypes)),
        "bits": ",".join(sorted(bits)),
    }


def parameters(model: nn.Module) -> list[mx.array]:
    """Every parameter of a model."""
    return [array for _, array in cast("list[tuple[str, mx.array]]", tree_flatten(model.parameters()))]
