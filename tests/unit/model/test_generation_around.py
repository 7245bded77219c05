"""mlx_lm's own functions inside `editing`; prompt-cache files, quantised caches, drafts and batches."""

import mlx.core as mx
import mlx_lm
import pytest
from mlx_lm.models.cache import KVCache, load_prompt_cache, make_prompt_cache, save_prompt_cache

from mlx_patch import HookedModel, Scale
from mlx_patch.errors import KindError

EDIT = Scale(3.0).at("resid_post", layer=0, pos=[6, 9, 11])


@pytest.fixture
def llama(tiny, word_tokenizer):
    return HookedModel(tiny("llama").model, word_tokenizer)


def said(responses):
    return [response.token for response in responses]


def own(model, tokens, n, **options):
    """mlx_lm's own tokens."""
    return said(mlx_lm.stream_generate(model.model, model.tokenizer, tokens[0].tolist(), n, **options))


@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt2", "gemma3_text", "qwen3_next", "mamba"])
def test_editing_around_mlx_lms_stream_is_stream(tiny, tokens, word_tokenizer, name):
    model = HookedModel(tiny(name).model, word_tokenizer)
    wanted = said(model.stream(tokens, [EDIT], 8))
    with model.editing(EDIT):
        assert own(model, tokens, 8) == wanted
    [plain, *_], [edited, *_] = model.stream(tokens, (), 1), model.stream(tokens, [EDIT], 1)
    assert not mx.array_equal(plain.logprobs, edited.logprobs)


@pytest.mark.parametrize("name", ["llama", "gemma3_text", "qwen3_next", "mamba"])
def test_a_prompt_cache_carried_over_two_calls_keeps_positions(tiny, tokens, word_tokenizer, name):
    """The second call's tokens stand after those that the first has read."""
    model = HookedModel(tiny(name).model, word_tokenizer)
    caches, more = make_prompt_cache(model.model), mx.array([[30, 31, 32]])
    with model.editing(Scale(3.0).at("resid_post", layer=0, pos=[6, 9, 13, 17])):
        first = own(model, tokens, 4, prompt_cache=caches)
        second = own(model, more, 4, prompt_cache=caches)
    assert len(first) == 4
    prompt, wanted = mx.concatenate([tokens, mx.array([first]), more], axis=1), []
    for _ in second:
        at = [p for p in (6, 9, 13, 17) if p < prompt.shape[1]]
        logits = model.run(prompt, [Scale(3.0).at("resid_post", layer=0, pos=at)], logits_at=-1)
        wanted.append(int(mx.argmax(logits).item()))
        prompt = mx.concatenate([prompt, mx.array([wanted[-1:]])], axis=1)
    assert second == wanted


def test_two_calls_of_stream_share_a_prompt_cache(llama, tokens):
    caches, more = make_prompt_cache(llama.model), mx.array([[30, 31, 32]])
    first = said(llama.stream(tokens, [EDIT], 4, prompt_cache=caches))
    second = said(llama.stream(more, [Scale(3.0).at("resid_post", layer=0, pos=[13, 16])], 4, prompt_cache=caches))
    caches = make_prompt_cache(llama.model)
    with llama.editing(EDIT, Scale(3.0).at("resid_post", layer=0, pos=[13, 16])):
        assert own(llama, tokens, 4, prompt_cache=caches) == first
        assert own(llama, more, 4, prompt_cache=caches) == second


def from_file(model, tokens, path):
    caches = make_prompt_cache(model.model)
    model.run(tokens[:, :5], prompt_cache=caches)
    save_prompt_cache(str(path), caches)
    return load_prompt_cache(str(path))


@pytest.mark.parametrize("name", ["llama", "gemma3_text", "qwen3_next", "recurrent_gemma"])
def test_a_prompt_cache_file_keeps_positions(tiny, tokens, word_tokenizer, name, tmp_path):
    model = HookedModel(tiny(name).model, word_tokenizer)
    wanted = said(model.stream(tokens, [EDIT], 8))
    caches = from_file(model, tokens, tmp_path / "cache.safetensors")
    assert said(model.stream(tokens[:, 5:], [EDIT], 8, prompt_cache=caches)) == wanted
    caches = from_file(model, tokens, tmp_path / "cache.safetensors")
    with model.editing(EDIT):
        assert own(model, tokens[:, 5:], 8, prompt_cache=caches) == wanted
    assert said(model.stream(tokens, (), 8)) != wanted


def test_a_prompt_cache_file_of_states_alone_is_refused(tiny, tokens, word_tokenizer, tmp_path):
    """Recurrent states do not say how many positions they hold."""
    model = HookedModel(tiny("mamba").model, word_tokenizer)
    caches = from_file(model, tokens, tmp_path / "cache.safetensors")
    message = r"`prompt_cache` must know how many positions it holds.*filled elsewhere\. Fill it with `model\.run"
    for generate in (model.stream, model.generate, model.generate_with_cache):
        with pytest.raises(KindError, match=message):
            generate(tokens[:, 5:], prompt_cache=caches)
    with pytest.raises(KindError, match=message), model.editing(EDIT):
        own(model, tokens[:, 5:], 3, prompt_cache=caches)


def test_positions_hold_with_a_cache_quantised_on_the_way(llama, tokens):
    """From position 10 on: mlx_lm puts other cache objects in the list."""
    options = {"kv_bits": 8, "kv_group_size": 32, "quantized_kv_start": 10}
    caches = make_prompt_cache(llama.model)
    late = Scale(3.0).at("resid_post", layer=0, pos=[9, 11, 13])
    got = said(llama.stream(tokens, [late], 8, prompt_cache=caches, **options))
    assert not any(isinstance(cache, KVCache) for cache in caches)
    wanted = said(llama.stream(tokens, [late], 8))
    assert got == wanted  # 8 bits are enough here
    assert said(llama.stream(tokens, (), 8)) != wanted


@pytest.mark.parametrize("draft", ["gpt2", "llama"])
@pytest.mark.parametrize("n", [1, 3])
def test_drafts_inside_editing_change_nothing(tiny, tokens, word_tokenizer, draft, n):
    """The edited model checks each proposed token, at its absolute position; tokens that it rejects are taken back."""
    model = HookedModel(tiny("llama").model, word_tokenizer)
    wanted = said(model.stream(tokens, [EDIT], 10))
    with model.editing(EDIT):
        options = {"draft_model": tiny(draft).model, "num_draft_tokens": n}
        responses = list(mlx_lm.stream_generate(model.model, model.tokenizer, tokens[0].tolist(), 10, **options))
    assert said(responses) == wanted
    assert sum(r.from_draft for r in responses) >= 5 if draft == "llama" else not all(r.from_draft for r in responses)
    assert said(model.stream(tokens, (), 10)) != wanted


@pytest.mark.parametrize("lengths", [(8, 8), (8, 5)])
def test_batch_generation_inside_editing_is_refused(llama, tokens, lengths):
    prompts, before = [tokens[0, :n].tolist() for n in lengths], [type(m) for m in llama.model.modules()]
    with pytest.raises(KindError, match=r"Got a padded batch \(BatchKVCache\)"), llama.editing(EDIT):
        mlx_lm.batch_generate(llama.model, llama.tokenizer, prompts, max_tokens=4)
    assert [type(m) for m in llama.model.modules()] == before
