"""Runs over mlx_lm's prompt caches: absolute positions, quantised keys, and a cache that a failed run leaves alone."""

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.models.cache import (
    ArraysCache,
    BatchKVCache,
    CacheList,
    KVCache,
    QuantizedKVCache,
    RotatingKVCache,
    make_prompt_cache,
)

from mlx_patch import Ablate, HookedModel, Replace, Scale, sweep
from mlx_patch.engine import cached_arrays, offset_of, refuse_misfit
from mlx_patch.errors import EditNotUsedError, KindError, PatchError, SelectionError, ShapeError, ValueRefusedError
from mlx_patch.metrics import LogProb
from mlx_patch.testing import ZOO, tiny_model

ROUNDING = 16 * float(mx.finfo(mx.float32).eps)  # of the largest entry: sums over a cache run in another order


def same(a, b):
    return a.dtype == b.dtype and mx.array_equal(a, b).item()


def close(a, b, tolerance=ROUNDING):
    return a.shape == b.shape and mx.max(mx.abs(a - b)).item() <= tolerance * mx.max(mx.abs(b)).item()


def state(caches):
    """Everything that prompt caches hold, copied: arrays as numpy."""
    return [
        {name: np.array(value) if isinstance(value, mx.array) else value for name, value in vars(cache).items()}
        for cache in caches
    ]


def equal(a, b):
    return all(
        x.keys() == y.keys() and all(np.array_equal(x[name], y[name]) for name in x) for x, y in zip(a, b, strict=True)
    )


@pytest.fixture
def model(tiny):
    return tiny("llama")


@pytest.fixture
def held(model, tokens):
    """A prompt cache that holds the first five of eight tokens."""
    caches = make_prompt_cache(model.model)
    model.run(tokens[:, :5], prompt_cache=caches)
    return caches


def test_positions_are_absolute(model, tokens, held):
    edit = Scale(0.5).at("z", pos=6)
    got, cache = model.run_with_cache(tokens[:, 5:], edits=[edit], pos=[5, 7], logits_at=[6, -1], prompt_cache=held)
    wanted, whole = model.run_with_cache(tokens, edits=[edit], pos=[5, 7], logits_at=[6, 7])
    assert close(got, wanted)
    assert (cache.positions, cache.n_positions) == ((5, 7), 8)
    assert all(close(cache[site], whole[site]) for site in whole)
    assert offset_of(held) == 8


def test_a_run_fills_the_cache_as_a_plain_run_does(model, tokens, held):
    """With its own tokens."""
    model.run(tokens[:, 5:], [Scale(0.5).at("resid_post", layer=2)], prompt_cache=held)
    plain = make_prompt_cache(model.model)
    for part in (tokens[:, :5], tokens[:, 5:]):
        mx.eval(model.model(part, cache=plain))
    assert all(close(a, b) for a, b in zip(cached_arrays(held), cached_arrays(plain), strict=True))


def test_an_edit_reaches_later_runs_through_the_cache(model, tokens):
    edit = Ablate("zero").at("v", layer=0, pos=2)
    caches = make_prompt_cache(model.model)
    model.run(tokens[:, :5], [edit], prompt_cache=caches)
    assert close(model.run(tokens[:, 5:], prompt_cache=caches), model.run(tokens, [edit])[:, 5:])


def test_editing_finds_a_cache_given_by_position(model, tokens, held):
    """In the model's own signature it comes second."""
    edit = Scale(0.5).at("z", pos=6)
    with model.editing(edit):
        got = model.model(tokens[:, 5:], held)
    assert close(got, model.run(tokens, [edit])[:, 5:])


@pytest.mark.parametrize("pos", [0, 4])
def test_positions_that_the_cache_holds_are_refused(model, tokens, held, pos):
    message = r"`pos` must be 5 or more: the prompt cache already holds the positions before.* Run the prompt without"
    with pytest.raises(SelectionError, match=message):
        model.run(tokens[:, 5:], [Scale(2.0).at("z", pos=pos)], prompt_cache=held)
    with pytest.raises(SelectionError, match=message):
        model.run_with_cache(tokens[:, 5:], pos=pos, prompt_cache=held)


