"""Access to values inside a module's call: the call runs with a copy of its globals, with a few functions replaced.

The code is the module's own, so RoPE, q/k-norm, sinks, soft-caps and masks are as the model has them, and mlx_lm's
modules are not touched: only this one call sees the copy. A recipe replaces the functions through which the arrays of
its sites pass.
"""

import builtins
from collections.abc import Callable
from types import FunctionType
from typing import Any, NoReturn

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
        raise ArchitectureError(
            f"`{forward!r}` must be a Python function, so that its values can be read. Got a compiled call."
        )
    listener = in_order(listener, (args, kwargs))
    replaced, (args, kwargs) = _RECIPES[recipe](listener, forward.__globals__, (args, kwargs))
    missing = [name for name in replaced if name not in forward.__globals__ and not hasattr(builtins, name)]
    if missing:
        raise ArchitectureError(f"`{forward.__qualname__}` must use {missing[0]} for recipe {recipe!r}. It does not.")
    bound = rebound(forward, replaced)
    if recipe in _IN_METHODS:
        return _with_methods(bound, replaced), args, kwargs
    return bound, args, kwargs


def _with_methods(bound: Callable[..., Any], replaced: Scope) -> Callable[..., Any]:
    """A call in which the module's other methods see the stand-ins too."""

    def forward(module: Any, *args: Any, **kwargs: Any) -> Any:
        return bound(WithMethods(module, replaced), *args, **kwargs)

    return forward


def finish(recipe: str, listener: Listener, call: Call, out: Any) -> Any:
    """A module's output after a recipe that reads or changes it."""
    if recipe in _ENDS:
        return _ENDS[recipe](listener, call, out)
    return out


def hand_over(recipe: str, listener: Listener, call: Call, run: experts.RunExperts, out: Any) -> Any:
    """A module's output for its caller, if a recipe observes what the caller does with it."""
    if recipe == "experts":
        return experts.hand_over(listener, call, run, out)
    return out


def _sdpa(listener: Listener, scope: Scope, call: Call) -> tuple[Scope, Call]:
    """Attention through mlx_lm's `scaled_dot_product_attention`; the fused kernel unless scores are wanted."""
    fused = scope.get("scaled_dot_product_attention")
    fresh: set[str] = set()

    def emit_by_position(event: str, array: Any) -> Any:
        if not listener.wants(event):  # with a quantised KV cache, such keys and values are tuples of packed arrays
            return array
        return listener.emit(event, array.swapaxes(1, 2)).swapaxes(1, 2)

    def on_fresh(event: str, array: Any) -> Any:
        fresh.add(event)
        return emit_by_position(event, array)

    def scaled_dot_product_attention(queries, keys, values, cache, scale, mask, sinks=None):
        queries = emit_by_position("rot_q", queries)
        if "rot_k" not in fresh:
            keys = on_fresh("rot_k", keys)
        if "v" not in fresh:
            values = on_fresh("v", values)
        if listener.wants("attn_scores") or listener.wants("pattern"):
            keys, values = dequantized(keys, cache), dequantized(values, cache)
            return attend(queries, keys, values, scale, mask, sinks, listener.emit)
        if listener.wants(SHARED_PAST) and worth_it(queries, keys, values, cache):
            return attend_shared(queries, cache, scale, mask, sinks)
        assert fused is not None
        with_sinks = {} if sinks is None else {"sinks": sinks}
        return fused(queries, keys, values, cache=cache, scale=scale, mask=mask, **with_sinks)

    if listener.wants("rot_k") or listener.wants("v"):
        call = _with_watched_caches(call, on_fresh)
    return {"scaled_dot_product_attention": scaled_dot_product_attention}, call


def _fast(listener: Listener, scope: Scope, call: Call) -> tuple[Scope, Call]:
    """Attention through `mx.fast.scaled_dot_product_attention`, which takes no cache."""
    replaced, call = _sdpa(listener, {"scaled_dot_product_attention": fused_attention}, call)

    def scaled_dot_product_attention(queries, keys, values, *, scale, mask=None, sinks=None):
        return replaced["scaled_dot_product_attention"](queries, keys, values, None, scale, mask, sinks)

    fast = Mlx(mx.fast, scaled_dot_product_attention=scaled_dot_product_attention)
    return {"mx": Mlx(fast=fast)}, call


def _softmax(listener: Listener, scope: Scope, call: Call) -> tuple[Scope, Call]:
    """Attention written out, with query heads grouped by KV head: `(batch, kv_head, repeat, query, key)`."""

    def emit_by_head(event: str, array: mx.array) -> mx.array:
        by_head = array.reshape(array.shape[0], -1, *array.shape[-2:])
        return listener.emit(event, by_head).reshape(array.shape)

    def softmax(scores, *args, **kwargs):
        scores = emit_by_head("attn_scores", scores)
        pattern = mx.softmax(scores, *args, **kwargs)
        return emit_by_head("pattern", pattern)

    return {"mx": Mlx(softmax=softmax)}, call


def _either(listener: Listener, scope: Scope, call: Call) -> tuple[Scope, Call]:
    """Attention through mlx_lm's function, or written out in a method."""
    for_sdpa, call = _sdpa(listener, scope, call)
    for_softmax, call = _softmax(listener, scope, call)
    return {**for_sdpa, **for_softmax}, call


