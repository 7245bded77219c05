"""Recipes for attention in which each query gathers keys of its own.

A listener sees scores and pattern spread over all keys, with what a query does not pick masked. What nobody changes
stays as it was gathered, bit for bit; what is changed at a key that was not picked counts as at any other.
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
    stand for the positions that are gone, and nothing picks them.
    """

    def _sparse_attention(queries, arrays, indices, **more):
        queries = listener.emit("rot_q", queries) if listener.wants("rot_q") else queries
        if not (listener.wants("attn_scores") or listener.wants("pattern")):
            return scope[_NAME](queries, arrays, indices, **more)
        gone = _rows_gone(call, arrays[0])
        arrays = [mx.pad(arrays[0], [(0, 0), (gone, 0), (0, 0)]), *arrays[1:]]
        indices = [mx.where(indices[0] < 0, -1, indices[0] + gone), *indices[1:]]
        gathered = _Gathered(listener, _side_by_side(arrays, indices), mx.concatenate(arrays, axis=1), gone)
        fast = Mlx(mx.fast, scaled_dot_product_attention=gathered.attend)
        return rebound(scope[_NAME], {"mx": Mlx(fast=fast)})(queries, arrays, indices, **more)

    return {_NAME: _sparse_attention}, call


def _rows_gone(call: Call, window: mx.array) -> int:
    """How many positions came before those of a window, of which the call's cache has the rows no more."""
    args, kwargs = call
    caches = (value for value in (*args, *kwargs.values()) if hasattr(value, "update_window"))
    return max((cache.offset - window.shape[1] for cache in caches), default=0)


def _side_by_side(arrays: list[mx.array], indices: list[mx.array]) -> mx.array:
    """Which rows are picked of several arrays, as rows of one array behind the other."""
    moved, before = [], 0
    for array, index in zip(arrays, indices, strict=True):
        moved.append(mx.where(index < 0, -1, index + before))
        before += array.shape[1]
    return mx.concatenate(moved, axis=-1)


def indexed(listener: Listener, scope: Scope, call: Call) -> tuple[Scope, Call]:
    """Attention on what an indexer picks: for a prompt through the mask, for a single token by `mx.take_along_axis`."""
    picked: list[_Gathered] = []

    def take_along_axis(array, indices, *args, **kwargs):
        if not picked:  # the latent, which is key and value; what follows are its rotated part and the mask
            picked.append(_Gathered(listener, indices[..., 0], array[:, 0]))
        return mx.take_along_axis(array, indices, *args, **kwargs)

    def scaled_dot_product_attention(queries, keys, values, cache, scale, mask, sinks=None):
        if picked:
            return picked[0].attend(queries, keys, values, scale=scale, mask=mask, sinks=sinks)
        return attend(queries, keys, values, scale, mask, sinks, listener.emit)

    ours = {"mx": Mlx(take_along_axis=take_along_axis), "scaled_dot_product_attention": scaled_dot_product_attention}
    return ours, call


class _Gathered:
    """Attention over picked rows, told as attention over all of them.

    Args:
        listener: Who is told of `attn_scores` and `pattern`, arrays `(batch, head, query_pos, row)`.
        indices: The rows that each query picks, -1 for none. Shape `(batch, query_pos, picked)`.
        rows: What is picked from, the values. Shape `(batch, row, d_value)`.
        gone: How many of the rows, the first ones, are no more.
    """

    def __init__(self, listener: Listener, indices: mx.array, rows: mx.array, gone: int = 0):
        self.listener, self.rows = listener, rows
        self._kept = mx.arange(rows.shape[1]) >= gone if gone else None
        self._queries = indices.shape[:2]
        self._at = mx.where(indices < 0, rows.shape[1], indices)[:, None]
        self._picked = self._spread(mx.ones(self._at.shape, mx.bool_), False)
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
        """What attention returns, with one query a batch entry. Shape `(batch * query_pos, head, 1, d_value)`."""

        def emit(event: str, gathered: mx.array) -> mx.array:
            by_query = gathered.reshape(*self._queries, *gathered.shape[1::2]).swapaxes(1, 2)
            new = self._scores_told(by_query) if event == "attn_scores" else self._pattern_told(by_query, sinks)
            return new.swapaxes(1, 2).reshape(gathered.shape)

        out = attend(queries, keys, values, scale, mask, sinks, emit)
        if self._added is None:
            return out
        return out + self._added.astype(out.dtype).swapaxes(1, 2).reshape(out.shape)

    def _scores_told(self, gathered: mx.array) -> mx.array:
        masked = float(mx.finfo(gathered.dtype).min)
        scores = self._spread(gathered, masked)
        new = self._emitted("attn_scores", scores)
        if new is scores:
            return gathered
        self._scores = new
        return self._gathered(new, masked)

    def _pattern_told(self, gathered: mx.array, sinks: mx.array | None) -> mx.array:
        pattern = self._spread(gathered, 0.0)
        if (scores := self._scores) is not None:
            unmasked = ~self._picked & (scores > float(mx.finfo(scores.dtype).min))
            pattern = mx.where(mx.any(unmasked, axis=-1, keepdims=True), attention_weights(scores, sinks), pattern)
        new = self._emitted("pattern", pattern)
        if new is pattern and self._scores is None:
            return gathered
        elsewhere = mx.where(self._picked, 0, new)
        self._added = elsewhere @ self.rows[:, None].astype(new.dtype)
        return self._gathered(new, 0.0)

    def _emitted(self, event: str, array: mx.array) -> mx.array:
        new = self.listener.emit(event, array) if self.listener.wants(event) else array
        if new is not array and self._kept is not None:
            refuse_dropped(event, new, self._kept)
        return new

    def _spread(self, gathered: mx.array, nothing: float) -> mx.array:
        """Over all rows, with what is not picked made nothing. From `(batch, head, query_pos, picked)`."""
        at = mx.broadcast_to(self._at, gathered.shape)
        empty = mx.full((*gathered.shape[:-1], self.rows.shape[1] + 1), nothing, gathered.dtype)
        return mx.put_along_axis(empty, at, gathered, axis=-1)[..., :-1]

    def _gathered(self, spread: mx.array, nothing: float) -> mx.array:
        """The picked rows again. Shape `(batch, head, query_pos, picked)`."""
        whole = mx.concatenate([spread, mx.full((*spread.shape[:-1], 1), nothing, spread.dtype)], axis=-1)
        return mx.take_along_axis(whole, mx.broadcast_to(self._at, (*spread.shape[:-1], self._at.shape[-1])), axis=-1)
