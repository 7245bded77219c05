"""Attention over picked rows, told as attention over all of them: what is edited counts, picked or not."""

import mlx.core as mx
import pytest
from mlx_lm.models import deepseek_v41

from mlx_patch.engine import sparse

SCALE = 0.3
NAME = "_sparse_attention"
LOWEST = float(mx.finfo(mx.float32).min)


class Told:
    """A listener that keeps what it is told, and gives back what it is to."""

    module, caches = None, ()

    def __init__(self, *events, **back):
        self.notes, self.events, self.back, self.seen = {}, (*events, *back), back, {}

    def wants(self, event):
        return event in self.events

    def emit(self, event, raw):
        self.seen[event] = raw
        return self.back[event](raw) if event in self.back else raw


@pytest.fixture
def call():
    """Queries, two arrays of rows, which of them each query picks, and sinks."""
    mx.random.seed(0)
    arrays = [mx.random.normal((2, n, 4)) for n in (5, 3)]
    indices = [
        mx.array([[[0, -1], [0, 1], [1, 2]], [[2, 3], [3, 4], [4, -1]]]),
        mx.array([[[-1], [2], [0]], [[1], [1], [-1]]]),
    ]
    return mx.random.normal((2, 3, 2, 4)), arrays, indices, mx.array([0.5, -1.0])


def attended(call, told):
    queries, arrays, indices, sinks = call
    replaced, _ = sparse(told, vars(deepseek_v41), ((), {}))
    return replaced[NAME](queries, arrays, indices, sinks=sinks, scale=SCALE)


def plain(call):
    queries, arrays, indices, sinks = call
    return getattr(deepseek_v41, NAME)(queries, arrays, indices, sinks=sinks, scale=SCALE)


def scores_over_all(call):
    """Shape `(batch, head, query_pos, key_pos)`."""
    queries, arrays, _, _ = call
    return SCALE * queries.swapaxes(1, 2) @ mx.concatenate(arrays, axis=1)[:, None].swapaxes(-1, -2)


def gathered_by(pattern, call):
    return (pattern @ mx.concatenate(call[1], axis=1)[:, None]).swapaxes(1, 2)


def softmax_beside_sinks(scores, sinks):
    column = mx.broadcast_to(sinks[:, None, None], (*scores.shape[:-1], 1))
    return mx.softmax(mx.concatenate([scores, column], axis=-1), axis=-1)[..., :-1]


def test_watching_changes_no_bit(call):
    told = Told("attn_scores", "pattern")
    assert mx.array_equal(attended(call, told), plain(call))
    assert {array.shape for array in told.seen.values()} == {(2, 2, 3, 8)}


def test_rows_of_the_second_array_come_behind_the_first_s(call):
    told = Told("attn_scores")
    attended(call, told)
    shown = told.seen["attn_scores"] > LOWEST
    keys = [[[0], [0, 1, 7], [1, 2, 5]], [[2, 3, 6], [3, 4, 6], [4]]]
    wanted = mx.array([[[key in row for key in range(8)] for row in rows] for rows in keys])
    assert mx.array_equal(shown, mx.broadcast_to(wanted[:, None], shown.shape))
    scores = mx.where(shown, told.seen["attn_scores"], 0)
    assert mx.allclose(scores, mx.where(shown, scores_over_all(call), 0), atol=1e-6)


def test_the_pattern_makes_what_attention_returns(call):
    told = Told("pattern")
    assert mx.allclose(attended(call, told), gathered_by(told.seen["pattern"], call), atol=1e-6)


def test_an_edited_pattern_counts_at_keys_that_were_not_picked(call):
    pattern = mx.softmax(mx.random.normal((2, 2, 3, 8)), axis=-1)
    got = attended(call, Told(pattern=lambda raw: pattern))
    assert mx.allclose(got, gathered_by(pattern, call), atol=1e-6)


def test_edited_scores_count_at_keys_that_were_not_picked(call):
    scores = mx.random.normal((2, 2, 3, 8))
    told = Told("pattern", attn_scores=lambda raw: scores)
    got, pattern = attended(call, told), softmax_beside_sinks(scores, call[3])
    assert mx.allclose(told.seen["pattern"], pattern, atol=1e-6)
    assert mx.allclose(got, gathered_by(pattern, call), atol=1e-6)


def test_scores_and_pattern_edited_at_once_are_both_heard(call):
    scores = mx.random.normal((2, 2, 3, 8))
    got = attended(call, Told(attn_scores=lambda raw: scores, pattern=lambda raw: 2 * raw))
    assert mx.allclose(got, gathered_by(2 * softmax_beside_sinks(scores, call[3]), call), atol=1e-6)


def test_editing_picked_scores_alone_keeps_a_query_s_keys(call):
    told = Told("pattern", attn_scores=lambda raw: mx.where(raw > LOWEST, raw + 1, raw))
    attended(call, told)
    assert mx.array_equal(told.seen["pattern"] > 0, scores_shown(call))


def scores_shown(call):
    told = Told("attn_scores")
    attended(call, told)
    return told.seen["attn_scores"] > LOWEST


def test_own_values_given_back_change_no_bit(call):
    again = {event: lambda raw: raw + 0.0 for event in ("attn_scores", "pattern")}
    assert mx.array_equal(attended(call, Told(**again)), plain(call))