def _capped(listener: Listener, scope: Scope, call: Call) -> tuple[Scope, Call]:
    """Attention through a function of the same file that caps scores softly and calls `mx.softmax`."""
    replaced, call = _softmax(listener, scope, call)
    return {"_softcap_attention": rebound(scope["_softcap_attention"], replaced)}, call


def _norms(listener: Listener, scope: Scope, call: Call) -> tuple[Scope, Call]:
    """A block whose norms are calls of `rms_norm`: the second one reads the stream between mixer and MLP."""
    names = iter(("resid_pre", "resid_mid"))

    def rms_norm(stream, *args, **kwargs):
        name = next(names)
        if name == "resid_mid":
            stream = listener.emit(name, stream)
        return scope["rms_norm"](stream, *args, **kwargs)

    return {"rms_norm": rms_norm}, call


def _normed(listener: Listener, scope: Scope, call: Call) -> tuple[Scope, Call]:
    """A stack of blocks that starts with a call of `rms_norm` on the embedding."""
    names = iter(("embed", "final_norm"))

    def rms_norm(stream, *args, **kwargs):
        normed = scope["rms_norm"](stream, *args, **kwargs)
        if next(names) == "embed":
            return listener.emit("embed", normed)
        return normed

    return {"rms_norm": rms_norm}, call


def _mixed(listener: Listener, scope: Scope, call: Call) -> tuple[Scope, Call]:
    """A block that mixes the stream with earlier ones, first for its mixer, then, as `resid_mid`, for its MLP."""
    names = iter(("resid_pre", "resid_mid"))

    def _attn_res_mix(earlier, stream, *args, **kwargs):
        if next(names) == "resid_mid":
            stream = listener.emit("resid_mid", stream)
        return scope["_attn_res_mix"](earlier, stream, *args, **kwargs)

    return {"_attn_res_mix": _attn_res_mix}, call


INDICES = ("argmax", "argmin", "argpartition", "argsort")
"""The functions of MLX that sort indices out of values."""

ROUNDING: dict[str, str] = {
    "fake_8bit_quant": "AFM 7's keys and values, which are rounded to 8 bits",
    "_fake_quant_fp8": "DeepSeek V4.1's keys and values, which are rounded to 8 bits",
}
"""Functions of mlx_lm that round in the forward pass, so that they have no gradient but 0: what is rounded."""


def _differentiated(listener: Listener, scope: Scope, call: Call) -> tuple[Scope, Call]:
    """A module while gradients are taken: sorted indices are constants, as elsewhere in mlx_lm; rounding is refused."""
    replaced: dict[str, Any] = {name: _refusing(scope[name], ROUNDING[name]) for name in ROUNDING if name in scope}
    library = scope.get("mx", mx)  # another recipe's, if there is one
    if "mx" in scope:
        replaced["mx"] = Mlx(library, **{name: _stopped(getattr(library, name)) for name in INDICES})
    return replaced, call


def _stopped(function: Callable[..., mx.array]) -> Callable[..., mx.array]:
    return lambda *args, **kwargs: mx.stop_gradient(function(*args, **kwargs))


def _refusing(function: Callable[..., mx.array], rounded: str) -> Callable[..., Any]:
    """A function that refuses to be differentiated by its first argument."""

    def round_once(values: mx.array, *args: Any, **kwargs: Any) -> Any:
        forward: Any = mx.custom_function(lambda values: function(values, *args, **kwargs))

        @forward.vjp
        def refuse(primals: Any, cotangents: Any, outputs: Any) -> NoReturn:
            raise ArchitectureError(
                f"`model` must be differentiable from the site to the logits. Got {rounded}: that has no gradient. "
                "Choose sites behind the last attention."
            )

        return forward(values)

    return round_once


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
    "differentiated": _differentiated,
}

_IN_METHODS = ("either",)

_ENDS: dict[str, Callable[[Listener, Call, Any], Any]] = {
    "gate": experts.end_of_gate,
    "inputs": experts.end_of_inputs,
}


OnFresh = Callable[[str, mx.array], mx.array]
"""Called with "rot_k" or "v" and new keys or values; returns those that the cache takes in."""


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


def _with_watched_caches(call: Call, on_fresh: OnFresh) -> Call:
    args, kwargs = call
    watched_args = tuple(_watched(value, on_fresh) for value in args)
    watched_kwargs = {name: _watched(value, on_fresh) for name, value in kwargs.items()}
    return watched_args, watched_kwargs


# Not nested in `_sdpa`: it calls itself, and a closure that holds itself keeps captures until garbage is collected.
def _watched(value: Any, on_fresh: OnFresh) -> Any:
    if _takes_keys(value):
        return _WatchedCache(value, on_fresh)
    # In a list of caches, attention's is the first that takes keys: convolution states come before it, an indexer's
    # keys behind it.
    caches = list(getattr(value, "caches", ()))
    for number, cache in enumerate(caches):
        if _takes_keys(cache):
            caches[number] = _watched(cache, on_fresh)
            return type(value)(*caches)
    return value


def _takes_keys(value: Any) -> bool:
    return hasattr(value, "update_and_fetch")