def fails(activation, site):
    raise KeyboardInterrupt


@pytest.mark.parametrize("site", ["embed", "z.1", "rot_k.2", "final_norm"])
@pytest.mark.parametrize("name", ["llama", "llama-sliding"])
def test_a_run_that_fails_leaves_the_cache_as_it_was(tiny, tokens, name, site):
    model = tiny(name)
    caches = make_prompt_cache(model.model)
    model.run(tokens[:, :5], prompt_cache=caches)
    before = state(caches)
    with pytest.raises(KeyboardInterrupt):
        model.run_with_hooks(tokens[:, 5:], [(site, fails)], prompt_cache=caches)
    assert equal(state(caches), before)
    assert close(model.run(tokens[:, 5:], prompt_cache=caches), model.run(tokens)[:, 5:])


def test_a_run_that_fails_at_its_end_leaves_the_cache_alone(model, tokens, held):
    """It is as it was before the run."""
    before = state(held)
    with pytest.raises(EditNotUsedError):
        model.run(tokens[:, 5:], [Scale(2.0).at("z", pos=slice(50, None))], prompt_cache=held)
    assert equal(state(held), before)


def test_an_empty_cache_is_empty_again_after_a_failure(model, tokens):
    caches = make_prompt_cache(model.model)
    with pytest.raises(KeyboardInterrupt):
        model.run_with_hooks(tokens, [("final_norm", fails)], prompt_cache=caches)
    assert offset_of(caches) == 0
    assert cached_arrays(caches) == []
    assert same(model.run(tokens, prompt_cache=caches), model.run(tokens))


def test_a_cache_of_padded_rows_is_refused(model, tokens):
    message = r"`prompt_cache` must hold the same number of positions in each row\. Got a padded batch \(BatchKVCache\)"
    with pytest.raises(KindError, match=message):
        model.run(tokens, prompt_cache=[BatchKVCache([0])] * 3)


def quantised(bits):
    return [QuantizedKVCache(group_size=32, bits=bits) for _ in range(3)]


@pytest.mark.parametrize("bits", [4, 8])
def test_attention_over_a_quantised_cache_can_be_watched(model, tokens, bits):
    caches, watched = quantised(bits), quantised(bits)
    plain = [model.run(part, prompt_cache=caches) for part in (tokens[:, :5], tokens[:, 5:])]
    seen = [
        model.run_with_cache(part, sites=("pattern", "rot_k", "v", "z"), prompt_cache=watched)
        for part in (tokens[:, :5], tokens[:, 5:])
    ]
    assert all(close(got, wanted) for (got, _), wanted in zip(seen, plain, strict=True))
    pattern = seen[1][1]["pattern", 1]
    assert pattern.shape == (1, 4, 3, 8)
    assert close(pattern.sum(axis=-1), mx.ones((1, 4, 3)))
    assert mx.max(mx.triu(pattern, 6)).item() == 0.0


def test_over_a_quantised_cache_z_is_of_what_it_gives_back(model, tokens):
    """The pattern times the values that the cache gives back."""
    caches = quantised(8)
    _, cache = model.run_with_cache(tokens, sites=("pattern", "z"), prompt_cache=caches)
    values = mx.dequantize(*caches[1].state[1], group_size=32, bits=8)
    by_query_head = mx.repeat(values[:, :, :8], 2, axis=1)
    assert close((cache["pattern", 1] @ by_query_head).swapaxes(1, 2), cache["z", 1])


def test_a_pattern_over_a_quantised_cache_can_be_edited(model, tokens):
    ablated = [Ablate("zero").at(site, layer=1, head=2) for site in ("pattern", "z")]
    by_pattern, by_z = (model.run(tokens, [edit], prompt_cache=quantised(8)) for edit in ablated)
    assert close(by_pattern, by_z)


def test_keys_over_a_quantised_cache_can_be_edited(model, tokens):
    donor = model.run_with_cache((tokens + 40) % 96, sites="rot_k")[1]
    edit = Replace(donor).at("rot_k", layer=1)
    got = model.run(tokens, [edit], prompt_cache=quantised(8))
    assert close(got, model.run(tokens, [edit]), 0.05)  # 8 bits keep two digits
    assert not close(got, model.run(tokens), 0.05)


