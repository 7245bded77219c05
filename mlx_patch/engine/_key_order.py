"""Scores and patterns by absolute key position, for KV caches with a window, which drop and reorder keys.

A rotating cache keeps the last keys only; once it is full, a single token takes the oldest key's place. A chunked
cache drops old keys too. Attention does not depend on their order, but a reader or an edit that picks key positions
does. So listeners see the keys of all positions, as without a prompt cache: dropped ones are masked.
"""

from collections.abc import Iterator
from typing import Any

import mlx.core as mx
from mlx_lm.models.cache import ChunkedKVCache, RotatingKVCache

from mlx_patch.engine._scope import Call, Listener
from mlx_patch.errors import SelectionError, shown

_BY_KEY = ("attn_scores", "pattern")
_Windowed = RotatingKVCache | ChunkedKVCache


def in_order(listener: Listener, call: Call) -> Listener:
    """A listener that sees the keys of all positions in their order, whichever ones the call's cache keeps."""
    args, kwargs = call
    values = (*args, *kwargs.values())
    cache = next(_windowed_caches(values), None) or _lending_cache(listener, values)
    if cache is None:
        return listener
    return _AbsoluteKeys(listener, cache)


def _windowed_caches(values: Any) -> Iterator[_Windowed]:
    for value in values:
        if isinstance(value, _Windowed):
            yield value
        elif not isinstance(value, mx.array):
            yield from _windowed_caches(getattr(value, "caches", None) or ())


def _lending_cache(listener: Listener, values: tuple[Any, ...]) -> _Windowed | None:
    """The cache of another layer whose keys are among the values: `(keys, values)` of layers that share them."""
    lent_arrays = [array for value in values if isinstance(value, tuple) for array in value]
    for cache in _windowed_caches(listener.caches):
        if any(cache.keys is array for array in lent_arrays):
            return cache
    return None


class _AbsoluteKeys:
    """A listener that hands another one scores and patterns over the keys of all positions."""

    def __init__(self, listener: Listener, cache: _Windowed):
        self.module = listener.module
        self.notes = listener.notes
        self.caches = listener.caches
        self._listener = listener
        self._cache = cache

    def wants(self, event: str) -> bool:
        return self._listener.wants(event)

    def emit(self, event: str, raw: Any) -> Any:
        positions = None
        if event in _BY_KEY and self.wants(event):
            positions = self._positions(raw.shape[-1])
        if positions is None:
            return self._listener.emit(event, raw)
        n_positions = self._cache.offset
        all_keys = mx.full((*raw.shape[:-1], n_positions), _masked_value(event, raw.dtype), raw.dtype)
        all_keys[..., positions] = raw
        new = self._listener.emit(event, all_keys)
        if new is all_keys:
            return raw
        present = mx.zeros((n_positions,), mx.bool_)
        present[positions] = True
        refuse_dropped(event, new, present)
        return mx.take(new, positions, axis=-1)

    def _positions(self, keys: int) -> mx.array | None:
        """The absolute position of each key; None where these are all keys, in their order."""
        cache = self._cache
        if cache.keys is None or keys > cache.offset:
            return None
        if isinstance(cache, ChunkedKVCache):
            if 0 < cache.start_position == cache.offset - keys:
                return mx.arange(cache.start_position, cache.offset)
            return None
        if cache.keys.shape[2] != keys or (keys == cache.offset and cache._idx == keys):
            return None
        return _rotated_positions(cache, keys)


def _rotated_positions(cache: RotatingKVCache, keys: int) -> mx.array:
    """The absolute position in each slot of a rotating cache. Shape `(key,)`."""
    first_kept = cache.offset - keys + cache.keep
    in_time = mx.concatenate([mx.arange(cache.keep), mx.arange(first_kept, cache.offset)])
    # Let the cache itself put the numbers of its slots in temporal order, then invert that order.
    slots = cache._temporal_order(mx.arange(keys)[None, None, :, None])
    return mx.take(in_time, mx.argsort(slots.reshape(-1)))


def _masked_value(event: str, dtype: mx.Dtype) -> float:
    """The score or the weight of a key that attention does not see."""
    if event == "pattern":
        return 0.0
    return float(mx.finfo(dtype).min)


def refuse_dropped(event: str, new: mx.array, present: mx.array) -> None:
    """Refuse an edit that attends to keys that a cache has dropped.

    This reads numbers in the middle of a run, as nothing else does: only an edit behind a window pays for it.

    Args:
        event: "attn_scores" or "pattern".
        new: The edited array. Shape `(batch, head, query_pos, key_pos)`.
        present: Whether the cache still has each key. Shape `(key_pos,)`.
    Raises:
        SelectionError: It does.
    """
    if event == "pattern":
        attends = new != 0
    else:
        attends = new > _masked_value(event, new.dtype) * 1e-3
    if mx.any(attends & ~present).item():
        raise SelectionError(
            "`edits` must not attend to keys that the prompt cache no longer holds. Got such an edit at "
            f"{shown(event)}: "
            f"the window has dropped some of {present.size} keys. Run the prompt without the prompt cache."
        )
