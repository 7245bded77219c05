"""Selectors: the positions that they choose, in words that a prompt has, and what they refuse."""

import mlx.core as mx
import pytest
from mlx_lm.tokenizer_utils import TokenizerWrapper
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import PreTrainedTokenizerFast

from mlx_patch import ActivationStore, Alignment, Apply, HookedModel, Replace, Scale, align, pos, sweep
from mlx_patch.errors import FileError, KindError, SelectionError, TokenError, ValueRefusedError
from mlx_patch.metrics import LogProb
from mlx_patch.positions import Pieces

EMBEDDED = "examples/models/tiny_instruct_ext"
TEXT = "John met Mary, and John gave Mary a drink"
CHAT = [
    {"role": "user", "content": "Remember Mars (planet 4)."},
    {"role": "assistant", "content": "Done: Mars."},
    {"role": "user", "content": "Thanks. List all items."},
]


@pytest.fixture(scope="module")
def embedded():
    return HookedModel.load(EMBEDDED)


def said(model, prompt, selector):
    """The text of the chosen tokens."""
    pieces = Pieces(tuple(model.tokenize(prompt)[0].tolist()), model.tokenizer)
    return "".join(pieces.texts[p] for p in selector.find(pieces))


@pytest.mark.parametrize("text", [TEXT, "Zoë 日本 🎉!", " two  spaces ", "a\nb\tc", "e\u0301\u200f"])
def test_pieces_are_the_text_however_it_is_cut(embedded, text):
    ids = tuple(embedded.tokenizer.encode(text, add_special_tokens=False))
    pieces = Pieces(ids, embedded.tokenizer)
    assert pieces.text == embedded.tokenizer.decode(list(ids)) == text
    assert len(pieces.texts) == len(ids)
    assert all(text[a:b] == piece for (a, b), piece in zip(pieces.spans, pieces.texts, strict=True))


def test_a_character_of_several_tokens_is_the_last_ones(embedded):
    ids = tuple(embedded.tokenizer.encode("🎉", add_special_tokens=False))
    assert Pieces(ids, embedded.tokenizer).texts == (*[""] * (len(ids) - 1), "🎉")


def test_a_text_is_all_its_tokens_and_its_end_the_last(embedded):
    assert said(embedded, TEXT, pos.text("Mary", nth=0)) == " Mary"
    assert said(embedded, TEXT, pos.text("gave Mary a")) == " gave Mary a"
    ids = embedded.tokenize(TEXT)[0].tolist()
    name = embedded.tokenizer.encode(" Mary", add_special_tokens=False)
    assert len(name) > 1
    begin = next(i for i in range(len(ids)) if ids[i : i + len(name)] == name)
    assert pos.text(" Mary", nth=0).resolve(ids, embedded.tokenizer) == tuple(range(begin, begin + len(name)))
    assert pos.text(" Mary", nth=0).final.resolve(ids, embedded.tokenizer) == (begin + len(name) - 1,)
    assert pos.text(" Mary", nth=0).first.resolve(ids, embedded.tokenizer) == (begin,)


WORDS = ["unknown", "Bartholomew", "met", "Bart", "Mary"]


def words():
    """A tokenizer of a few whole words."""
    whole = Tokenizer(WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="unknown"))
    whole.pre_tokenizer = WhitespaceSplit()
    return TokenizerWrapper(PreTrainedTokenizerFast(tokenizer_object=whole, eos_token="unknown"))


def test_a_longer_word_does_not_hinder_the_match_that_is_named():
    tokenizer, ids = words(), [1, 2, 3, 2, 3]
    assert pos.text("Bart", nth=-1).resolve(ids, tokenizer) == (4,)
    assert pos.text("Bart", nth=1).resolve(ids, tokenizer) == (2,)
    assert pos.text("Bart", nth=-2).first.resolve(ids, tokenizer) == (2,)


@pytest.mark.parametrize("nth", [0, -3, "all"])
def test_a_named_match_that_is_a_part_of_a_word_is_refused(nth):
    with pytest.raises(
        SelectionError, match=r"position 0 holds more text: 'Bartholomew'.*another match, such as nth=-1"
    ):
        pos.text("Bart", nth=nth).resolve([1, 2, 3, 2, 3], words())


def test_one_of_several_is_said_or_all():
    ids = [5, 7, 9, 7]
    assert pos.token(7, nth=0).resolve(ids) == (1,)
    assert pos.token(7, nth=-1).resolve(ids) == (3,)
    assert pos.token(7, nth="all").resolve(ids) == (1, 3)
    assert pos.token(9).resolve(ids) == (2,)


