"""The origin of a number: versions, machine, model and weights."""

import hashlib
import os
import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, is_dataclass
from hashlib import blake2b
from importlib.metadata import version
from typing import cast

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten

from mlx_patch._version import __version__

_PLAIN = (type(None), bool, int, float, str)
_ADAPTER = ("lora_a", "lora_b", "m")

_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


def versions() -> dict[str, str]:
    """The versions of mlx_patch, mlx and mlx_lm."""
    return {"mlx_patch": __version__, "mlx": version("mlx"), "mlx_lm": version("mlx-lm")}


def machine() -> dict[str, str]:
    """Versions, and the machine: `system`, `processor`, `memory` and MLX's default `device`, and `python`."""
    return {
        **versions(),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "processor": f"{_processor()}, {os.cpu_count()} cores",
        "memory": _memory(),
        "device": f"MLX on {_device()}",
    }


def _device() -> str:
    """MLX's default device; of a GPU also its name."""
    device = mx.default_device()
    if device != mx.Device(mx.gpu):
        return str(device)
    name = mx.device_info().get("device_name", "")
    if not name:
        return str(device)
    return f"{device}, {name}"


def _processor() -> str:
    """The processor's name, as MLX knows it of the CPU."""
    return str(mx.device_info(mx.cpu).get("device_name", "")) or platform.processor()


def _memory() -> str:
    """The machine's memory; empty if the system does not report it."""
    try:
        size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return ""
    return f"{size / 2**30:.0f} GiB"


def model_identity(model: nn.Module, name: str | None = None, tuned: str = "") -> dict[str, str]:
    """What a model is: where it came from, a hash of its config, its dtypes, its quantisation and its adapter.

    Args:
        model: The model.
        name: The folder or hub id that it was loaded from, if known.
        tuned: Its adapter, if its modules do not show it: a full fine-tune, which replaces weights.
    Returns:
        Strings by `name`, `architecture`, `config` (16 hex digits), `dtype`, `bits` ("" where not quantised) and
        `adapter` ("" where there is none; else its kind and 16 hex digits of its weights).
    """
    config = getattr(model, "args", None)
    if is_dataclass(config) and not isinstance(config, type):
        config = sorted(asdict(config).items())
    modules, arrays = _contents(model)
    dtypes = {array.dtype for array in arrays if mx.issubdtype(array.dtype, mx.floating)}
    names = {str(dtype).removeprefix("mlx.core.") for dtype in dtypes}
    bits = {str(vars(module)["bits"]) for module in modules if "bits" in vars(module)}
    return {
        "name": name or "",
        "architecture": type(model).__module__.removeprefix("mlx_lm.models."),
        "config": hashlib.sha256(repr(config).encode()).hexdigest()[:16],
        "dtype": ",".join(sorted(names)),
        "bits": ",".join(sorted(bits)),
        "adapter": tuned or _adapter(modules),
    }


def has_adapter(model: nn.Module) -> bool:
    """Whether there are LoRA or DoRA layers in a model."""
    modules, _ = _contents(model)
    return any(map(_is_adapter, modules))


def digest_of(arrays: Mapping[str, mx.array]) -> str:
    """16 hex digits that tell named arrays from others, by the sums of `checksum`."""
    digest = blake2b(digest_size=8)
    _add_arrays(digest, sorted(arrays.items()))
    return digest.hexdigest()


def _adapter(modules: Sequence[nn.Module]) -> str:
    """The kind of the LoRA or DoRA layers among some modules, and a digest of their weights; "" if there are none."""
    layers = [vars(module) | dict(module) for module in modules if _is_adapter(module)]
    if not layers:
        return ""
    kind = "lora"
    arrays: dict[str, mx.array] = {}
    for number, layer in enumerate(layers):
        for name in _ADAPTER:
            if name in layer:
                arrays[f"{number}.{name}"] = layer[name]
        if "scale" in layer:
            arrays[f"{number}.scale"] = mx.array(float(layer["scale"]))
        if "m" in layer:
            kind = "dora"
    return f"{kind} {digest_of(arrays)}"


def _is_adapter(module: nn.Module) -> bool:
    return "lora_a" in module


def parameters(model: nn.Module) -> list[mx.array]:
    """Every parameter of a model."""
    _, arrays = _contents(model)
    return arrays


