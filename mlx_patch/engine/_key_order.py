"""Keys at their absolute positions, whatever a KV cache with a window keeps of them, and in which order.

A rotating cache keeps the last keys only; once it is full, a single token takes the oldest key's place. A chunked
cache drops old keys too. Attention does not care, but who reads or edits scores and patterns by key position does. So
listeners are told of the keys of all positions, as without a prompt cache: those that are gone are masked.
"""

from collections.abc import Iterator
from typing import Any

import mlx.core as mx
from mlx_lm.models.cache import ChunkedKVCache, RotatingKVCache

from mlx_patch.engine._scope import Call, Listener
from mlx_patch.errors import SelectionError

_BY_KEY = ("attn_scores", "pattern")
_Windowed = RotatingKVCache | ChunkedKVCache


def in_order(listener: Listener, call: Call) -> Listener:
    """A listener that is told of the keys of all positions in their order, whatever a call's cache keeps of them."""
    args, kwargs = call
    values = (*args, *kwargs.values())
    cache = next(_windowed(values), None) or _lent(listener, values)
    return listener if cache is None else _AbsoluteKeys(listener, cache)


def _windowed(values: Any) -> Iterator[_Windowed]:
    for value in values:
        if isinstance(value, _Windowed):
            yield value
        elif not isinstance(value, mx.array):
            yield from _windowed(getattr(value, "caches", None) or ())


def _lent(listener: Listener, values: tuple[Any, ...]) -> _Windowed | None:
    """The cache of another layer whose keys are among the values: `(keys, values)` of layers that share them."""
    lent = [part for value in values if isinstance(value, tuple) for part in value]
    caches = _windowed(listener.caches)
    return next((cache for cache in caches if any(cache.keys is part for part in lent)), None)


class _AbsoluteKeys:
    def __init__(self, listener: Listener, cache: _Windowed):
        self.module, self.notes, self.caches = listener.module, listener.notes, listener.caches
        self._listener, self._cache = listener, cache

    def wants(self, event: str) -> bool:
        return self._listener.wants(event)

    def emit(self, event: str, raw: Any) -> Any:
        positions = self._positions(raw.shape[-1]) if event in _BY_KEY and self.wants(event) else None
        if positions is None:
            return self._listener.emit(event, raw)
        nothing = 0.0 if event == "pattern" else float(mx.finfo(raw.dtype).min)
        whole = mx.full((*raw.shape[:-1], self._cache.offset), nothing, raw.dtype)
        whole[..., positions] = raw
        new = self._listener.emit(event, whole)
        if new is whole:
            return raw
        kept = mx.zeros((self._cache.offset,), mx.bool_)
        kept[positions] = True
        refuse_dropped(event, new, kept)
        return mx.take(new, positions, axis=-1)

    def _positions(self, keys: int) -> mx.array | None:
        """The absolute position of each key; None where these are all keys, in their order."""
        cache = self._cache
        if cache.keys is None or keys > cache.offset:
            return None
        if isinstance(cache, ChunkedKVCache):
            start = cache.start_position
            return mx.arange(start, cache.offset) if 0 < start == cache.offset - keys else None
        if cache.keys.shape[2] != keys or (keys == cache.offset and cache._idx == keys):
            return None
        last = mx.arange(cache.offset - keys + cache.keep, cache.offset)
        in_time = mx.concatenate([mx.arange(cache.keep), last])
        places = cache._temporal_order(mx.arange(keys)[None, None, :, None]).reshape(-1)
        return mx.take(in_time, mx.argsort(places))


def refuse_dropped(event: str, new: mx.array, kept: mx.array) -> None:
    """Refuse an edit that attends to keys that a cache keeps no more.

    This looks at numbers in the middle of a run, as nothing else does: only an edit behind a window pays for it.

    Args:
        event: "attn_scores" or "pattern".
        new: What the edit made. Shape `(batch, head, query_pos, key_pos)`.
        kept: Which keys there are. Shape `(key_pos,)`.
    Raises:
        SelectionError: It does.
    """
    attends = new != 0 if event == "pattern" else new > float(mx.finfo(new.dtype).min) * 1e-3
    if mx.any(attends & ~kept).item():
        raise SelectionError(
            f"`edits` must not attend to keys that the prompt cache keeps no more. Got an edit at {event!r} that does, "
            f"behind a window that has dropped some of {kept.size} keys. "
            "Run the prompt without the prompt cache."
        )
