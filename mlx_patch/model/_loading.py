"""Loading a model through mlx_lm, and adapters on it, with errors that say what to do."""

import json
import os
import re
from collections.abc import Mapping
from inspect import signature
from pathlib import Path
from typing import Any, cast

import huggingface_hub.errors
import mlx.core as mx
import mlx.nn as nn
import mlx_lm
from mlx.utils import tree_flatten

from mlx_patch import arguments
from mlx_patch.errors import FileError, KindError, ValueRefusedError, did_you_mean, listed, shown
from mlx_patch.model._evaluated import evaluate
from mlx_patch.model._twin import twin
from mlx_patch.provenance import digest_of, has_adapter

_RAISED_BY_LIBRARIES = (
    *(OSError, ValueError, RuntimeError, LookupError, TypeError, AttributeError, ArithmeticError, AssertionError),
    getattr(huggingface_hub.errors, "StrictDataclassError", OSError),
)
"""What mlx_lm, transformers and the hub's client raise for files that they cannot make sense of."""


def load_model(path_or_hub_id: str | os.PathLike[str], **kwargs: Any) -> tuple[nn.Module, Any, str]:
    """Model and tokenizer from `mlx_lm.load`, every array evaluated; and the adapter, as `adapted` describes it.

    Raises:
        FileError: The folder is not there or holds no model, or the hub does not give it; or `adapter_path` holds no
            adapter, or one of another model.
    """
    if not isinstance(path_or_hub_id, str | os.PathLike):
        raise KindError(
            f"`path_or_hub_id` must be a folder or a hub id. Got {type(path_or_hub_id).__name__}. Give a path, or wrap "
            "a model that is loaded already: mp.HookedModel(model, tokenizer)."
        )
    _refuse_keywords(kwargs)
    arguments.path("path_or_hub_id", path_or_hub_id)
    name = os.fspath(path_or_hub_id)
    adapter = kwargs.pop("adapter_path", None)
    refuse_unreachable(name)
    if adapter is not None:
        _refuse_no_adapter(_checked_folder(adapter))
    try:
        model, tokenizer, *_ = mlx_lm.load(name, **kwargs)
        evaluate(model)
    except _RAISED_BY_LIBRARIES as error:
        raise FileError(
            f"`path_or_hub_id` must be a model that mlx_lm can load. Got {shown(name)}: {_reason(error)}"
        ) from error
    if adapter is None:
        return model, tokenizer, ""
    model, tuned = _apply_adapter(model, adapter)
    return model, tokenizer, tuned


def _refuse_keywords(keywords: Mapping[str, Any]) -> None:
    """Refuse what `mlx_lm.load` does not take.

    Raises:
        KindError: The nearest keywords are named.
    """
    allowed = tuple(signature(mlx_lm.load).parameters)[1:]
    for keyword in keywords:
        if keyword not in allowed:
            raise KindError(
                f"`load` must be given keywords of mlx_lm.load. Got {shown(keyword)}. {did_you_mean(keyword, allowed)}"
            )


_MISMATCH = re.compile(r"(?P<kind>Missing|Received) (?P<count>\d+) parameters")


def _reason(error: BaseException) -> str:
    """Why mlx_lm cannot load a model, with the remedy and the names of weights that do not fit."""
    mismatch = _MISMATCH.match(str(error))
    if mismatch is None:
        remedy = "Check the name and the network, or give a folder with config.json and safetensors."
        return f"{_first_line(error)} {remedy}"
    names = [line.strip().rstrip(",.") for line in str(error).splitlines()[1:] if line.strip()]
    examples = listed(names[:3])
    if len(names) > 3:
        examples += f" and {len(names) - 3} more"
    if mismatch["kind"] == "Missing":
        problem = f"its weights lack {mismatch['count']} of the model's arrays: {examples}"
    else:
        problem = f"its weights have {mismatch['count']} arrays that the model has no place for: {examples}"
    return (
        f"{problem}. Its config.json and its safetensors do not match: convert it again with `python -m mlx_lm "
        "convert`."
    )