def filled(model, tokens=5, rows=1):
    """A prompt cache that a model has written into, without mlx_patch."""
    caches = make_prompt_cache(model.model)
    model.model(mx.ones((rows, tokens), mx.int32), cache=caches)
    mx.eval(cached_arrays(caches))
    return caches


def uneven(model):
    caches = filled(model)
    caches[1].trim(2)
    return caches


def empty_in_the_middle(model):
    return [*filled(model)[:2], KVCache()]


MISFITS = {
    "too few entries": (
        lambda m, o: make_prompt_cache(m.model)[:-1],
        ValueRefusedError,
        r"have 3 entries, .* Got 2\. Make",
    ),
    "too many entries": (lambda m, o: [*filled(m), KVCache()], ValueRefusedError, r"have 3 entries, .* Got 4\."),
    "another model's": (
        lambda m, o: filled(o),
        ShapeError,
        r"\(batch, \.\.\., 2, 32\)\. Got .*entry 0\. It is another",
    ),
    "more rows": (lambda m, o: filled(m, rows=2), ShapeError, r"as many rows as `tokens`, 1\. Got 2\."),
    "states": (
        lambda m, o: [ArraysCache(2) for _ in range(3)],
        KindError,
        r"Got ArraysCache instead of KVCache in entry 0",
    ),
    "two caches in an entry": (
        lambda m, o: [CacheList(KVCache(), KVCache()), KVCache(), KVCache()],
        KindError,
        r"must have the same kinds of entries as this model's own\. Got others\. Make",
    ),
    "one cache thrice": (
        lambda m, o: [KVCache()] * 3,
        ValueRefusedError,
        r"separate cache for each layer\. Got the same one twice",
    ),
    "a cache and no list": (
        lambda m, o: KVCache(),
        KindError,
        r"`prompt_cache` must be a list of mlx_lm's caches\. Got KVCache\.",
    ),
    "no caches": (lambda m, o: [None] * 3, KindError, r"list of mlx_lm's caches\. Got a list with NoneType\."),
    "a layer that was trimmed": (lambda m, o: uneven(m), ValueRefusedError, r"Got 5 in entry 0 and 3 in entry 1\."),
    "an empty layer": (lambda m, o: empty_in_the_middle(m), ValueRefusedError, r"Got 5 in entry 1 and 0 in entry 2"),
}

