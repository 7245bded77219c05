import mlx.core as mx
import numpy as np
import pytest

from mlx_patch.errors import KindError, SelectionError, ShapeError, TokenError
from mlx_patch.tokens import as_tokens, tokenize

BOS, CHAT = "<s>", [{"role": "user", "content": "hi"}]


class Fake:
    """A tokenizer of single characters, with `<s>` for the beginning; it adds one, as many do."""

    bos_token: str | None = BOS
    chat_template: str | None = "a template"

    def encode(self, text, add_special_tokens=True):
        text.encode("utf-8")
        special = [1] if add_special_tokens and self.bos_token else []
        while text.startswith(BOS):
            special, text = [*special, 1], text.removeprefix(BOS)
        return special + [ord(c) for c in text]

    def apply_chat_template(self, messages, tokenize, add_generation_prompt, **more):
        assert not tokenize
        said = "".join(message["content"] for message in messages)
        return f"{BOS}{said}{'>' if add_generation_prompt else ''}{more.get('extra', '')}"


class WithoutTemplate(Fake):
    chat_template = None


class WithoutBos(Fake):
    bos_token = None


def test_a_text_gets_one_bos():
    assert tokenize(Fake(), "hi").tolist() == [[1, 104, 105]]


def test_a_text_that_begins_with_bos_gets_no_second_one():
    assert tokenize(Fake(), "<s>hi").tolist() == [[1, 104, 105]]


def test_a_chat_gets_one_bos_and_the_generation_prompt():
    assert tokenize(Fake(), CHAT).tolist() == [[1, 104, 105, ord(">")]]


def test_a_chat_template_takes_more():
    assert tokenize(Fake(), CHAT, add_generation_prompt=False, extra="!").tolist() == [[1, 104, 105, ord("!")]]


def test_a_tokenizer_without_bos_adds_none():
    assert tokenize(WithoutBos(), "hi").tolist() == [[104, 105]]


def test_text_without_a_tokenizer_is_refused():
    with pytest.raises(TokenError, match=r"`tokenizer` must be given to turn text into tokens\. Got None\. Pass one"):
        tokenize(None, "hi")


def test_a_chat_without_a_template_is_refused():
    with pytest.raises(TokenError, match=r"`prompt` must be text if the tokenizer has no chat template"):
        tokenize(WithoutTemplate(), CHAT)


@pytest.mark.parametrize("prompt", [[], ["hi"], [1, 2]])
def test_what_is_neither_text_nor_chat_is_refused(prompt):
    with pytest.raises(
        TokenError, match="`prompt` must be text or chat messages, which are dicts with role and content"
    ):
        tokenize(Fake(), prompt)


def test_an_empty_text_is_refused():
    with pytest.raises(TokenError, match=r"`prompt` must give at least one token\. Got ''"):
        tokenize(WithoutBos(), "")


def test_a_lone_surrogate_is_refused():
    with pytest.raises(TokenError, match=r"`prompt` must be text that UTF-8 can encode\. Got '\\ud83d' in it"):
        tokenize(Fake(), "smile \ud83d")


def test_a_real_tokenizer_refuses_a_lone_surrogate_too(word_tokenizer):
    with pytest.raises(TokenError, match="`prompt` must be text that UTF-8 can encode"):
        tokenize(word_tokenizer, "w3 \ud83d")


@pytest.mark.parametrize(
    "given",
    [[3, 5], [[3, 5]], (3, 5), np.array([3, 5]), np.array([[3, 5]], np.uint8), mx.array([3, 5]), mx.array([[3, 5]])],
    ids=repr,
)
def test_ids_may_come_as_any_integers_of_one_or_two_axes(given):
    assert as_tokens(given, 96).tolist() == [[3, 5]]


def test_a_batch_stays_a_batch():
    assert as_tokens([[3, 5], [7, 9]], 96).shape == (2, 2)


@pytest.mark.parametrize("given", [[0.5], np.array([1.0]), mx.array([1.0]), [True, False], mx.array([True]), "hi"])
def test_ids_that_are_not_integers_are_refused(given):
    with pytest.raises(KindError, match=r"`tokens` must be integers\. Got .*\. Use `model\.tokenize\(text\)`"):
        as_tokens(given, 96)


@pytest.mark.parametrize(
    "given", [np.zeros((1, 1, 1), int), mx.zeros((1, 0), mx.int32), mx.array(3)], ids=lambda g: g.ndim
)
def test_other_shapes_are_refused(given):
    with pytest.raises(ShapeError, match=r"`tokens` must have the shape \(batch, pos\), and not be empty\. Got \("):
        as_tokens(given, 96)


def test_rows_of_different_lengths_are_refused():
    with pytest.raises(
        ShapeError, match=r"`tokens` must have the same number in each row\. .* list to `model\.run_each`"
    ):
        as_tokens([[1, 2], [3]], 96)


@pytest.mark.parametrize("wrong", [-1, 96, 2**32 + 3, -(2**32) + 3])
def test_ids_that_the_model_does_not_know_are_refused(wrong):
    with pytest.raises(SelectionError, match=rf"`tokens` must lie in 0 to 95\. Got {wrong}\. Is it another model's"):
        as_tokens([3, wrong], 96)


def test_the_whole_vocabulary_is_known():
    assert as_tokens([0, 95], 96).tolist() == [[0, 95]]
