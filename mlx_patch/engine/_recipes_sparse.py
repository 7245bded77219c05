"""Recipes for attention in which each query gathers keys of its own.

A listener sees scores and pattern spread over all keys; keys that a query does not pick are masked. Without an edit the
gathered values stay bit for bit; an edit at a key that was not picked counts as at any other.
"""

import mlx.core as mx

from mlx_patch.engine._attention import attend, attention_weights
from mlx_patch.engine._key_order import refuse_dropped
from mlx_patch.engine._scope import Call, Listener, Mlx, Scope, rebound

_NAME = "_sparse_attention"


def sparse(listener: Listener, scope: Scope, call: Call) -> tuple[Scope, Call]:
    """Attention through DeepSeek V4.1's `_sparse_attention(queries, arrays, indices, sinks=, scale=)`.

    It runs with one query a batch entry, over the rows that the query's indices pick of each array; an index of -1
    picks none. Keys are the rows of one array behind those of the other. The first array is a window: rows before it
    stand for the positions that the cache has dropped, and no index picks them.
    """

    def _sparse_attention(queries, arrays, indices, **options):
        original = scope[_NAME]
        if listener.wants("rot_q"):
            queries = listener.emit("rot_q", queries)
        if not (listener.wants("attn_scores") or listener.wants("pattern")):
            return original(queries, arrays, indices, **options)
        dropped = _rows_dropped(call, arrays[0])
        arrays = [mx.pad(arrays[0], [(0, 0), (dropped, 0), (0, 0)]), *arrays[1:]]
        indices = [_moved(indices[0], dropped), *indices[1:]]
        rows = mx.concatenate(arrays, axis=1)
        gathered = _Gathered(listener, _side_by_side(arrays, indices), rows, dropped)
        fast = Mlx(mx.fast, scaled_dot_product_attention=gathered.attend)
        attention = rebound(original, {"mx": Mlx(fast=fast)})
        return attention(queries, arrays, indices, **options)

    return {_NAME: _sparse_attention}, call


def _rows_dropped(call: Call, window: mx.array) -> int:
    """The number of positions before those of a window, whose rows the call's cache has dropped."""
    args, kwargs = call
    caches = (value for value in (*args, *kwargs.values()) if hasattr(value, "update_window"))
    return max((cache.offset - window.shape[1] for cache in caches), default=0)


def _moved(indices: mx.array, start: int) -> mx.array:
    """Indices of rows behind `start` others; -1, for no row, stays."""
    return mx.where(indices < 0, -1, indices + start)


def _side_by_side(arrays: list[mx.array], indices: list[mx.array]) -> mx.array:
    """The indices of the rows picked of several arrays, as rows of one array behind the other."""
    moved, start = [], 0
    for array, index in zip(arrays, indices, strict=True):
        moved.append(_moved(index, start))
        start += array.shape[1]
    return mx.concatenate(moved, axis=-1)


def indexed(listener: Listener, scope: Scope, call: Call) -> tuple[Scope, Call]:
    """Attention to an indexer's picks: for a prompt through the mask, for a single token by `mx.take_along_axis`."""
    gathered: list[_Gathered] = []

    def take_along_axis(array, indices, *args, **kwargs):
        if not gathered:  # the latent, which is key and value; what follows are its rotated part and the mask
            gathered.append(_Gathered(listener, indices[..., 0], array[:, 0]))
        return mx.take_along_axis(array, indices, *args, **kwargs)

    def scaled_dot_product_attention(queries, keys, values, cache, scale, mask, sinks=None):
        if gathered:
            return gathered[0].attend(queries, keys, values, scale=scale, mask=mask, sinks=sinks)
        return attend(queries, keys, values, scale, mask, sinks, listener.emit)

    mlx = Mlx(take_along_axis=take_along_axis)
    return {"mx": mlx, "scaled_dot_product_attention": scaled_dot_product_attention}, call