def adapted(model: nn.Module, adapter_path: str | os.PathLike[str], tuned: str) -> tuple[nn.Module, str]:
    """A second model, with an adapter, on the weights of a first one, which stays as it is.

    Args:
        model: The base model.
        adapter_path: The adapter's folder, as `mlx_lm.lora` writes it.
        tuned: The model's own adapter, if its modules do not show it.
    Returns:
        The model; and its adapter, if its modules do not show it.
    Raises:
        ValueRefusedError: The model has an adapter already.
        FileError: `adapter_path` holds no adapter, or one of another model.
    """
    _refuse_no_adapter(_checked_folder(adapter_path))
    if tuned or has_adapter(model):
        raise ValueRefusedError(
            "`model` must be a base model to take an adapter. Got one that already has an adapter, whose weights "
            "would be replaced. Load the base model without `adapter_path`."
        )
    return _apply_adapter(twin(model), adapter_path)


def _checked_folder(adapter_path: object) -> Path:
    return arguments.path("adapter_path", adapter_path)


def _refuse_no_adapter(folder: Path) -> None:
    missing = [file for file in ("adapter_config.json", "adapters.safetensors") if not (folder / file).is_file()]
    if missing:
        raise FileError(
            f"`adapter_path` must be a folder with {' and '.join(missing)}. Got {str(folder)!r}. Check the path, or "
            "train an adapter with `python -m mlx_lm lora`."
        )


def _apply_adapter(model: nn.Module, folder: str | os.PathLike[str]) -> tuple[nn.Module, str]:
    """The model with the adapter that mlx_lm reads from a folder; and its digest, if no module shows the adapter."""
    from mlx_lm.tuner.utils import load_adapters  # a heavy import, needed for adapters alone

    try:
        arrays = mx.load(str(Path(folder) / "adapters.safetensors"))
        model = load_adapters(model, os.fspath(folder))
        config = json.loads((Path(folder) / "adapter_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise FileError(
            f"`adapter_path` must hold an adapter of this model. Got {os.fspath(folder)!r}: {_first_lines(error)} "
            "Give the adapter's own base model, or train one for this."
        ) from error
    assert isinstance(arrays, dict)
    if defect := _adapter_defect(model, arrays):
        raise FileError(
            f"`adapter_path` must hold an adapter of this model. Got {os.fspath(folder)!r}, whose adapters.safetensors "
            f"holds {defect}. Train it again."
        )
    model.eval()
    evaluate(model)
    if config.get("fine_tune_type") == "full":
        return model, f"full {digest_of(arrays)}"
    return model, ""


def _adapter_defect(model: nn.Module, arrays: Mapping[str, mx.array]) -> str:
    """The defect of an adapter's arrays, as a noun phrase; "" if there is none.

    A layer without arrays keeps the base model's weights. A layer with `lora_b` but without `lora_a` would multiply
    random numbers.
    """
    if not arrays:
        return "no array"
    parameters = cast("list[tuple[str, mx.array]]", tree_flatten(model.parameters()))
    names = {name for name, _ in parameters}
    counterparts = [f"{name[:-1]}a" for name in arrays if name.endswith(".lora_b")]
    lacking = sorted(name for name in counterparts if name in names and name not in arrays)
    if not lacking:
        return ""
    return f"no {lacking[0]!r} beside the 'lora_b' of that layer"


def _first_lines(error: BaseException) -> str:
    """The first two lines of an error's message, as a sentence: a heading, and the first entry of its list."""
    lines = [line.strip() for line in str(error).splitlines()[:2]]
    return " ".join(lines).rstrip(".: ") + "."


def refuse_unreachable(name: str) -> None:
    """Raise at once for a local folder that is not there or holds no model.

    Raises:
        FileError: `name` is a path, and no model is there.
    """
    path = Path(name).expanduser()
    looks_local = path.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1
    if looks_local and not path.exists():
        raise FileError(f"`path_or_hub_id` must be an existing folder, or a hub id. Got {shown(name)}. Check the path.")
    if path.is_dir() and not (path / "config.json").exists():
        raise FileError(f"`path_or_hub_id` must be a folder with a config.json. Got {shown(name)}. Check the path.")


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].rstrip(".: ") + "."
