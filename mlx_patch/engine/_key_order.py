"""The keys of a rotating KV cache in the order of their positions.

Once it is full, a single token takes the oldest key's place, so that the keys stand in no order: attention does not
care, but who reads or edits scores and patterns by key position does.
"""

from collections.abc import Iterator
from typing import Any

import mlx.core as mx
from mlx_lm.models.cache import RotatingKVCache

from mlx_patch.engine._scope import Call, Listener

_BY_KEY = ("attn_scores", "pattern")


def in_order(listener: Listener, call: Call) -> Listener:
    """A listener that is told of keys in the order of their positions, whatever order a call's cache keeps them in."""
    args, kwargs = call
    values = (*args, *kwargs.values())
    cache = next(_rotating(values), None) or _lent(listener, values)
    return listener if cache is None else _InOrder(listener, cache)


def _rotating(values: Any) -> Iterator[RotatingKVCache]:
    for value in values:
        if isinstance(value, RotatingKVCache):
            yield value
        elif not isinstance(value, mx.array):
            yield from _rotating(getattr(value, "caches", None) or ())


def _lent(listener: Listener, values: tuple[Any, ...]) -> RotatingKVCache | None:
    """The cache of another layer whose keys are among the values: `(keys, values)` of layers that share them."""
    given = [part for value in values if isinstance(value, tuple) for part in value]
    caches = _rotating(listener.caches)
    return next((cache for cache in caches if any(cache.keys is part for part in given)), None)


class _InOrder:
    def __init__(self, listener: Listener, cache: RotatingKVCache):
        self.module, self.notes, self.caches = listener.module, listener.notes, listener.caches
        self._listener, self._cache = listener, cache

    def wants(self, event: str) -> bool:
        return self._listener.wants(event)

    def emit(self, event: str, raw: Any) -> Any:
        order = self._order(raw.shape[-1]) if event in _BY_KEY and self.wants(event) else None
        if order is None:
            return self._listener.emit(event, raw)
        new = self._listener.emit(event, mx.take(raw, order, axis=-1))
        return mx.take(new, mx.argsort(order), axis=-1)

    def _order(self, keys: int) -> mx.array | None:
        """Where the keys stand, from the oldest to the newest; None where that is their order."""
        held = self._cache.keys
        if held is None or held.shape[2] != keys or self._cache._idx == keys:
            return None
        return self._cache._temporal_order(mx.arange(keys)[None, None, :, None]).reshape(-1)
