"""Generation under an edit that changes nothing is mlx_lm's own, token by token and bit by bit."""

from pathlib import Path

import mlx.core as mx
import mlx_lm
import pytest
from mlx_lm.models.cache import ArraysCache, KVCache, RotatingKVCache, make_prompt_cache
from mlx_lm.sample_utils import make_logits_processors, make_sampler
from mlx_lm.tokenizer_utils import TokenizerWrapper

from mlx_patch import HookedModel, Scale, steps

pytestmark = pytest.mark.slow


EMBEDDED = Path(__file__).parents[3] / "examples" / "models" / "tiny_instruct_ext"
SAME = [Scale(1.0).at("resid_post")]
SAMPLERS = {"greedy": {}, "sampled": {"temp": 0.9, "top_p": 0.9}}


@pytest.fixture(scope="module")
def endless(word_tokenizer):
    """The tiny models' tokenizer, by which no text ends."""
    tokenizer = TokenizerWrapper(word_tokenizer._tokenizer)
    tokenizer.eos_token_ids = None
    return tokenizer


def both(model, prompt, edits, sampler, max_tokens, **options):
    """Tokens and log probabilities as mlx_lm makes them, and as `stream` does."""
    ids = prompt[0].tolist()
    for run in (
        lambda how: mlx_lm.stream_generate(model.model, model.tokenizer, ids, max_tokens, **how),
        lambda how: model.stream(prompt, edits, max_tokens, **how),
    ):
        mx.random.seed(5)
        how = {name: make() for name, make in options.items()}
        responses = list(run({"sampler": make_sampler(**sampler), **how}))
        yield [r.token for r in responses], [r.logprobs for r in responses], "".join(r.text for r in responses)


def assert_same(model, prompt, edits, sampler, max_tokens, **options):
    (wanted, logprobs, text), (got, own, said) = both(model, prompt, edits, sampler, max_tokens, **options)
    assert got == wanted
    assert len(got) == max_tokens
    assert said == text
    assert all(mx.array_equal(a, b) for a, b in zip(own, logprobs, strict=True))
    return wanted


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize(
    ("name", "kind"), [("llama", KVCache), ("gemma3_text", RotatingKVCache), ("mamba", ArraysCache)]
)
def test_200_tokens_under_an_edit_without_effect_are_mlx_lms(tiny, tokens, endless, name, kind, sampler):
    model = HookedModel(tiny(name).model, endless)
    caches = make_prompt_cache(model.model)
    assert kind in {type(cache) for cache in caches}
    if kind is RotatingKVCache:
        assert min(cache.max_size for cache in caches if isinstance(cache, kind)) < 200
    said = assert_same(model, tokens, SAME, SAMPLERS[sampler], 200)
    assert len(set(said)) > 20


def test_the_comparison_sees_an_edit_that_changes_a_little(tiny, tokens, endless):
    """What the tests here compare differs under an edit of one generated token."""
    model = HookedModel(tiny("llama").model, endless)
    edit = Scale(1.001).at("resid_post", layer=0, pos=20)
    (_, wanted, _), (_, got, _) = both(model, tokens, [edit], {}, 30)
    assert [mx.array_equal(a, b) for a, b in zip(got, wanted, strict=True)] == [True] * 13 + [False] * 17


@pytest.mark.parametrize("name", ["qwen3_next", "gpt_oss", "recurrent_gemma", "gpt2", "falcon_h1"])
def test_hybrids_and_others_too(tiny, tokens, endless, name):
    assert_same(HookedModel(tiny(name).model, endless), tokens, SAME, SAMPLERS["sampled"], 24)


@pytest.mark.parametrize(
    "options",
    [
        {"max_kv_size": lambda: 12},
        {"kv_bits": lambda: 8, "kv_group_size": lambda: 32, "quantized_kv_start": lambda: 10},
        {"prefill_step_size": lambda: 3},
        {"logits_processors": lambda: make_logits_processors(repetition_penalty=1.3)},
    ],
    ids=lambda options: next(iter(options)),
)
def test_with_mlx_lms_own_options(tiny, tokens, endless, options):
    model = HookedModel(tiny("llama").model, endless)
    assert_same(model, tokens, SAME, SAMPLERS["sampled"], 30, **options)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_200_tokens_of_the_embedded_model(sampler):
    model = HookedModel.load(EMBEDDED)
    model.tokenizer.eos_token_ids = None
    assert_same(model, model.tokenize("List the largest planet."), SAME, SAMPLERS[sampler], 200)


def test_steps_that_change_nothing_change_nothing(tiny, tokens, endless):
    edits = [Scale(1.0).at("resid_post").during(kind) for kind in (steps.prompt, steps.every(3), steps.generated)]
    assert_same(HookedModel(tiny("llama").model, endless), tokens, edits, {}, 12)