def checksum(model: nn.Module) -> str:
    """32 hex digits that differ where two models compute differently: base and tuned, with and without adapters.

    Every module counts by class, mode and plain attributes, an adapter's scale among them. Every parameter counts by
    name, dtype, shape, and the sums of its bits along rows and along columns, as integers of 16 bits (8 where numbers
    have 8) that wrap at 32: to change a weight changes a row's sum and a column's, to exchange two rows as well. It is
    made to tell models apart, not to withstand an attacker who wants two to look alike. Attributes that begin with an
    underscore are left out, as in `model.parameters()`: modules store computed values there. So are the numbers of a
    `lora_a` whose `lora_b` is 0: they are random, and change nothing.

    Example:
        >>> first, second = nn.Linear(4, 4), nn.Linear(4, 4)
        >>> checksum(first) == checksum(second), checksum(first) == checksum(second.update(first.parameters()))
        (False, True)
    """
    digest = blake2b(digest_size=16)
    for path, module in sorted(model.named_modules(), key=lambda pair: pair[0]):
        description = (path, type(module).__qualname__, module.training, _plain_attributes(module))
        digest.update(repr(description).encode())
    named = cast("list[tuple[str, mx.array]]", tree_flatten(model.parameters()))
    _add_arrays(digest, sorted(named, key=lambda pair: pair[0]))
    return digest.hexdigest()


def _contents(model: nn.Module) -> tuple[list[nn.Module], list[mx.array]]:
    """Every module and every array in a model.

    `model.modules()` and `model.parameters()` return them too, but take several times as long. That would show, for
    each run that captures activations needs the model's identity.
    """
    modules: list[nn.Module] = []
    arrays: list[mx.array] = []
    stack: list[object] = [model]
    while stack:
        value = stack.pop()
        if isinstance(value, mx.array):
            arrays.append(value)
        elif isinstance(value, list | tuple):
            stack += value
        elif isinstance(value, dict):  # modules are dicts
            stack += [child for name, child in value.items() if not str(name).startswith("_")]
            if isinstance(value, nn.Module):
                modules.append(value)
    return modules, arrays


def _plain_attributes(module: nn.Module) -> list[tuple[str, object]]:
    attributes = [(name, value) for name, value in vars(module).items() if type(value) in _PLAIN]
    return sorted((name, value) for name, value in attributes if not name.startswith("_"))


def _idle(named: Mapping[str, mx.array]) -> set[str]:
    """The names of each `lora_a` that has no effect, because its `lora_b` is 0.

    mlx_lm begins an adapter so, with a random `lora_a`, and leaves it so in layers that the adapter's file lacks.
    """
    effects: dict[str, mx.array] = {}
    for name, lora_a in named.items():
        lora_b = named.get(f"{name[:-1]}b")
        if name.endswith("lora_a") and lora_b is not None:
            # A product with 0 is not 0 where `lora_a` is infinite or NaN.
            effects[name] = mx.any(lora_b != 0) | ~mx.all(mx.isfinite(lora_a))
    mx.eval(list(effects.values()))
    return {name for name, has_effect in effects.items() if not has_effect.item()}


def _bit_sums(array: mx.array) -> list[mx.array]:
    """The sums of an array's bits along rows and along columns."""
    if not array.size:
        return []
    width = 1
    if array.ndim:
        width = array.shape[-1]
    dtype = mx.uint16
    if array.dtype.size == 1:
        dtype = mx.uint8
    bits = array.reshape(-1, width).view(dtype)
    return [mx.sum(bits, axis=axis).astype(mx.uint32) for axis in (0, 1)]


def _add_arrays(digest: blake2b, named: Sequence[tuple[str, mx.array]]) -> None:
    idle = _idle(dict(named))
    sums = {path: _bit_sums(array) for path, array in named if path not in idle}
    mx.eval(list(sums.values()))
    for path, array in named:
        digest.update(repr((path, str(array.dtype), array.shape)).encode())
        for array_sum in sums.get(path, []):
            digest.update(np.array(array_sum).tobytes())


def without_addresses(text: str) -> str:
    """A text without the places in memory that a repr names, which another process would have elsewhere.

    Example:
        >>> without_addresses("<function f at 0x7f00>")
        '<function f>'
    """
    return _ADDRESS.sub("", text)
