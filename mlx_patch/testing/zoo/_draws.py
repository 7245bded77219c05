"""Drawn configurations: seeded changes of the zoo's own, of which mlx_lm's own classes decide what is kept."""

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

from mlx_patch.errors import ArchitectureError
from mlx_patch.testing.zoo._build import Precision, built, module_of, species
from mlx_patch.testing.zoo._changes import CHANGES, Config, ConfigChange, is_sound

_TRIES = 64
_MOST = 4_000_000
"""Parameters: a default that makes a model larger is not tiny."""

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
"""What mlx_lm's own code raises for a configuration that it does not take."""


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
    known = _fields(name)
    for changes, changed in _series(name, number):
        if changed != config and is_sound({**known, **_flat(_text(changed))}) and _takes(name, changed):
            return Draw(name, number, changes, changed)
    raise ArchitectureError(f"`name` must be a model of which other configurations run. Got {name!r}.")


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
    return built(species(name)[0], draw(name, number).config, precision, seed)


def _series(name: str, number: int) -> Iterator[tuple[tuple[str, ...], Config]]:
    """Changed configurations: one change by turns, and some of the others, fewer and fewer."""
    random, config = Random(f"{name} {number}"), species(name)[1]
    known = _fields(name)
    able = [change for change in CHANGES if _changed(config, known, [change], Random(0)) != config]
    Random(name).shuffle(able)
    for turn in range(_TRIES):
        first = able[(number + turn // 8) % len(able)]
        more = random.sample(able, min(len(able), max(0, 3 - turn % 4)))
        chosen = [change for change in CHANGES if change is first or change in more]
        yield tuple(change.__name__ for change in chosen), _changed(config, known, chosen, random)


def _changed(config: Config, known: Mapping[str, Any], changes: Iterable[ConfigChange], random: Random) -> Config:
    changed = deepcopy(config)
    for change in changes:
        flat = _flat(_text(changed))
        for field, value in change(flat, {**known, **flat}, random).items():
            _holder(_text(changed), field)[field] = value
    return changed


def _text(config: Config) -> Config:
    return config.get("text_config", config)


def _flat(config: Config) -> Config:
    """The fields with those of the parts that are tables of their own."""
    nested = {field: value for name in _NESTED for field, value in config.get(name, {}).items()}
    return {**config, **nested}


def _holder(config: Config, field: str) -> Config:
    return next((config[name] for name in _NESTED if field in config.get(name, {})), config)


def _fields(name: str) -> dict[str, Any]:
    """The fields of the class that takes a configuration, with their defaults (`...` where there is none)."""
    module, config = species(name)
    text = _text(config)
    classes = [kind for of in _modules(module, text) for kind in vars(of).values() if isinstance(kind, type)]
    kinds = [{field.name: _default(field) for field in fields(kind)} for kind in classes if is_dataclass(kind)]
    return max(kinds, key=lambda known: len(known.keys() & text.keys()))


def _modules(module: str, text: Config) -> Iterator[ModuleType]:
    yield module_of(module)
    inner = f"mlx_lm.models.{text.get('model_type', module)}"
    if find_spec(inner):
        yield import_module(inner)


def _default(field: Any) -> Any:
    return ... if field.default is MISSING else field.default


def _takes(name: str, config: Config) -> bool:
    """Whether mlx_lm's own class takes a configuration."""
    try:
        model = built(species(name)[0], config, most=_MOST)
        logits = model(_TOKENS)
        return bool(mx.all(mx.isfinite(logits)).item())
    except _REFUSED:
        return False