class _Gathered:
    """Attention over picked rows, which its listener sees as attention over all rows.

    Args:
        listener: Sees `attn_scores` and `pattern`, arrays `(batch, head, query_pos, row)`.
        indices: The rows that each query picks, -1 for none. Shape `(batch, query_pos, picked)`.
        rows: The values that queries pick from. Shape `(batch, row, d_value)`.
        dropped: The number of first rows that the cache has dropped.
    """

    def __init__(self, listener: Listener, indices: mx.array, rows: mx.array, dropped: int = 0):
        self.listener, self.rows = listener, rows
        n_rows = rows.shape[1]
        self._present = None
        if dropped:
            self._present = mx.arange(n_rows) >= dropped
        self._queries = indices.shape[:2]
        # An index of -1 points behind the last row: `_spread` and `_gather` add a row there and leave it out again.
        self._slots = mx.where(indices < 0, n_rows, indices)[:, None]
        self._picked = self._spread(mx.ones(self._slots.shape, mx.bool_), False)
        self._scores: mx.array | None = None
        self._added: mx.array | None = None

    def attend(
        self,
        queries: mx.array,
        keys: mx.array,
        values: mx.array,
        *,
        scale: float,
        mask: mx.array | None = None,
        sinks: mx.array | None = None,
    ) -> mx.array:
        """The output of attention, with one query a batch entry. Shape `(batch * query_pos, head, 1, d_value)`."""

        def emit(event: str, gathered: mx.array) -> mx.array:
            by_query = gathered.reshape(*self._queries, *gathered.shape[1::2]).swapaxes(1, 2)
            if event == "attn_scores":
                new = self._emit_scores(by_query)
            else:
                new = self._emit_pattern(by_query, sinks)
            return new.swapaxes(1, 2).reshape(gathered.shape)

        out = attend(queries, keys, values, scale, mask, sinks, emit)
        if self._added is None:
            return out
        added = self._added.astype(out.dtype).swapaxes(1, 2)
        return out + added.reshape(out.shape)

    def _emit_scores(self, gathered: mx.array) -> mx.array:
        masked = float(mx.finfo(gathered.dtype).min)
        scores = self._spread(gathered, masked)
        new = self._emit("attn_scores", scores)
        if new is scores:
            return gathered
        self._scores = new
        return self._gather(new, masked)

    def _emit_pattern(self, gathered: mx.array, sinks: mx.array | None) -> mx.array:
        pattern = self._spread(gathered, 0.0)
        if self._scores is not None:
            pattern = self._with_edited_scores(pattern, self._scores, sinks)
        new = self._emit("pattern", pattern)
        if new is pattern and self._scores is None:
            return gathered
        # The model's own code sums over picked rows alone; `attend` adds the others' share.
        elsewhere = mx.where(self._picked, 0, new)
        self._added = elsewhere @ self.rows[:, None].astype(new.dtype)
        return self._gather(new, 0.0)

    def _with_edited_scores(self, pattern: mx.array, scores: mx.array, sinks: mx.array | None) -> mx.array:
        """The pattern of edited scores, in the queries where the edit unmasks a row that they did not pick."""
        unmasked = ~self._picked & (scores > float(mx.finfo(scores.dtype).min))
        changed_queries = mx.any(unmasked, axis=-1, keepdims=True)
        return mx.where(changed_queries, attention_weights(scores, sinks), pattern)

    def _emit(self, event: str, array: mx.array) -> mx.array:
        if not self.listener.wants(event):
            return array
        new = self.listener.emit(event, array)
        if new is not array and self._present is not None:
            refuse_dropped(event, new, self._present)
        return new

    def _spread(self, gathered: mx.array, fill: float) -> mx.array:
        """Values of the picked rows spread over all rows, `fill` elsewhere. From `(batch, head, query_pos, picked)`."""
        slots = mx.broadcast_to(self._slots, gathered.shape)
        n_rows = self.rows.shape[1]
        empty = mx.full((*gathered.shape[:-1], n_rows + 1), fill, gathered.dtype)
        return mx.put_along_axis(empty, slots, gathered, axis=-1)[..., :-1]

    def _gather(self, spread: mx.array, fill: float) -> mx.array:
        """The values of the picked rows, the reverse of `_spread`. Shape `(batch, head, query_pos, picked)`."""
        by_query = spread.shape[:-1]
        behind = mx.full((*by_query, 1), fill, spread.dtype)
        extended = mx.concatenate([spread, behind], axis=-1)
        slots = mx.broadcast_to(self._slots, (*by_query, self._slots.shape[-1]))
        return mx.take_along_axis(extended, slots, axis=-1)
