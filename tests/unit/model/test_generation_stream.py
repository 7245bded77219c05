"""`stream`: edits are in force while mlx_lm computes, and not while the caller looks at a response."""

import mlx.core as mx
import mlx_lm
import pytest

from mlx_patch import Ablate, Apply, HookedModel, Scale
from mlx_patch.errors import EditNotUsedError, KindError, TokenError, ValueRefusedError

EDIT = Scale(3.0).at("resid_post", layer=0)


@pytest.fixture
def llama(tiny, word_tokenizer):
    return HookedModel(tiny("llama").model, word_tokenizer)


def classes(model):
    return [type(module) for module in model.model.modules()]


def test_a_stream_is_the_text_that_generate_gives(llama, tokens):
    responses = list(llama.stream(tokens, [EDIT], max_tokens=6))
    assert "".join(r.text for r in responses) == llama.generate(tokens, [EDIT], max_tokens=6)
    assert responses[-1].finish_reason == "length"
    assert "".join(r.text for r in responses) != llama.generate(tokens, max_tokens=6)


def test_a_chat_or_a_text_streams(llama, tokens):
    said = "w11 w48 w85 w26 w63 w04 w41 w78"
    assert [r.token for r in llama.stream(said, [EDIT], 4)] == [r.token for r in llama.stream(tokens, [EDIT], 4)]


def test_between_two_responses_the_model_is_unpatched(llama, tokens):
    plain, before = llama.model(tokens), classes(llama)
    seen = []
    for _ in llama.stream(tokens, [EDIT], max_tokens=4):
        assert classes(llama) == before
        assert mx.array_equal(llama.model(tokens), plain)
        assert mx.array_equal(llama.run(tokens, [Scale(1.0).at("resid_post")]), plain)
        seen.append(llama.generate(tokens, max_tokens=3))
    assert seen == [llama.generate(tokens, max_tokens=3)] * 4


def test_what_a_caller_does_between_responses_does_not_show(llama, tokens):
    wanted = [r.token for r in llama.stream(tokens, [EDIT], max_tokens=6)]
    got = []
    for response in llama.stream(tokens, [EDIT], max_tokens=6):
        got.append(response.token)
        llama.run(tokens[:, :3], [Ablate("zero").at("mlp_out")])
    assert got == wanted


def test_two_streams_in_turn_do_not_mix(llama, tokens):
    other = Scale(0.2).at("resid_post", layer=1)
    one, two = llama.stream(tokens, [EDIT], 5), llama.stream(tokens, [other], 5)
    pairs = [(a.token, b.token) for a, b in zip(one, two, strict=False)]
    wanted = zip(llama.stream(tokens, [EDIT], 5), llama.stream(tokens, [other], 5), strict=False)
    alone = [[r.token for r in llama.stream(tokens, [edit], 5)] for edit in (EDIT, other)]
    assert pairs == list(zip(*alone, strict=False)) == [(a.token, b.token) for a, b in wanted]
    assert alone[0] != alone[1]


def test_edits_around_a_stream_hold_too(llama, tokens):
    other = Scale(0.2).at("resid_post", layer=1)
    with llama.editing(other):
        got = [r.token for r in llama.stream(tokens, [EDIT], 5)]
    assert got == [r.token for r in llama.stream(tokens, [other, EDIT], 5)]


def test_a_stream_closed_early_leaves_the_model_as_before(llama, tokens):
    before = classes(llama)
    responses = llama.stream(tokens, [EDIT, Scale(2.0).at("z", pos=400)], max_tokens=50)
    next(responses)
    next(responses)
    responses.close()
    assert classes(llama) == before
    assert next(responses, None) is None


def test_a_failure_leaves_the_model_as_before(llama, tokens):
    before, seen = classes(llama), []

    def fail_at_the_fourth(activation, site):
        seen.append(site)
        if len(seen) == 4:
            raise KeyboardInterrupt
        return activation

    responses = llama.stream(tokens, [Apply(fail_at_the_fourth).at("resid_post", layer=1)], max_tokens=9)
    with pytest.raises(KeyboardInterrupt):
        list(responses)
    assert classes(llama) == before


def test_an_edit_that_never_acted_is_told_at_the_end(llama, tokens):
    """After the last response."""
    responses = llama.stream(tokens, [Scale(2.0).at("z", pos=400)], max_tokens=3)
    assert len([next(responses) for _ in range(3)]) == 3
    with pytest.raises(EditNotUsedError, match="none of its positions was computed"):
        next(responses)


def test_refusals_come_before_the_first_response(llama, tiny, tokens):
    with pytest.raises(KindError, match="`edits` must hold edits"):
        llama.stream(tokens, ["z"])
    with pytest.raises(KindError, match="`draft_model` must be None with edits"):
        llama.stream(tokens, draft_model=llama.model)
    with pytest.raises(KindError, match="`draft_model` must be None with edits"):
        llama.generate_with_cache(tokens, draft_model=llama.model)
    with pytest.raises(KindError, match=r"`input_embeddings` must be None .*edit `embed` with Replace"):
        llama.stream(tokens, input_embeddings=mx.zeros((8, 64)))
    with pytest.raises(TokenError, match="`tokenizer` must be given to turn text into tokens"):
        tiny("llama").stream("w11 w48")


@pytest.mark.parametrize("n", [0, -2, 2.0, True])
def test_max_tokens_is_a_number_of_tokens(llama, tokens, n):
    with pytest.raises(ValueRefusedError, match="`max_tokens` must be 1 or more, or -1 for no limit"):
        llama.stream(tokens, max_tokens=n)


def test_one_token_is_read_and_said(llama, tokens):
    ids = tokens[0].tolist()
    [wanted] = [r.token for r in mlx_lm.stream_generate(llama.model, llama.tokenizer, ids, 1)]
    text, cache = llama.generate_with_cache(tokens, max_tokens=1)
    assert [r.token for r in llama.stream(tokens, max_tokens=1)] == [wanted]
    assert cache.tokens[0].tolist() == [*ids, wanted]
    assert text == f"w{wanted:02}"