WAYS = {
    "run": lambda model, tokens, cache: model.run(tokens, prompt_cache=cache),
    "run_with_cache": lambda model, tokens, cache: model.run_with_cache(tokens, "resid_post.0", prompt_cache=cache),
    "run_with_hooks": lambda model, tokens, cache: model.run_with_hooks(
        tokens, [("mlp_out.0", lambda activation, site: activation)], prompt_cache=cache
    ),
    "generate": lambda model, tokens, cache: model.generate(tokens, max_tokens=1, prompt_cache=cache),
    "stream": lambda model, tokens, cache: model.stream(tokens, max_tokens=1, prompt_cache=cache),
    "generate_with_cache": lambda model, tokens, cache: model.generate_with_cache(
        tokens, max_tokens=1, prompt_cache=cache
    ),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("what", MISFITS)
def test_a_prompt_cache_that_does_not_fit_is_refused(tiny, tokens, word_tokenizer, what, way, monkeypatch):
    model = HookedModel(tiny("llama").model, word_tokenizer)
    make, error, message = MISFITS[what]
    cache = make(model, wider_keys())
    before = state(cache if isinstance(cache, list) and what != "no caches" else [])
    monkeypatch.setattr(mx, "eval", None)  # nothing is computed
    with pytest.raises(error, match=message) as caught:
        WAYS[way](model, tokens, cache)
    assert isinstance(caught.value, PatchError)
    monkeypatch.undo()
    assert equal(before, state(cache if before else []))


def wider_keys():
    """A model of as many layers whose keys and values have other widths."""
    return HookedModel(tiny_model("gpt2"))


def test_a_batch_that_is_not_the_caches_is_refused(model, tokens, held):
    with pytest.raises(ShapeError, match=r"`prompt_cache` must hold as many rows as `tokens`, 2\. Got 1\. Run the pr"):
        model.run(mx.concatenate([tokens, tokens]), prompt_cache=held)


def test_kinds_of_caches_of_keys_stand_for_each_other(model, tokens, held):
    plain = model.run(tokens)
    for caches in ([RotatingKVCache(64, keep=4) for _ in range(3)], [QuantizedKVCache(32, 8) for _ in range(3)]):
        model.run(tokens[:, :5], prompt_cache=caches)
        assert close(model.run(tokens[:, 5:], prompt_cache=caches), plain[:, 5:], 0.1)
    quantised = [cache.to_quantized(32, 4) for cache in held]
    assert model.run(tokens[:, 5:], prompt_cache=quantised).shape == (1, 3, 96)


@pytest.mark.parametrize("what", ["too few entries", "too many entries", "another model's", "states"])
def test_editing_refuses_a_prompt_cache_that_does_not_fit(model, tokens, what):
    """A cache of what runs inside the block."""
    make, error, message = MISFITS[what]
    cache = make(model, wider_keys())
    with model.editing(Scale(1.0).at("mlp_out", layer=0)):
        with pytest.raises(error, match=message):
            model.model(tokens, cache=cache)
        fitting = make_prompt_cache(model.model)
        pieces = [model.model(tokens[:, :5], cache=fitting), model.model(tokens[:, 5:], cache=fitting)]
    assert close(mx.concatenate(pieces, axis=1), model.run(tokens))


def test_a_sweep_inside_editing_has_caches_that_fit(model, tokens):
    rows = mx.concatenate([tokens] * 2)
    with model.editing(Scale(1.0).at("mlp_out", layer=0)):
        inside = sweep(model, rows, Scale(0.0), "z", over=("layer", "pos"), metric=LogProb(3), positions=[6, 7])
    outside = sweep(model, rows, Scale(0.0), "z", over=("layer", "pos"), metric=LogProb(3), positions=[6, 7])
    assert (inside.values == outside.values).all()


def test_a_fit_is_seen_without_the_edits_under_way(model, tokens, held):
    met = []
    edit = Scale(1.0).at("mlp_out", layer=0)
    with model.editing(edit):
        model.run_with_hooks(tokens[:, 5:], [("mlp_out.0", lambda a, site: met.append(a.shape))], prompt_cache=held)
    assert met == [(1, 3, 64)]


@pytest.mark.parametrize("name", [name for name in ZOO if name not in ("bitnet", "olmo")])
def test_what_a_model_has_written_fits_it(name):
    """Of every architecture: in a batch, after one token and after more than a window."""
    model = HookedModel(tiny_model(name))
    for rows, tokens in ((1, 1), (2, 13)):
        caches = make_prompt_cache(model.model)
        model.run(mx.ones((rows, tokens), mx.int32), prompt_cache=caches)
        refuse_misfit(model.model, caches, rows)
        with pytest.raises(ShapeError, match="as many rows"):
            refuse_misfit(model.model, caches, rows + 1)
        with pytest.raises(ValueRefusedError, match="entries, like this model's"):
            refuse_misfit(model.model, caches[:-1], rows)


def test_the_offset_of_no_cache_is_0():
    assert offset_of(None) == offset_of([]) == 0


@pytest.mark.parametrize("name", ["gemma3n", "gemma4_text"])
def test_keys_borrowed_of_a_full_window_are_in_order(tiny, name):
    """The cache of the lending layer is full, so that the last token's keys take the place of the oldest."""
    model = tiny(name)
    tokens = mx.array([[(11 + 37 * i) % 96 for i in range(24)]])
    caches = make_prompt_cache(model.model)
    windows = [cache.max_size for cache in caches if isinstance(cache, RotatingKVCache)]
    assert windows
    assert max(windows) < 20
    assert len(caches) < model.n_layers
    model.run(tokens[:, :23], prompt_cache=caches)
    _, last = model.run_with_cache(tokens[:, 23:], "pattern", prompt_cache=caches)
    _, whole = model.run_with_cache(tokens, "pattern")
    for site, pattern in last.items():
        assert close(pattern[:, :, 0], whole[site][:, :, -1])
