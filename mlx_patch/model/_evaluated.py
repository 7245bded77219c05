"""Arrays of a model that are computed in the thread that made them, so that any other thread can read them.

An array that is not yet evaluated belongs to the thread that made it: MLX evaluates it there or not at all. Models
hold such arrays: what mlx_lm loads with `lazy=True`, what an adapter begins with, the frequencies of rotary embeddings.
"""

from collections.abc import Iterator
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from mlx_patch.provenance import parameters


def evaluate(model: nn.Module) -> None:
    """Compute every array that the model holds, including its parameters; and MLX's random state.

    A new model has drawn weights. Where those of a file take their place they are never computed, and the state leads
    to every draw until it is computed itself: each load would leave some memory behind.
    """
    mx.eval(list(_arrays(model, set())), mx.random.state)


def evaluate_buffers(model: nn.Module) -> None:
    """Compute the arrays that are not parameters. Parameters may be on the disk and larger than memory."""
    parameter_ids = {id(array) for array in parameters(model)}
    mx.eval([array for array in _arrays(model, set()) if id(array) not in parameter_ids])


def _arrays(value: Any, visited: set[int]) -> Iterator[mx.array]:
    """Every array that a value leads to, through containers, modules and the attributes of plain objects."""
    if id(value) in visited or isinstance(value, type):
        return
    visited.add(id(value))
    if isinstance(value, mx.array):
        yield value
    for child in _children(value):
        yield from _arrays(child, visited)


def _children(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        yield from value.values()
    elif isinstance(value, list | tuple | set):
        yield from value
    if isinstance(value, nn.Module) or type(value).__module__.startswith("mlx_lm."):
        yield from getattr(value, "__dict__", {}).values()
