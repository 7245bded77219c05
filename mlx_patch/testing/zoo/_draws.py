"""Drawn configurations: seeded changes of those of the zoo, of which mlx_lm's own classes accept some."""

from collections.abc import Iterable, Iterator, Mapping
from copy import deepcopy
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from random import Random
from types import ModuleType
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from mlx_patch.errors import ArchitectureError, shown
from mlx_patch.testing.zoo._build import Precision, built, module_of, species
from mlx_patch.testing.zoo._changes import CHANGES, Config, ConfigChange, is_sound

_TRIES = 64
_MAX_PARAMETERS = 4_000_000
"""A default that makes a model larger is not tiny."""

_TOKENS = mx.array([[11, 48, 85, 26, 63, 4, 41, 78]])
_NESTED = ("attn_config", "ffn_config", "linear_attn_config")
_REFUSED = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    RuntimeError,
    StopIteration,
    TypeError,
    ValueError,
)
"""Errors of mlx_lm's own code for a configuration that it does not take."""


DRAW_EXCEPTIONS: Mapping[str, tuple[int, str]] = {
    "plamo3": (
        9,
        "mlx_lm's mask lets a token see one position more than its prompt cache keeps, so where the window is shorter "
        "than the prompt its own logits differ when the prompt is split",
    ),
}
"""Models of the zoo of which a law does not hold in some configurations: the law, and the reason as a clause."""


@dataclass(frozen=True)
class Draw:
    """A drawn configuration.

    Attributes:
        name: The model of the zoo that it changes.
        number: Which draw.
        changes: The names of the changes, in order.
        config: The arguments of mlx_lm's `ModelArgs`.
    """

    name: str
    number: int
    changes: tuple[str, ...]
    config: Config


@cache
def draw(name: str, number: int) -> Draw:
    """A configuration drawn from one of the zoo's: the first of a seeded series that mlx_lm's own class takes.

    It takes one if it builds a tiny model of it whose forward pass of 8 tokens gives finite numbers.

    Args:
        name: A key of `ZOO`.
        number: The seed. Equal numbers give equal configurations.
    Raises:
        UnknownNameError: There is no such model.
        ArchitectureError: None of 64 is taken.
    """
    config = species(name)[1]
    defaults = _fields(name)
    for changes, changed in _series(name, number):
        if changed == config:
            continue
        fields_with_defaults = {**defaults, **_flat(_text(changed))}
        if is_sound(fields_with_defaults) and _takes(name, changed):
            return Draw(name, number, changes, changed)
    raise ArchitectureError(f"`name` must be a model of which other configurations run. Got {shown(name)}.")


def drawn_model(name: str, number: int, precision: Precision = "float32", seed: int = 0) -> nn.Module:
    """A tiny model of a drawn configuration.

    Args:
        name: A key of `ZOO`.
        number: Which draw.
        precision: As for `tiny_model`.
        seed: For the weights.
    Raises:
        UnknownNameError, ArchitectureError: As for `draw`.
    """
    module_name = species(name)[0]
    return built(module_name, draw(name, number).config, precision, seed)


def _series(name: str, number: int) -> Iterator[tuple[tuple[str, ...], Config]]:
    """Changed configurations: each change in turn, together with fewer and fewer of the others."""
    random = Random(f"{name} {number}")
    config = species(name)[1]
    defaults = _fields(name)
    effective = [change for change in CHANGES if _apply(config, defaults, [change], Random(0)) != config]
    Random(name).shuffle(effective)
    for turn in range(_TRIES):
        first = effective[(number + turn // 8) % len(effective)]
        n_others = min(len(effective), max(0, 3 - turn % 4))
        others = random.sample(effective, n_others)
        chosen = [change for change in CHANGES if change is first or change in others]
        names = tuple(change.__name__ for change in chosen)
        yield names, _apply(config, defaults, chosen, random)


def _apply(config: Config, defaults: Mapping[str, Any], changes: Iterable[ConfigChange], random: Random) -> Config:
    """A configuration with some changes, made one after the other."""
    changed = deepcopy(config)
    for change in changes:
        flat = _flat(_text(changed))
        for field, value in change(flat, {**defaults, **flat}, random).items():
            _holder(_text(changed), field)[field] = value
    return changed


def _text(config: Config) -> Config:
    return config.get("text_config", config)


def _flat(config: Config) -> Config:
    """The fields, together with those of nested tables."""
    flat = dict(config)
    for name in _NESTED:
        flat |= config.get(name, {})
    return flat


def _holder(config: Config, field: str) -> Config:
    """The table that holds a field: a nested one, or the configuration itself."""
    for name in _NESTED:
        if field in config.get(name, {}):
            return config[name]
    return config


def _fields(name: str) -> dict[str, Any]:
    """The fields of the class that takes a configuration, with their defaults (`...` where there is none)."""
    module, config = species(name)
    text = _text(config)
    candidates: list[dict[str, Any]] = []
    for mlx_lm_module in _modules(module, text):
        for value in vars(mlx_lm_module).values():
            if isinstance(value, type) and is_dataclass(value):
                candidates.append({field.name: _default(field) for field in fields(value)})
    return max(candidates, key=lambda defaults: len(defaults.keys() & text.keys()))


def _modules(module: str, text: Config) -> Iterator[ModuleType]:
    yield module_of(module)
    inner = f"mlx_lm.models.{text.get('model_type', module)}"
    if find_spec(inner):
        yield import_module(inner)


def _default(field: Any) -> Any:
    if field.default is MISSING:
        return ...
    return field.default


def _takes(name: str, config: Config) -> bool:
    """Whether mlx_lm's own class takes a configuration."""
    try:
        model = built(species(name)[0], config, max_parameters=_MAX_PARAMETERS)
        logits = model(_TOKENS)
        return bool(mx.all(mx.isfinite(logits)).item())
    except _REFUSED:
        return False