def test_unions_offsets_and_ends():
    ids = [5, 7, 9, 7]
    assert (pos.token(9) | pos.last).resolve(ids) == (2, 3)
    assert (pos.last | pos.token(9) | pos.last).resolve(ids) == (2, 3)
    assert (pos.token(9) + 1).resolve(ids) == (3,)
    assert (pos.token(7, nth="all") - 1).resolve(ids) == (0, 2)
    assert (pos.token(7, nth="all") - 1).final.resolve(ids) == (2,)
    assert repr((pos.token(9) | pos.last) + 1) == "(token(9) | last) + 1"
    assert pos.token(9) == pos.token(9) != pos.token(8)


def test_turns_and_roles_are_the_messages(embedded):
    for number, message in enumerate(CHAT):
        assert said(embedded, CHAT, pos.turn(number)) == message["content"]
        assert said(embedded, CHAT, pos.turn(number - 3)) == message["content"]
    assert said(embedded, CHAT, pos.role("user")) == CHAT[0]["content"] + CHAT[2]["content"]
    assert said(embedded, CHAT, pos.role("assistant")) == CHAT[1]["content"]
    assert said(embedded, CHAT, pos.turn(-1).final + 1) == "<|end|>"


def test_an_answer_that_has_been_begun_is_the_last_turn(embedded):
    tokens = mx.concatenate(
        [embedded.tokenize(CHAT), mx.array([embedded.tokenizer.encode("Of", add_special_tokens=False)])], axis=1
    )
    pieces = Pieces(tuple(tokens[0].tolist()), embedded.tokenizer)
    assert "".join(pieces.texts[p] for p in pos.turn(-1).find(pieces)) == "Of"


REFUSED = {
    "nothing": (pos.token(8), SelectionError, r"must choose something. Got none for token\(8\) in the 4 tokens"),
    "too much": (
        pos.token(7),
        SelectionError,
        r"one of 2 matches. Got token\(7\), which is at 1, 3. Choose one with nth=0",
    ),
    "a number past the end": (pos.token(7, nth=2), SelectionError, r"`nth` must lie in -2 to 1. Got 2"),
    "an offset past the end": (pos.last + 1, SelectionError, r"must lie in 0 to 3. Got 4 from last \+ 1"),
    "a text without a tokenizer": (pos.text("a"), TokenError, "`tokenizer` must be given if positions go by text"),
    "a token without a tokenizer": (pos.token(" a"), TokenError, "`tokenizer` must be given where a token is text"),
    "a function that says no": (pos.where(lambda p, t, x: False), SelectionError, "must choose something. Got no pos"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_found_is_refused(name):
    selector, error, message = REFUSED[name]
    with pytest.raises(error, match=message):
        selector.resolve([5, 7, 9, 7])


def test_what_a_prompt_does_not_have_is_refused_in_its_words(embedded):
    ids, tokenizer = embedded.tokenize(TEXT), embedded.tokenizer
    with pytest.raises(SelectionError, match=r"Got none for text\('Peter'\) in '<s>John met"):
        pos.text("Peter").resolve(ids, tokenizer)
    with pytest.raises(SelectionError, match=r"must consist of whole tokens. Got 'ohn m', but the token at"):
        pos.text("ohn m").resolve(ids, tokenizer)
    with pytest.raises(TokenError, match=r"must be one token. Got ' Mary', which gives \d.*mp.pos.text\(' Mary'\)"):
        pos.token(" Mary").resolve(ids, tokenizer)
    with pytest.raises(TokenError, match=r"`tokens` must be a chat from the tokenizer's template"):
        pos.turn(-1).resolve(tokenizer.encode("no chat at all", add_special_tokens=False), tokenizer)
    chat = embedded.tokenize(CHAT)
    with pytest.raises(SelectionError, match=r"`role` must be one of this chat. Got 'tool'. It has: user, assistant"):
        pos.role("tool").resolve(chat, tokenizer)
    with pytest.raises(SelectionError, match=r"`turn` must lie in -3 to 2, the messages of this chat. Got 3"):
        pos.turn(3).resolve(chat, tokenizer)
    with pytest.raises(TokenError, match=r"`tokens` must be a chat"):
        pos.turn(-1).resolve(f"{tokenizer.decode(chat[0].tolist())}<|user|>again", tokenizer)


def test_roles_need_a_template(word_tokenizer):
    with pytest.raises(TokenError, match="must have a chat template if positions go by role or turn"):
        pos.role("user").resolve([3, 4], word_tokenizer)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: pos.text(""), ValueRefusedError, "must hold something to look for"),
        (lambda: pos.text(3), KindError, r"`text` must be a text. Got 3. Write mp.pos.token\(\.\.\.\)"),
        (lambda: pos.token(True), KindError, "must be a text or a token id. Got True"),
        (lambda: pos.token(3, nth=0.5), KindError, "must be a number from 0, or 'all'. Got 0.5"),
        (lambda: pos.turn("user"), KindError, "must be the number of a message. Got 'user'"),
        (lambda: pos.where(3), KindError, "must be a function of"),
        (lambda: pos.last | 3, KindError, "must join two selectors. Got 3"),
        (lambda: pos.last + 1.0, KindError, "must be a whole number of positions. Got 1.0"),
        (lambda: pos.last - "a", KindError, "must be a whole number of positions. Got 'a'"),
        (lambda: pos.show(4, [5, 6]), SelectionError, "must lie in -2 to 1. Got 4"),
    ],
)
def test_what_makes_no_selector_is_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_what_was_chosen_is_shown(embedded):
    shown = pos.show(pos.text("met").final | pos.last, "John met Mary", embedded.tokenizer)
    first, *_, text = str(shown).splitlines()
    assert first == f"text('met').final | last: 2 of {len(embedded.tokenize('John met Mary')[0])} positions"
    assert text.count("[") == 2
    assert text.replace("[", "").replace("]", "") == "<s>John met Mary"
    assert str(pos.show([-1, 0], [5, 6])).splitlines() == ["[-1, 0]: 2 of 2 positions", "1 6, 0 5"]


