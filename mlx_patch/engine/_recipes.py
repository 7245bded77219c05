"""What happens inside a module's call: the call runs with its own globals, in which a few functions are ours.

The code is the module's own, so RoPE, q/k-norm, sinks, soft-caps and masks are as the model has them, and mlx_lm's
modules are not touched: the stand-ins live in a copy of the globals that only this one call sees. A recipe stands in
for the functions through which the wanted arrays pass.
"""

import builtins
from collections.abc import Callable
from types import FunctionType
from typing import Any

import mlx.core as mx
from mlx_lm.models.base import scaled_dot_product_attention as fused_attention

from mlx_patch.engine import _recipes_experts as experts
from mlx_patch.engine._attention import attend, dequantized
from mlx_patch.engine._fused_sums import fused_sums
from mlx_patch.engine._hook import SHARED_PAST
from mlx_patch.engine._key_order import in_order
from mlx_patch.engine._recipes_sparse import indexed, sparse
from mlx_patch.engine._scope import Call, Listener, Mlx, Scope, WithMethods, rebound
from mlx_patch.engine._shared_past import attend_shared, worth_it
from mlx_patch.errors import ArchitectureError


def stand_in(
    recipe: str, forward: Callable[..., Any], listener: Listener, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]:
    """A module's call with the stand-ins of a recipe, and its arguments.

    Raises:
        ArchitectureError: The call is not a Python function, or never mentions what the recipe stands in for.
    """
    if recipe not in _RECIPES:
        return forward, args, kwargs
    if not isinstance(forward, FunctionType):
        raise ArchitectureError(f"`{forward!r}` must be a Python function to be looked into. Compiled calls cannot be.")
    listener = in_order(listener, (args, kwargs))
    replaced, (args, kwargs) = _RECIPES[recipe](listener, forward.__globals__, (args, kwargs))
    missing = [name for name in replaced if name not in forward.__globals__ and not hasattr(builtins, name)]
    if missing:
        raise ArchitectureError(f"`{forward.__qualname__}` must use {missing[0]} for recipe {recipe!r}. It does not.")
    own = rebound(forward, replaced)
    if recipe in _IN_METHODS:
        return lambda module, *args, **kwargs: own(WithMethods(module, replaced), *args, **kwargs), args, kwargs
    return own, args, kwargs


def finish(recipe: str, listener: Listener, call: Call, out: Any) -> Any:
    """What a module returns, where a recipe wants or changes something of it."""
    return _ENDS[recipe](listener, call, out) if recipe in _ENDS else out


def hand_over(recipe: str, listener: Listener, call: Call, run: experts.Run, out: Any) -> Any:
    """What a module's caller gets, where a recipe wants to know what becomes of it."""
    return experts.handed_over(listener, call, run, out) if recipe == "experts" else out


def _sdpa(listener: Listener, scope: Scope, call: Call) -> tuple[Scope, Call]:
    """Attention through mlx_lm's `scaled_dot_product_attention`; the fused kernel unless scores are wanted."""
    fused = scope.get("scaled_dot_product_attention")
    fresh: set[str] = set()

    def by_position(event: str, array: Any) -> Any:
        return listener.emit(event, array.swapaxes(1, 2)).swapaxes(1, 2) if listener.wants(event) else array

    def on_fresh(
        event: str, array: Any
    ) -> Any:  # packed keys, with a quantised KV cache, where nobody wants to see them
        fresh.add(event)
        return by_position(event, array)

    def scaled_dot_product_attention(queries, keys, values, cache, scale, mask, sinks=None):
        queries = by_position("rot_q", queries)
        keys = keys if "rot_k" in fresh else on_fresh("rot_k", keys)
        values = values if "v" in fresh else on_fresh("v", values)
        if not (listener.wants("attn_scores") or listener.wants("pattern")):
            if listener.wants(SHARED_PAST) and worth_it(queries, keys, values, cache):
                return attend_shared(queries, cache, scale, mask, sinks)
            assert fused is not None
            more = {} if sinks is None else {"sinks": sinks}
            return fused(queries, keys, values, cache=cache, scale=scale, mask=mask, **more)
        keys, values = dequantized(keys, cache), dequantized(values, cache)
        return attend(queries, keys, values, scale, mask, sinks, listener.emit)

    if listener.wants("rot_k") or listener.wants("v"):
        call = _with_caches_watched(call, on_fresh)
    return {"scaled_dot_product_attention": scaled_dot_product_attention}, call


def _fast(listener: Listener, scope: Scope, call: Call) -> tuple[Scope, Call]:
    """Attention through `mx.fast.scaled_dot_product_attention`, which is not told of a cache."""
    replaced, call = _sdpa(listener, {"scaled_dot_product_attention": fused_attention}, call)

    def scaled_dot_product_attention(queries, keys, values, *, scale, mask=None, sinks=None):
        return replaced["scaled_dot_product_attention"](queries, keys, values, None, scale, mask, sinks)

    fast = Mlx(mx.fast, scaled_dot_product_attention=scaled_dot_product_attention)
    return {"mx": Mlx(fast=fast)}, call


