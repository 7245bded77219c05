"""What a generation keeps is what one run over the whole text has, to the rounding of prompts in pieces."""

import mlx.core as mx
import pytest
from mlx_lm.models.cache import make_prompt_cache

from mlx_patch import HookedModel, Replace, Scale, pos, steps
from mlx_patch.errors import EditNotUsedError, SelectionError, ShapeError

ROUNDING = 2e-5
SITES = ("embed", "resid_post", "final_norm")


def wrapped(tiny, word_tokenizer, name="llama"):
    return HookedModel(tiny(name).model, word_tokenizer)


@pytest.fixture
def llama(tiny, word_tokenizer):
    return wrapped(tiny, word_tokenizer)


def assert_close(cache, whole, rows):
    assert list(cache) == list(whole)
    for site in whole:
        wanted = whole[site][:, rows]
        assert cache[site].shape == wanted.shape
        assert mx.max(mx.abs(cache[site] - wanted)).item() <= ROUNDING * max(1, mx.max(mx.abs(wanted)).item()), site


@pytest.mark.parametrize("size", [3, 2048])
@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt2", "gemma3_text", "qwen3_next", "mamba"])
def test_captures_of_a_generation_are_those_of_the_whole_text(tiny, tokens, word_tokenizer, name, size):
    model = wrapped(tiny, word_tokenizer, name)
    edit = Scale(2.0).at("resid_post", layer=0, pos=[2, 7, 9])
    text, cache = model.generate_with_cache(tokens, SITES, [edit], 6, prefill_step_size=size)
    said = [r.token for r in model.stream(tokens, [edit], 6)]
    assert cache.tokens[0].tolist() == [*tokens[0].tolist(), *said]
    assert cache.positions == tuple(range(8 + len(said)))
    assert cache.n_positions == 8 + len(said) >= 11
    assert text == model.generate(tokens, [edit], 6)
    _, whole = model.run_with_cache(cache.tokens, SITES, [edit])
    assert_close(cache, whole, slice(None))
    _, other = model.run_with_cache(cache.tokens, SITES)
    assert mx.max(mx.abs(cache["final_norm"] - other["final_norm"])).item() > 0.01


@pytest.mark.parametrize("site", ["q", "rot_k", "z", "model.layers.1.mlp.gate_proj:output"])
def test_captures_inside_blocks(llama, tokens, site):
    _, cache = llama.generate_with_cache(tokens, [site], max_tokens=5)
    _, whole = llama.run_with_cache(cache.tokens, [site])
    assert_close(cache, whole, slice(None))


@pytest.mark.parametrize(
    ("asked", "kept"),
    [
        ("prompt", range(8)),
        ("generated", range(8, 13)),
        ([7, 8, 12], (7, 8, 12)),
        (-1, (7,)),
        (slice(-2, 10), (6, 7, 8, 9)),
        (pos.last, (7,)),
        (pos.token(85) | pos.last, (2, 7)),
    ],
)
def test_positions_are_those_asked_for(llama, tokens, asked, kept):
    _, cache = llama.generate_with_cache(tokens, "resid_post", max_tokens=5, pos=asked, prefill_step_size=4)
    assert cache.positions == tuple(kept)
    _, whole = llama.run_with_cache(cache.tokens, "resid_post")
    assert_close(cache, whole, mx.array(list(kept)))


def test_steps_and_captures_go_together(llama, tokens):
    edit = Scale(2.0).at("resid_post", layer=0).during(steps.every(2))
    _, cache = llama.generate_with_cache(tokens, SITES, [edit], 6)
    _, whole = llama.run_with_cache(cache.tokens, SITES, [Scale(2.0).at("resid_post", layer=0, pos=[8, 10, 12])])
    assert_close(cache, whole, slice(None))


def test_after_a_prompt_cache_positions_go_on(llama, tokens):
    caches = make_prompt_cache(llama.model)
    llama.run(tokens[:, :5], prompt_cache=caches)
    _, cache = llama.generate_with_cache(tokens[:, 5:], max_tokens=4, prompt_cache=caches)
    assert cache.positions == tuple(range(5, 12))
    assert cache.n_positions == 12
    _, whole = llama.run_with_cache(mx.concatenate([tokens[:, :5], cache.tokens], axis=1))
    assert_close(cache, whole, slice(5, None))
    _, prompt = llama.generate_with_cache(
        tokens[:, 5:], pos="prompt", prompt_cache=_filled(llama, tokens), max_tokens=2
    )
    assert prompt.positions == (5, 6, 7)


def _filled(model, tokens):
    caches = make_prompt_cache(model.model)
    model.run(tokens[:, :5], prompt_cache=caches)
    return caches


@pytest.mark.parametrize("place", [{"pos": slice(0, 8)}, {}])
def test_own_values_put_back_into_the_prompt_change_nothing(llama, tokens, place):
    """What a run keeps of the prompt serves a generation, during the prompt; another prompt's does change the text."""
    texts = []
    for prompt in (tokens, tokens + 1):
        _, own = llama.run_with_cache(prompt, "resid_post")
        edit = Replace(own).at("resid_post", layer=1, **place)
        text, cache = llama.generate_with_cache(tokens, "final_norm", [edit.during(steps.prompt)], 10)
        _, plain = llama.generate_with_cache(tokens, "final_norm", max_tokens=10)
        texts.append(text)
        if prompt is tokens:
            assert_close(cache, plain, slice(None))
    assert texts[0] == llama.generate(tokens, max_tokens=10) != texts[1]


def test_a_source_of_another_length_is_refused(llama, tokens):
    """A longer one too: nobody knows that it is of this prompt."""
    _, cache = llama.generate_with_cache(tokens, "resid_post", max_tokens=4)
    with pytest.raises(ShapeError, match="must have the activation's shape"):
        llama.generate(tokens, [Replace(cache).at("resid_post", layer=1)], max_tokens=4)


def test_the_end_of_the_text_is_kept_too(tiny, tokens, word_tokenizer):
    """The end token is read by the model as mlx_lm generates, and is not in the text."""
    model = wrapped(tiny, word_tokenizer)
    said = [r.token for r in model.stream(tokens, (), 6)]
    model = HookedModel(model.model, type(word_tokenizer)(word_tokenizer._tokenizer, eos_token_ids=[said[3]]))
    text, cache = model.generate_with_cache(tokens, max_tokens=6)
    assert text.split() == [f"w{token:02}" for token in said[:3]]
    assert cache.tokens[0, 8:].tolist() == said[:4]
    _, whole = model.run_with_cache(cache.tokens)
    assert_close(cache, whole, slice(None))


@pytest.mark.parametrize("site", ["pattern", "attn_scores"])
def test_keys_that_become_more_are_refused(llama, tokens, site):
    with pytest.raises(SelectionError, match=r"`sites` must not have an axis of keys.*`model\.run_with_cache`"):
        llama.generate_with_cache(tokens, site)


def test_positions_that_never_come_are_refused(llama, tokens):
    with pytest.raises(SelectionError, match=r"`pos` must be positions that the model has read, 0 to 10\. Got"):
        llama.generate_with_cache(tokens, max_tokens=3, pos=[3, 50])
    with pytest.raises(SelectionError, match='`pos` must be "prompt", "generated" or positions'):
        llama.generate_with_cache(tokens, max_tokens=3, pos="all")
    with pytest.raises(EditNotUsedError, match="none of its positions was computed"):
        llama.generate_with_cache(tokens, max_tokens=3, edits=[Scale(2.0).at("z", pos=99)])
