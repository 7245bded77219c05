"""Edits in force around other people's code, inside one another, and inside themselves."""

import mlx.core as mx
import mlx_lm
import pytest
from mlx_lm.generate import generate_step
from mlx_lm.models.cache import make_prompt_cache

from mlx_patch import Ablate, Add, Apply, HookedModel, Replace, Scale
from mlx_patch.errors import EditNotUsedError, KindError, SelectionError

ZERO = Ablate("zero")
ROUNDING = 16 * float(mx.finfo(mx.float32).eps)  # of the largest: sums over a cache run in another order


def same(a, b):
    return a.dtype == b.dtype and mx.array_equal(a, b).item()


def classes(model):
    return [type(module) for module in model.model.modules()]


def generated(model, tokens, n):
    """Tokens that the model continues with, and the log-probabilities before each. Shape `(d_vocab,)`."""
    return [(int(token), logprobs) for token, logprobs in generate_step(tokens[0], model.model, max_tokens=n)]


def test_whatever_runs_the_model_inside_is_edited(tiny, tokens):
    model, edit = tiny(), ZERO.at("z", layer=1, head=2)
    plain = model.model(tokens)
    with model.editing(edit) as inside:
        assert inside is model
        edited = model.model(tokens)
        mx.eval(edited)
    assert same(edited, model.run(tokens, [edit]))
    assert same(model.model(tokens), plain)


def test_another_wrapper_of_the_same_model_is_edited_too(tiny, tokens):
    model, edit = tiny(), ZERO.at("z", layer=1)
    with model.editing(edit):
        edited = HookedModel(model.model).run(tokens)
    assert same(edited, model.run(tokens, [edit]))


def test_another_model_is_not(tiny, tokens):
    plain = tiny("qwen2").run(tokens)
    with tiny("llama").editing(ZERO.at("z")):
        assert same(tiny("qwen2").run(tokens), plain)
        tiny("llama").run(tokens)


def test_outer_edits_come_first(tiny, tokens):
    model, ones = tiny(), mx.ones((64,))
    x = model.run_with_cache(tokens)[1]["resid_post", 1]
    add, scale = Add(ones).at("resid_post", layer=1), Scale(2.0).at("resid_post", layer=1)
    with model.editing(add), model.editing(scale):
        _, cache = model.run_with_cache(tokens)
    assert same(cache["resid_post", 1], (x + ones) * 2.0)
    with model.editing(scale):
        _, cache = model.run_with_cache(tokens, edits=[add])
    assert same(cache["resid_post", 1], x * 2.0 + ones)


def test_blocks_may_end_in_any_way_and_the_classes_come_back(tiny, tokens):
    model = tiny()
    before, plain = classes(model), model.run(tokens)

    def interrupted():
        with model.editing(ZERO.at("z")):
            with model.editing(Scale(2.0).at("resid_mid")):
                model.run(tokens)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert classes(model) == before
    assert same(model.run(tokens), plain)


def test_a_failure_in_a_nested_run_leaves_the_outer_edits(tiny, tokens):
    """They stay in force."""
    model, edit = tiny(), ZERO.at("z", layer=1)

    def fail(activation, site):
        raise ValueError

    with model.editing(edit):
        with pytest.raises(ValueError):  # noqa: PT011  # it says nothing
            model.run_with_hooks(tokens, [("resid_post.0", fail)])
        edited = model.run(tokens)
    assert same(edited, model.run(tokens, [edit]))


def test_an_edit_may_run_the_model_itself(tiny, tokens):
    model = tiny()
    other = (tokens + 40) % 96
    donor = model.run_with_cache(other)[1]

    def patched(activation, site):
        return model.run_with_cache(other)[1][site]  # sees neither this edit nor the one around it

    with model.editing(Scale(2.0).at("resid_mid", layer=0)):
        got = model.run(tokens, [Apply(patched).at("resid_post", layer=1)])
    assert same(got, model.run(tokens, [Replace(donor).at("resid_post", layer=1)]))


def test_an_edit_may_use_editing_itself(tiny, tokens):
    model, inner = tiny(), ZERO.at("mlp_out", layer=0)
    wanted = model.run_with_cache(tokens, edits=[inner])[1]["resid_post", 0]

    def patched(activation, site):
        with model.editing(inner):
            return model.run_with_cache(tokens)[1][site]

    assert same(
        model.run(tokens, [Apply(patched).at("resid_post", layer=0)]),
        model.run(tokens, [Replace(wanted).at("resid_post", layer=0)]),
    )


def test_an_edit_that_never_acted_is_told_at_the_block_s_end(tiny, tokens):
    model = tiny()
    with (
        pytest.raises(EditNotUsedError, match="must be computed in a run to be read or edited"),
        model.editing(ZERO.at("z")),
    ):
        pass
    with (
        pytest.raises(EditNotUsedError, match="none of its positions was computed"),
        model.editing(ZERO.at("z", pos=99)),
    ):
        model.run(tokens)


def test_negative_positions_count_from_the_end_of_a_pass(tiny, tokens):
    """Of a pass without a prompt cache."""
    model, edit = tiny(), ZERO.at("resid_post", layer=0, pos=-1)
    with model.editing(edit):
        edited = model.model(tokens)
        mx.eval(edited)
    assert same(edited, model.run(tokens, [edit]))


def test_negative_positions_are_refused_with_a_cache(tiny, tokens):
    model = tiny()
    before = classes(model)
    message = r"`pos` must be 0 or more if the prompt comes in pieces\. Got -1\. .*model\.run.*model\.generate"
    with pytest.raises(SelectionError, match=message), model.editing(ZERO.at("resid_post", layer=0, pos=-1)):
        model.model(tokens, cache=make_prompt_cache(model.model))
    assert classes(model) == before


def test_a_part_of_the_model_called_alone_is_refused(tiny, tokens):
    model = tiny()
    message = "`model.model` must be called as a whole while edits are active"
    with pytest.raises(KindError, match=message), model.editing(ZERO.at("z")):
        model.model.model(tokens)


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2", "gpt_neox-parallel"])
def test_positions_are_absolute_around_generation(tiny, tokens, name):
    """Against whole passes over all that is there so far, each with the edit."""
    model, edit = tiny(name), Scale(3.0).at("resid_post", layer=0, pos=[3, 7, 9])
    with model.editing(edit):
        got = generated(model, tokens, 6)
    prompt = tokens
    for token, logprobs in got:
        so_far = [p for p in (3, 7, 9) if p < prompt.shape[1]]
        logits = model.run(prompt, [Scale(3.0).at("resid_post", layer=0, pos=so_far)], logits_at=-1)[0, 0]
        wanted = logits - mx.logsumexp(logits)
        assert mx.max(mx.abs(logprobs - wanted)).item() <= ROUNDING * mx.max(mx.abs(wanted)).item()
        prompt = mx.concatenate([prompt, mx.array([[token]])], axis=1)
    assert not same(got[0][1], generated(model, tokens, 1)[0][1])


def test_mlx_lms_own_generate_is_edited(tiny, tokens, word_tokenizer):
    model, edit = tiny(), Scale(3.0).at("resid_post", layer=0, pos=slice(0, 20))
    ids = tokens[0].tolist()
    with model.editing(edit):
        inside = mlx_lm.generate(model.model, word_tokenizer, ids, max_tokens=6)
    hooked = HookedModel(model.model, word_tokenizer)
    assert inside == hooked.generate(tokens, [edit], max_tokens=6)
    assert inside != mlx_lm.generate(model.model, word_tokenizer, ids, max_tokens=6)