# In runs


def bits(a, b):
    return mx.array_equal(a, b).item()


@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt2", "qwen3_next"])
def test_a_selector_is_the_positions_that_it_chooses(tiny, tokens, name):
    model, edit = tiny(name), Scale(0.5)
    selector = pos.token(85) | pos.last
    got = model.run(tokens, [edit.at("mlp_out", layer=0, pos=selector)], logits_at=pos.token(4) | pos.last)
    wanted = model.run(tokens, [edit.at("mlp_out", layer=0, pos=[2, 7])], logits_at=[5, 7])
    assert bits(got, wanted)
    assert not bits(got, model.run(tokens, logits_at=[5, 7]))
    cache = model.run_with_cache(tokens, "resid_post", pos=pos.token(85))[1]
    assert cache.positions == (2,)


def test_each_row_has_its_own_positions(tiny):
    rows = mx.array([[5, 7, 9, 11], [7, 5, 9, 12], [5, 7, 1, 2]])
    model, wanted = tiny(), []
    got = model.run(rows, [Scale(0.0).at("resid_post", layer=0, pos=pos.token(7))])
    edits = [Scale(0.0).at("resid_post", layer=0, pos=p, batch=b) for p, b in ((1, [0, 2]), (0, 1))]
    assert bits(got, model.run(rows, edits))
    only = model.run(rows, [Scale(0.0).at("resid_post", layer=0, pos=pos.token(12), batch=[-2])])
    assert bits(only[0], model.run(rows)[0])
    wanted.append(model.run(rows, [Scale(0.0).at("resid_post", layer=0, pos=3, batch=1)]))
    assert bits(only, wanted[0])
    with pytest.raises(
        SelectionError, match=r"`logits_at` must be the same positions in every row. Got token\(7\): \[1\]"
    ):
        model.run(rows, logits_at=pos.token(7))
    with pytest.raises(SelectionError, match=r"`batch` must lie in -3 to 2. Got 3"):
        model.run(rows, [Scale(0.0).at("resid_post", pos=pos.last, batch=3)])


def test_behind_a_prompt_cache_a_selector_finds_what_is_new(tiny, tokens):
    from mlx_lm.models.cache import make_prompt_cache

    model = tiny()
    held = make_prompt_cache(model.model)
    model.run(tokens[:, :5], prompt_cache=held)
    seen = []
    edit = Apply(lambda own, site: (seen.append(own.shape[1]), own * 0)[1])
    got = model.run(tokens[:, 5:], [edit.at("mlp_out", layer=0, pos=pos.token(41))], prompt_cache=held)
    held = make_prompt_cache(model.model)
    model.run(tokens[:, :5], prompt_cache=held)
    assert bits(got, model.run(tokens[:, 5:], [Scale(0.0).at("mlp_out", layer=0, pos=6)], prompt_cache=held))
    assert seen == [1]


