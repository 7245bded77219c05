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
        FileError: The folder is not there or holds no model, or the hub does not give it; or `adapter_path` holds no
            adapter, or one of another model.
    """
    name, adapter = os.fspath(path_or_hub_id), kwargs.pop("adapter_path", None)
    refuse_unreachable(name)
    if adapter is not None:
        _refuse_no_adapter(Path(adapter))
    try:
        model, tokenizer, *_ = mlx_lm.load(name, **kwargs)
    except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
        raise FileError(
            f"`path_or_hub_id` must be a model that mlx_lm can load. Got {name!r}: {_first_line(error)} "
            "Check the name and the network, or give a folder with config.json and safetensors."
        ) from error
    return (model if adapter is None else _adapted(model, adapter)), tokenizer


def _refuse_no_adapter(folder: Path) -> None:
    missing = [file for file in ("adapter_config.json", "adapters.safetensors") if not (folder / file).is_file()]
    if missing:
        raise FileError(
            f"`adapter_path` must be a folder with {' and '.join(missing)}. Got {str(folder)!r}. Check the path, or "
            "train an adapter with `python -m mlx_lm lora`."
        )


def _adapted(model: nn.Module, folder: str | os.PathLike[str]) -> nn.Module:
    """The model with the adapter that mlx_lm reads from a folder."""
    from mlx_lm.tuner.utils import load_adapters  # which imports much that nobody else needs

    try:
        adapted = load_adapters(model, os.fspath(folder))
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise FileError(
            f"`adapter_path` must hold an adapter of this model. Got {os.fspath(folder)!r}: {_told(error)} "
            "Give the adapter's own base model, or train one for this."
        ) from error
    adapted.eval()
    return adapted


def _told(error: BaseException) -> str:
    """What an error says, of a list the first."""
    return " ".join(line.strip() for line in str(error).splitlines()[:2]).rstrip(".: ") + "."


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
