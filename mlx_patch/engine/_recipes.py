"""What happens inside a module's call: the call runs with its own globals, in which a few functions are ours.

The code is the module's own, so RoPE, q/k-norm, sinks, soft-caps and masks are as the model has them, and mlx_lm's
modules are not touched: the stand-ins live in a copy of the globals that only this one call sees. A recipe stands in
for the functions through which the wanted arrays pass.
"""

from collections.abc import Callable, Mapping
from types import FunctionType
from typing import Any, Protocol, runtime_checkable

import mlx.core as mx

from mlx_patch.engine._attention import attend, dequantized
from mlx_patch.errors import ArchitectureError


@runtime_checkable
class Listener(Protocol):
    """Who wants to know what happens inside."""

    def wants(self, event: str) -> bool:
        """Whether anyone waits for an event."""
        ...

    def emit(self, event: str, raw: Any) -> Any:
        """The array after those who wait for it."""
        ...


Scope = Mapping[str, Any]
Call = tuple[tuple[Any, ...], dict[str, Any]]


def stand_in(
    recipe: str, forward: Callable[..., Any], listener: Listener, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]:
    """A module's call with the stand-ins of a recipe, and its arguments.

    Raises:
        ArchitectureError: The call is not a Python function, or never mentions what the recipe stands in for.
    """
    if not isinstance(forward, FunctionType):
        raise ArchitectureError(f"`{forward!r}` must be a Python function to be looked into. Compiled calls cannot be.")
    replaced, (args, kwargs) = _RECIPES[recipe](listener, forward.__globals__, (args, kwargs))
    missing = [name for name in replaced if name not in forward.__globals__]
    if missing:
        raise ArchitectureError(f"`{forward.__qualname__}` must use {missing[0]} for recipe {recipe!r}. It does not.")
    scope = {**forward.__globals__, **replaced}
    bound = FunctionType(forward.__code__, scope, forward.__name__, forward.__defaults__, forward.__closure__)
    bound.__kwdefaults__ = forward.__kwdefaults__
    return bound, args, kwargs


def _sdpa(listener: Listener, scope: Scope, call: Call) -> tuple[Scope, Call]:
    """Attention through mlx_lm's `scaled_dot_product_attention`; the fused kernel unless scores are wanted."""
    fused = scope.get("scaled_dot_product_attention")
    keys_seen: list[bool] = []

    def by_position(event: str, array: Any) -> Any:
        return listener.emit(event, array.swapaxes(1, 2)).swapaxes(1, 2) if listener.wants(event) else array

    def on_keys(keys: Any) -> Any:  # packed ones, with a quantised KV cache, where nobody wants to see them
        keys_seen.append(True)
        return by_position("rot_k", keys)

    def scaled_dot_product_attention(queries, keys, values, cache, scale, mask, sinks=None):
        queries = by_position("rot_q", queries)
        keys = keys if keys_seen else on_keys(keys)
        if not (listener.wants("attn_scores") or listener.wants("pattern")):
            assert fused is not None
            more = {} if sinks is None else {"sinks": sinks}
            return fused(queries, keys, values, cache=cache, scale=scale, mask=mask, **more)
        keys, values = dequantized(keys, cache), dequantized(values, cache)
        return attend(queries, keys, values, scale, mask, sinks, listener.emit)

    if listener.wants("rot_k"):
        call = _with_caches_watched(call, on_keys)
    return {"scaled_dot_product_attention": scaled_dot_product_attention}, call


def _softmax(listener: Listener, scope: Scope, call: Call) -> tuple[Scope, Call]:
    """Attention written out, with query heads grouped by KV head: `(batch, kv_head, repeat, query, key)`."""

    def softmax(scores, *args, **kwargs):
        by_head = (scores.shape[0], -1, *scores.shape[-2:])
        scores = listener.emit("attn_scores", scores.reshape(by_head)).reshape(scores.shape)
        pattern = mx.softmax(scores, *args, **kwargs)
        return listener.emit("pattern", pattern.reshape(by_head)).reshape(pattern.shape)

    return {"mx": _Mlx(softmax=softmax)}, call


def _experts(listener: Listener, scope: Scope, call: Call) -> tuple[Scope, Call]:
    """Experts chosen by `mx.take_along_axis` and weighed by `mx.softmax`; spread over all experts for the listener."""
    chosen: list[tuple[mx.array, tuple[int, ...]]] = []

    def take_along_axis(array, indices, *args, **kwargs):
        chosen.append((indices, array.shape))
        return mx.take_along_axis(array, indices, *args, **kwargs)

    def softmax(scores, *args, **kwargs):
        weights = mx.softmax(scores, *args, **kwargs)
        indices, shape = chosen[-1]
        spread = mx.put_along_axis(mx.zeros(shape, weights.dtype), indices, weights, axis=-1)
        return mx.take_along_axis(listener.emit("expert_weights", spread), indices, axis=-1)

    return {"mx": _Mlx(take_along_axis=take_along_axis, softmax=softmax)}, call


_RECIPES: dict[str, Callable[[Listener, Scope, Call], tuple[Scope, Call]]] = {
    "sdpa": _sdpa,
    "softmax": _softmax,
    "experts": _experts,
}


class _Mlx:
    """`mlx.core` with a few functions that are ours."""

    def __init__(self, **ours: Callable[..., Any]):
        self.__dict__.update(ours)

    def __getattr__(self, name: str) -> Any:
        return getattr(mx, name)


class _WatchedCache:
    """A layer's KV cache that shows new keys to a function before it takes them in."""

    def __init__(self, cache: Any, on_keys: Callable[[mx.array], mx.array]):
        object.__setattr__(self, "_cache", cache)
        object.__setattr__(self, "_on_keys", on_keys)

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> Any:
        return self._cache.update_and_fetch(self._on_keys(keys), values)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cache, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._cache, name, value)


def _with_caches_watched(call: Call, on_keys: Callable[[mx.array], mx.array]) -> Call:
    def watched(value: Any) -> Any:
        return _WatchedCache(value, on_keys) if hasattr(value, "update_and_fetch") else value

    args, kwargs = call
    return tuple(map(watched, args)), {name: watched(value) for name, value in kwargs.items()}