def test_generation_knows_its_prompt(embedded):
    prompt = "Mars (planet"
    edit = Scale(0.0).at("resid_post", layer=2, pos=pos.last)
    [at] = pos.last.resolve(embedded.tokenize(prompt))
    wanted = embedded.generate(prompt, [Scale(0.0).at("resid_post", layer=2, pos=at)], max_tokens=6)
    assert embedded.generate(prompt, [edit], max_tokens=6) == wanted


def test_where_the_prompt_is_not_known_selectors_are_refused(tiny, tokens):
    model = tiny()
    with (
        pytest.raises(SelectionError, match=r"must hold numbers if the prompt is not known. Got last. Resolve it"),
        model.editing(Scale(0.0).at("z", layer=1, pos=pos.last)),
    ):
        model.model(tokens)


# In sweeps


@pytest.mark.parametrize("executor", ["grow", "rows", "reference"])
def test_a_sweep_goes_over_selectors(tiny, executor):
    model, metric = tiny(), LogProb(3)
    prompts = [mx.array([[5, 7, 9, 11]]), mx.array([[5, 2, 2, 7, 9]]), mx.array([[7, 5, 9, 12]])]
    cache = model.run_with_cache(mx.array([[1, 2, 3, 4]]), "resid_post")[1]
    zero, places = Scale(0.0), [pos.token(7), pos.last]
    got = sweep(model, prompts, zero, "mlp_out", ("layer", "pos"), metric, positions=places, executor=executor)
    assert got.coords["pos"] == ("token(7)", "last")
    for i, prompt in enumerate(prompts):
        where = [prompt[0].tolist().index(7), prompt.shape[1] - 1]
        alone = sweep(model, prompt, zero, "mlp_out", ("layer", "pos"), metric, positions=where, executor="reference")
        assert abs(got.values[:, :, i] - alone.values[:, :, 0]).max() < 1e-5
    fixed = sweep(model, prompts[0], Replace(cache), "resid_post", "layer", metric, positions=places, executor=executor)
    both = sweep(model, prompts[0], Replace(cache), "resid_post", "layer", metric, positions=[1, 3])
    assert abs(fixed.values - both.values).max() < 1e-5
    assert fixed.provenance["pos"] == "token(7) | last"


def test_a_sweep_refuses_selectors_among_numbers(tiny, tokens):
    with pytest.raises(SelectionError, match=r"all selectors or all numbers if `over` has no 'pos'. Got both: last, 3"):
        sweep(tiny(), tokens, Scale(0.0), "z", "layer", LogProb(3), positions=[pos.last, 3])


# In lists of prompts and in stores


def test_each_prompt_of_a_list_has_its_own_positions(tiny):
    model, prompts = tiny(), [[5, 7, 9, 11], [7, 2, 2, 4, 9], [7, 5, 9, 12]]
    edit = Scale(0.0).at("resid_post", layer=0, pos=pos.token(7))
    got = model.run_each(prompts, [edit], logits_at=pos.token(9))
    for prompt, logits in zip(prompts, got, strict=True):
        at = [Scale(0.0).at("resid_post", layer=0, pos=prompt.index(7))]
        assert bits(logits, model.run([prompt], at, logits_at=prompt.index(9)))


def test_a_store_keeps_what_a_selector_chooses_of_each_prompt(tiny, tmp_path):
    model, prompts = tiny(), [[5, 7, 9, 11], [7, 2, 2, 4, 9], [7, 5, 9, 12]]
    store = ActivationStore.capture(model, prompts, tmp_path / "s", sites="resid_post", pos=pos.token(9) | pos.token(7))
    for prompt, cache in zip(prompts, store, strict=True):
        assert cache.positions == tuple(sorted((prompt.index(7), prompt.index(9))))


def test_a_checkpoint_knows_an_alignment_again(tiny, tmp_path):
    model, short, long = tiny(), mx.array([[5, 7, 9]]), mx.array([[5, 2, 7, 9]])
    cache = model.run_with_cache(short, "resid_post")[1]
    arguments = (model, long, Replace(cache), "resid_post", "layer", LogProb(3))
    first = sweep(*arguments, positions=align(short, long), checkpoint=tmp_path / "c")
    again = sweep(*arguments, positions=align(short, long), checkpoint=tmp_path / "c")
    assert (first.values == again.values).all()
    with pytest.raises(FileError, match="has another"):
        sweep(*arguments, positions=Alignment(short, long, [(0, 0), (2, 3)]), checkpoint=tmp_path / "c")
