"""What a number came from: versions, which model, and which weights."""

import hashlib
import os
import platform
from collections.abc import Iterator, Mapping, Sequence
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


def versions() -> dict[str, str]:
    """The versions of mlx_patch, mlx and mlx_lm."""
    return {"mlx_patch": __version__, "mlx": version("mlx"), "mlx_lm": version("mlx-lm")}


def machine() -> dict[str, str]:
    """Versions, and what they run on: `system`, `processor`, `memory` and MLX's default `device`, and `python`."""
    device = mx.default_device()
    about = mx.device_info() if device == mx.Device(mx.gpu) else {}
    name = about.get("device_name", "")
    return {
        **versions(),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "processor": f"{_processor()}, {os.cpu_count()} cores",
        "memory": _memory(),
        "device": f"MLX on {device}{f', {name}' if name else ''}",
    }


def _processor() -> str:
    """The processor's name, as MLX knows it of the CPU."""
    return str(mx.device_info(mx.cpu).get("device_name", "")) or platform.processor()


def _memory() -> str:
    """The machine's memory; empty where the system does not say."""
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
        tuned: What its adapter is where that cannot be seen in its modules: a full fine-tune, which replaces weights.
    Returns:
        Strings by `name`, `architecture`, `config` (16 hex digits), `dtype`, `bits` ("" where not quantised) and
        `adapter` ("" where there is none; else its kind and 16 hex digits of what it holds).
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
        "adapter": tuned or _adapter(parts),
    }


def has_adapter(model: nn.Module) -> bool:
    """Whether there are LoRA or DoRA layers in a model."""
    return any(map(_is_adapter, _parts(model)))


def digest_of(arrays: Mapping[str, mx.array]) -> str:
    """16 hex digits that tell named arrays from others, by the sums of `checksum`."""
    whole = blake2b(digest_size=8)
    _add_arrays(whole, sorted(arrays.items()))
    return whole.hexdigest()


def _adapter(parts: Sequence[object]) -> str:
    """The kind of the LoRA or DoRA layers among some parts, and a digest of what they hold."""
    layers = [vars(part) | dict(part) for part in parts if isinstance(part, nn.Module) and _is_adapter(part)]
    if not layers:
        return ""
    held = {f"{n}.{name}": layer[name] for n, layer in enumerate(layers) for name in _ADAPTER if name in layer}
    scaled = {f"{n}.scale": mx.array(float(layer["scale"])) for n, layer in enumerate(layers) if "scale" in layer}
    kind = "dora" if any("m" in layer for layer in layers) else "lora"
    return f"{kind} {digest_of({**held, **scaled})}"


def _is_adapter(part: object) -> bool:
    return isinstance(part, nn.Module) and "lora_a" in part


def parameters(model: nn.Module) -> list[mx.array]:
    """Every parameter of a model."""
    return [part for part in _parts(model) if isinstance(part, mx.array)]


def checksum(model: nn.Module) -> str:
    """32 hex digits that differ where two models compute differently: base and tuned, with and without adapters.

    Every module counts by class, mode and plain attributes, an adapter's scale among them. Every parameter counts by
    name, dtype, shape, and the sums of its bits along rows and along columns, as integers of 16 bits (8 where numbers
    have 8) that wrap at 32: to change a weight changes a row's sum and a column's, to exchange two rows as well. It is
    made to tell models apart, not to withstand somebody who wants two to look alike. What begins with an underscore
    is left out, as in `model.parameters()`: modules keep there what they have worked out. So are the numbers of a
    `lora_a` whose `lora_b` is 0: they are random, and change nothing.

    Example:
        >>> one, other = nn.Linear(4, 4), nn.Linear(4, 4)
        >>> checksum(one) == checksum(other), checksum(one) == checksum(other.update(one.parameters()))
        (False, True)
    """
    whole = blake2b(digest_size=16)
    for path, module in sorted(model.named_modules(), key=lambda pair: pair[0]):
        whole.update(repr((path, type(module).__qualname__, module.training, _plain(module))).encode())
    named = cast("list[tuple[str, mx.array]]", tree_flatten(model.parameters()))
    _add_arrays(whole, sorted(named, key=lambda pair: pair[0]))
    return whole.hexdigest()


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


def _plain(module: nn.Module) -> list[tuple[str, object]]:
    return sorted((n, v) for n, v in vars(module).items() if type(v) in _PLAIN and not n.startswith("_"))


def _idle(named: Mapping[str, mx.array]) -> set[str]:
    """The names of each `lora_a` that its `lora_b`, which is 0, takes out of what is computed.

    mlx_lm begins an adapter so, with a random `lora_a`, and leaves it so in layers that the adapter's file lacks.
    """
    pairs = {name: named.get(f"{name[:-1]}b") for name in named if name.endswith("lora_a")}
    changing = {name: mx.any(b != 0) | ~mx.all(mx.isfinite(named[name])) for name, b in pairs.items() if b is not None}
    mx.eval(list(changing.values()))
    return {name for name, changes in changing.items() if not changes.item()}


def _sums(array: mx.array) -> list[mx.array]:
    if not array.size:
        return []
    rows = array.reshape(-1, array.shape[-1] if array.ndim else 1)
    bits = rows.view(mx.uint8 if array.dtype.size == 1 else mx.uint16)
    return [mx.sum(bits, axis=axis).astype(mx.uint32) for axis in (0, 1)]


def _add_arrays(whole: blake2b, named: Sequence[tuple[str, mx.array]]) -> None:
    idle = _idle(dict(named))
    found = [(path, array, [] if path in idle else _sums(array)) for path, array in named]
    mx.eval([sums for _, _, sums in found])
    for path, array, sums in found:
        whole.update(repr((path, str(array.dtype), array.shape)).encode())
        for one in sums:
            whole.update(np.array(one).tobytes())