def _softmax(listener: Listener, scope: Scope, call: Call) -> tuple[Scope, Call]:
    """Attention written out, with query heads grouped by KV head: `(batch, kv_head, repeat, query, key)`."""

    def softmax(scores, *args, **kwargs):
        by_head = (scores.shape[0], -1, *scores.shape[-2:])
        scores = listener.emit("attn_scores", scores.reshape(by_head)).reshape(scores.shape)
        pattern = mx.softmax(scores, *args, **kwargs)
        return listener.emit("pattern", pattern.reshape(by_head)).reshape(pattern.shape)

    return {"mx": Mlx(softmax=softmax)}, call


def _either(listener: Listener, scope: Scope, call: Call) -> tuple[Scope, Call]:
    """Attention through mlx_lm's function, or written out in a method."""
    replaced, call = _sdpa(listener, scope, call)
    return {**replaced, **_softmax(listener, scope, call)[0]}, call


def _capped(listener: Listener, scope: Scope, call: Call) -> tuple[Scope, Call]:
    """Attention through a function of the same file that caps scores softly and calls `mx.softmax`."""
    replaced, call = _softmax(listener, scope, call)
    return {"_softcap_attention": rebound(scope["_softcap_attention"], replaced)}, call


def _norms(listener: Listener, scope: Scope, call: Call) -> tuple[Scope, Call]:
    """A block whose norms are calls of `rms_norm`: the second one reads the stream between mixer and MLP."""
    names = iter(("resid_pre", "resid_mid"))

    def rms_norm(stream, *args, **kwargs):
        name = next(names)
        return scope["rms_norm"](stream if name == "resid_pre" else listener.emit(name, stream), *args, **kwargs)

    return {"rms_norm": rms_norm}, call


def _normed(listener: Listener, scope: Scope, call: Call) -> tuple[Scope, Call]:
    """A stack of blocks that first of all norms the embedding with a call of `rms_norm`."""
    names = iter(("embed", "final_norm"))

    def rms_norm(stream, *args, **kwargs):
        out = scope["rms_norm"](stream, *args, **kwargs)
        return listener.emit("embed", out) if next(names) == "embed" else out

    return {"rms_norm": rms_norm}, call


def _mixed(listener: Listener, scope: Scope, call: Call) -> tuple[Scope, Call]:
    """A block that mixes the stream with earlier ones for its parts: the second part reads that between the two."""
    names = iter(("resid_pre", "resid_mid"))

    def _attn_res_mix(earlier, stream, *args, **kwargs):
        stream = stream if next(names) == "resid_pre" else listener.emit("resid_mid", stream)
        return scope["_attn_res_mix"](earlier, stream, *args, **kwargs)

    return {"_attn_res_mix": _attn_res_mix}, call


_RECIPES: dict[str, Callable[[Listener, Scope, Call], tuple[Scope, Call]]] = {
    "sdpa": _sdpa,
    "fast": _fast,
    "softmax": _softmax,
    "capped": _capped,
    "norms": _norms,
    "mixed": _mixed,
    "normed": _normed,
    "select": experts.select,
    "gate": experts.gate,
    "loop": experts.loop,
    "sparse": sparse,
    "indexed": indexed,
    "inputs": experts.inputs,
    "given": experts.given,
    "fused_sums": fused_sums,
    "either": _either,
}

_IN_METHODS = ("either",)

_ENDS: dict[str, Callable[[Listener, Call, Any], Any]] = {
    "gate": experts.end_of_gate,
    "inputs": experts.end_of_inputs,
}


OnFresh = Callable[[str, mx.array], mx.array]
"""What is told of new keys and values, and may change them."""


class _WatchedCache:
    """A layer's KV cache that shows new keys and values to a function before it takes them in."""

    def __init__(self, cache: Any, on_fresh: OnFresh):
        object.__setattr__(self, "_cache", cache)
        object.__setattr__(self, "_on_fresh", on_fresh)

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> Any:
        return self._cache.update_and_fetch(self._on_fresh("rot_k", keys), self._on_fresh("v", values))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cache, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._cache, name, value)


def _with_caches_watched(call: Call, on_fresh: OnFresh) -> Call:
    args, kwargs = call
    return tuple(_watched(value, on_fresh) for value in args), {k: _watched(v, on_fresh) for k, v in kwargs.items()}


def _watched(value: Any, on_fresh: OnFresh) -> Any:  # a function of its own: one that held itself would hold captures
    if _takes_keys(value):
        return _WatchedCache(value, on_fresh)
    # A list of caches: attention's own is the first that takes keys; convolution states come before it, and what
    # an indexer keeps behind it.
    parts = getattr(value, "caches", ())
    first = next((part for part in parts if _takes_keys(part)), None)
    if first is None:
        return value
    return type(value)(*(_watched(part, on_fresh) if part is first else part for part in parts))


def _takes_keys(value: Any) -> bool:
    return hasattr(value, "update_and_fetch")
