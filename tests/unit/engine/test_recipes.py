"""Stand-ins inside a module's call: seen by that one call only, refused where there is nothing to stand in for."""

from functools import partial

import mlx.core as mx
import pytest
from mlx_lm.models import base, gemma2, llama, mixtral
from mlx_lm.models.cache import KVCache, make_prompt_cache

from mlx_patch.engine import stand_in
from mlx_patch.errors import ArchitectureError

X = mx.ones((1, 3, 64))


class Notes:
    """A listener that wants some events, notes what it is given, and may give something else back."""

    module, caches = None, ()

    def __init__(self, *events, back=lambda raw: raw):
        self.notes = {}
        self.events, self.back, self.seen = events, back, {}

    def wants(self, event):
        return event in self.events

    def emit(self, event, raw):
        self.seen.setdefault(event, []).append(raw)
        return self.back(raw)


def called(recipe, module, notes, *args, **kwargs):
    forward, args, kwargs = stand_in(recipe, type(module).__call__, notes, args, kwargs)
    return forward(module, *args, **kwargs)


def attention(tiny, name="llama"):
    return tiny(name).model.layers[0].self_attn


@pytest.mark.parametrize("events", [("rot_q",), ("rot_k",), ("attn_scores", "pattern"), ("rot_q", "rot_k", "pattern")])
def test_watching_attention_changes_nothing(tiny, events):
    module, notes = attention(tiny), Notes(*events)
    assert mx.array_equal(called("sdpa", module, notes, X, mask="causal"), module(X, mask="causal"))
    assert set(notes.seen) >= set(events)
    assert all(len(arrays) == 1 for arrays in notes.seen.values())


def test_queries_and_keys_come_by_position_and_scores_by_head(tiny):
    notes = Notes("rot_q", "rot_k", "attn_scores", "pattern")
    called("sdpa", attention(tiny), notes, X, mask="causal")
    shapes = {event: arrays[0].shape for event, arrays in notes.seen.items()}
    assert shapes == {
        "rot_q": (1, 3, 4, 32),
        "rot_k": (1, 3, 2, 32),
        "attn_scores": (1, 4, 3, 3),
        "pattern": (1, 4, 3, 3),
    }


def test_the_fused_kernel_stays_where_no_scores_are_wanted(tiny, monkeypatch):
    calls = []
    fused = base.scaled_dot_product_attention
    monkeypatch.setattr(llama, "scaled_dot_product_attention", lambda *a, **k: calls.append(1) or fused(*a, **k))
    called("sdpa", attention(tiny), Notes("rot_q"), X, mask="causal")
    assert calls == [1]
    called("sdpa", attention(tiny), Notes("pattern"), X, mask="causal")
    assert calls == [1]


def test_mlx_lm_s_own_modules_are_not_touched(tiny):
    before = {module: dict(vars(module)) for module in (llama, gemma2, mixtral)}
    for name, recipe in (("llama", "sdpa"), ("gemma2", "softmax")):
        called(recipe, attention(tiny, name), Notes("pattern"), X, mask=None)
    assert {module: dict(vars(module)) for module in before} == before


def test_new_keys_are_seen_before_the_cache_takes_them_in(tiny):
    module, notes, cache = attention(tiny), Notes("rot_k", back=lambda raw: 0 * raw), KVCache()
    called("sdpa", module, notes, X, mask=None, cache=cache)
    called("sdpa", module, notes, X, mask=None, cache=cache)
    assert [array.shape[1] for array in notes.seen["rot_k"]] == [3, 3]
    assert cache.offset == 6
    assert mx.all(cache.keys[:, :, :6] == 0).item()


def test_a_quantised_cache_gives_scores_over_all_its_keys(tiny):
    module, notes, cache = attention(tiny), Notes("pattern"), KVCache().to_quantized(group_size=32, bits=8)
    called("sdpa", module, notes, X, mask=None, cache=cache)
    out = called("sdpa", module, notes, X, mask=None, cache=cache)
    assert [array.shape for array in notes.seen["pattern"]] == [(1, 4, 3, 3), (1, 4, 3, 6)]
    assert out.shape == X.shape


def test_attention_written_out_by_groups_comes_by_head(tiny):
    notes = Notes("attn_scores", "pattern")
    module = attention(tiny, "gemma2")
    out = called("softmax", module, notes, X, mask=None)
    assert mx.array_equal(out, module(X, mask=None))
    assert {event: arrays[0].shape for event, arrays in notes.seen.items()} == {
        "attn_scores": (1, 4, 3, 3),
        "pattern": (1, 4, 3, 3),
    }


def test_expert_weights_are_spread_over_all_experts(tiny):
    _, cache = tiny("mixtral").run_with_cache([[3, 40, 77]], sites="expert_weights")
    weights = cache["expert_weights", 0]
    assert weights.shape == (1, 3, 4)
    assert mx.array_equal(mx.sum(weights > 0, axis=-1), mx.full((1, 3), 2))
    assert mx.allclose(weights.sum(axis=-1), mx.ones((1, 3)))


def test_a_watched_cache_is_a_cache_to_the_model(tiny):
    model, [first, *_] = tiny().model, make_prompt_cache(tiny().model)
    notes = Notes("rot_k")
    _, args, _ = stand_in("sdpa", type(model.layers[0].self_attn).__call__, notes, (X, None, first), {})
    watched = args[2]
    assert watched.offset == 0
    watched.offset = 7
    assert first.offset == 7


def test_what_is_not_python_is_refused():
    with pytest.raises(
        ArchitectureError, match=r"must be a Python function, so that its values can be read. Got a compiled call"
    ):
        stand_in("sdpa", partial(print), Notes("pattern"), (), {})


def test_a_call_without_what_is_stood_in_for_is_refused(tiny):
    with pytest.raises(ArchitectureError, match=r"`Attention.__call__` must use scaled_dot_product_attention for rec"):
        called("sdpa", attention(tiny, "gemma2"), Notes("pattern"), X)
