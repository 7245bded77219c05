import mlx.core as mx
import mlx_lm
import pytest
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.sample_utils import make_sampler

from mlx_patch import Ablate, Apply, HookedModel, Scale
from mlx_patch.errors import EditNotUsedError, KindError, SelectionError, TokenError

WORDS = "w11 w48 w85 w26 w63 w04 w41 w78"


@pytest.fixture
def llama(tiny, word_tokenizer):
    return HookedModel(tiny("llama").model, word_tokenizer)


@pytest.mark.parametrize(
    "name", ["llama", "llama-sliding", "gemma2", "gpt2", "gpt_neox-parallel", "mixtral", "granite"]
)
@pytest.mark.parametrize("edited", [False, True])
def test_an_edit_that_changes_nothing_generates_what_mlx_lm_does(tiny, tokens, word_tokenizer, name, edited):
    model = HookedModel(tiny(name).model, word_tokenizer)
    edits = [Scale(1.0).at(site) for site in ("resid_post", "z")] if edited else []
    wanted = mlx_lm.generate(model.model, word_tokenizer, tokens[0].tolist(), max_tokens=12)
    assert model.generate(tokens, edits, max_tokens=12) == wanted
    assert len(wanted.split()) >= 6


@pytest.mark.parametrize("prompt", [WORDS, [11, 48, 85, 26, 63, 4, 41, 78], mx.array([11, 48, 85, 26, 63, 4, 41, 78])])
def test_a_prompt_may_be_a_text_or_ids(llama, tokens, prompt):
    assert llama.generate(prompt, max_tokens=5) == llama.generate(tokens, max_tokens=5)


def by_hand(model, tokens, edit_of, n):
    """Greedy words, from whole passes without a cache; `edit_of` gives the edits of a prompt of so many positions."""
    prompt, words = tokens, []
    for _ in range(n):
        logits = model.run(prompt, edit_of(prompt.shape[1]), logits_at=-1)
        words.append(int(mx.argmax(logits).item()))
        prompt = mx.concatenate([prompt, mx.array([[words[-1]]])], axis=1)
    return " ".join(f"w{word:02}" for word in words)


def test_negative_positions_count_from_the_end_of_the_prompt(llama, tokens):
    edit = Scale(4.0).at("resid_post", layer=0, pos=[0, -1])
    wanted = by_hand(llama, tokens, lambda length: [Scale(4.0).at("resid_post", layer=0, pos=[0, 7])], 6)
    assert llama.generate(tokens, [edit], max_tokens=6) == wanted
    assert wanted != llama.generate(tokens, max_tokens=6)


def test_a_slice_that_runs_on_reaches_generated_tokens(llama, tokens):
    edit = Scale(4.0).at("resid_post", layer=0, pos=slice(8, None))
    wanted = by_hand(llama, tokens, lambda length: [edit] if length > 8 else [], 6)
    assert llama.generate(tokens, [edit], max_tokens=6) == wanted
    assert wanted != llama.generate(tokens, max_tokens=6)


def test_a_prompt_cache_puts_the_prompt_where_it_is(llama, tokens):
    caches = make_prompt_cache(llama.model)
    llama.run(tokens[:, :5], prompt_cache=caches)
    got = llama.generate(tokens[:, 5:], [Scale(4.0).at("resid_post", layer=0, pos=-1)], 6, prompt_cache=caches)
    assert got == llama.generate(tokens, [Scale(4.0).at("resid_post", layer=0, pos=7)], max_tokens=6)


def test_keywords_go_to_mlx_lm(llama, tokens):
    def sampled():
        mx.random.seed(3)
        return llama.generate(tokens, max_tokens=8, sampler=make_sampler(temp=1.0))

    assert sampled() == sampled() != llama.generate(tokens, max_tokens=8)


def test_an_edit_past_the_end_is_told(llama, tokens):
    with pytest.raises(EditNotUsedError, match="none of its positions was computed"):
        llama.generate(tokens, [Ablate("zero").at("z", pos=500)], max_tokens=3)


def test_a_negative_position_before_the_prompt_is_refused(llama, tokens):
    with pytest.raises(SelectionError, match=r"`pos` must lie in -8 to 7"):
        llama.generate(tokens, [Ablate("zero").at("z", pos=-9)], max_tokens=3)


def test_a_draft_model_is_refused(llama, tokens):
    with pytest.raises(
        KindError,
        match=r"`draft_model` must be None with edits\. With one, a pass reads several tokens and takes some back",
    ):
        llama.generate(tokens, [Scale(2.0).at("z")], draft_model=llama.model)


def test_a_batch_is_refused(llama, tokens):
    with pytest.raises(KindError, match=r"`prompt` must be one prompt\. Got a batch of 2"):
        llama.generate(mx.concatenate([tokens, tokens]))


def test_a_model_without_a_tokenizer_is_refused(tiny, tokens):
    with pytest.raises(KindError, match="`tokenizer` must be given to generate text"):
        tiny("llama").generate(tokens)
    with pytest.raises(TokenError, match="`tokenizer` must be given to turn text into tokens"):
        tiny("llama").generate(WORDS)


def test_a_failure_halfway_leaves_the_model_as_before(llama, tokens):
    before = [type(module) for module in llama.model.modules()]
    seen = []

    def fail_at_the_third(activation, site):
        seen.append(site)
        if len(seen) == 3:
            raise KeyboardInterrupt
        return activation

    with pytest.raises(KeyboardInterrupt):
        llama.generate(tokens, [Apply(fail_at_the_third).at("resid_post", layer=1)], max_tokens=9)
    assert [type(module) for module in llama.model.modules()] == before
