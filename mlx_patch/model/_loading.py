"""Loading a model through mlx_lm, with errors that say what to do."""

import os
from pathlib import Path
from typing import Any

import mlx.nn as nn
import mlx_lm

from mlx_patch.errors import FileError


def load(path_or_hub_id: str | os.PathLike[str], **kwargs: Any) -> tuple[nn.Module, Any]:
    """Model and tokenizer, as `mlx_lm.load` gives them.

    Raises:
        FileError: The folder is not there or holds no model, or the hub does not give it.
    """
    name = os.fspath(path_or_hub_id)
    refuse_unreachable(name)
    try:
        model, tokenizer, *_ = mlx_lm.load(name, **kwargs)
    except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
        raise FileError(
            f"`path_or_hub_id` must be a model that mlx_lm can load. Got {name!r}: {_first_line(error)} "
            "Check the name and the network, or give a folder with config.json and safetensors."
        ) from error
    return model, tokenizer


def refuse_unreachable(name: str) -> None:
    """Raise at once for a local folder that is not there or holds no model.

    Raises:
        FileError: `name` is a path, and no model is there.
    """
    path = Path(name).expanduser()
    looks_local = path.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1
    if looks_local and not path.exists():
        raise FileError(f"`path_or_hub_id` must be a folder that is there, or a hub id. Got {name!r}. Check the path.")
    if path.is_dir() and not (path / "config.json").exists():
        raise FileError(f"`path_or_hub_id` must be a folder with a config.json. Got {name!r}. Check the path.")


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].rstrip(".: ") + "."
