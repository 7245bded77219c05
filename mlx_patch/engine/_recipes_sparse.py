"""Recipes for attention in which each query gathers keys of its own.

A listener sees scores and pattern spread over all keys, with what a query does not pick masked; what it makes of those
has no effect.
"""

from collections.abc import Callable

import mlx.core as mx

from mlx_patch.engine._attention import attend
from mlx_patch.engine._scope import Call, Listener, Mlx, Scope, rebound

_NAME = "_sparse_attention"


def sparse(listener: Listener, scope: Scope, call: Call) -> tuple[Scope, Call]:
    """Attention through DeepSeek V4.1's `_sparse_attention(queries, rows, indices, sinks=, scale=)`, over one array.

    It runs with one query a batch entry, over the rows that the query's indices pick; an index of -1 picks none.
    """

    def _sparse_attention(queries, rows, indices, **more):
        queries = listener.emit("rot_q", queries) if listener.wants("rot_q") else queries
        if not (listener.wants("attn_scores") or listener.wants("pattern")):
            return scope[_NAME](queries, rows, indices, **more)
        emit = _spread(listener, indices[0], rows[0].shape[1])

        def scaled_dot_product_attention(queries, keys, values, *, scale, mask=None, sinks=None):
            return attend(queries, keys, values, scale, mask, sinks, emit)

        fast = Mlx(mx.fast, scaled_dot_product_attention=scaled_dot_product_attention)
        return rebound(scope[_NAME], {"mx": Mlx(fast=fast)})(queries, rows, indices, **more)

    return {_NAME: _sparse_attention}, call


def indexed(listener: Listener, scope: Scope, call: Call) -> tuple[Scope, Call]:
    """Attention on what an indexer picks: for a prompt through the mask, for a single token by `mx.take_along_axis`."""
    picked: list[tuple[mx.array, int]] = []

    def take_along_axis(array, indices, *args, **kwargs):
        picked.append((indices[..., 0], array.shape[2]))
        return mx.take_along_axis(array, indices, *args, **kwargs)

    def scaled_dot_product_attention(queries, keys, values, cache, scale, mask, sinks=None):
        emit = _spread(listener, *picked[0]) if picked else listener.emit
        return attend(queries, keys, values, scale, mask, sinks, emit)

    ours = {"mx": Mlx(take_along_axis=take_along_axis), "scaled_dot_product_attention": scaled_dot_product_attention}
    return ours, call


def _spread(listener: Listener, indices: mx.array, rows: int) -> Callable[[str, mx.array], mx.array]:
    """What tells the listener of arrays `(batch * query_pos, head, 1, picked)` as `(batch, head, query_pos, row)`."""
    picked = mx.where(indices < 0, rows, indices)[:, :, None]

    def emit(event: str, gathered: mx.array) -> mx.array:
        if not listener.wants(event):
            return gathered
        nothing = float(mx.finfo(gathered.dtype).min) if event == "attn_scores" else 0.0
        by_query = gathered.reshape(*indices.shape[:2], -1, indices.shape[-1])
        at = mx.broadcast_to(picked, by_query.shape)
        empty = mx.full((*by_query.shape[:-1], rows + 1), nothing, gathered.dtype)
        spread = mx.put_along_axis(empty, at, by_query, axis=-1)
        new = listener.emit(event, spread[..., :rows].swapaxes(1, 2)).swapaxes(1, 2)
        whole = mx.concatenate([new, empty[..., :1]], axis=-1)
        return mx.take_along_axis(whole, at, axis=-1).reshape(gathered.shape)

    return emit
