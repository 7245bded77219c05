"""Every task's pairs are what they say, the same for a seed, and fit the tokenizer they are drawn for."""

import hashlib
import re

import pytest

from mlx_patch import HookedModel
from mlx_patch import tasks as module
from mlx_patch.errors import KindError, TokenError, ValueRefusedError

TASKS = {name: getattr(module, name) for name in ("ioi", "greater_than", "capital", "gendered_pronoun", "docstring")}
HASHES = {
    "ioi": "47e3982aae66",
    "greater_than": "b5a2e7523981",
    "capital": "16793deaee90",
    "gendered_pronoun": "4ddcc470d2b7",
    "docstring": "ad2b81483e17",
}


class ByWord:
    """A tokenizer of words, each with the space before it, of single digits, or of as many as it is told."""

    bos_token = None

    def __init__(self, digits=2):
        self.piece, self.words = re.compile(rf"\s?[A-Za-z']+|\d{{1,{digits}}}|\s|[^\w\s]|_"), []

    def encode(self, text, add_special_tokens=True):
        pieces = self.piece.findall(text)
        self.words += [piece for piece in dict.fromkeys(pieces) if piece not in self.words]
        return [self.words.index(piece) for piece in pieces]

    def decode(self, ids):
        return "".join(self.words[token] for token in ids)


@pytest.mark.parametrize("name", TASKS)
def test_a_seed_gives_the_same_pairs_everywhere(name):
    text = repr(TASKS[name](5, seed=3).pairs)
    assert hashlib.sha256(text.encode()).hexdigest()[:12] == HASHES[name]
    assert TASKS[name](5, seed=4).pairs != TASKS[name](5, seed=3).pairs


@pytest.mark.parametrize("name", TASKS)
def test_pairs_fit_the_tokenizer(name):
    tokenizer = ByWord()
    pairs = TASKS[name](12, seed=1, tokenizer=tokenizer)
    lengths = {len(tokenizer.encode(text)) for pair in pairs for text in (pair.clean, pair.corrupted)}
    assert len(lengths) == 1
    assert len(set(pairs)) == 12
    for pair in pairs:
        assert pair.clean != pair.corrupted
        for answer in (*pair.answers, *pair.foils):
            assert isinstance(answer, int) or len(tokenizer.encode(answer)) == 1


def test_the_giver_is_never_the_answer_of_ioi():
    orders = set()
    for pair in TASKS["ioi"](40, seed=2):
        for text, answer, foil in ((pair.clean, pair.answer, pair.foil), (pair.corrupted, pair.foil, pair.answer)):
            assert text.count(answer) == 1
            assert text.count(foil[1:]) == 2
        orders.add(pair.clean.index(pair.answer) < pair.clean.index(pair.foil))
    assert orders == {True, False}


@pytest.mark.parametrize("digits", [1, 2, 3])
def test_years_are_sorted_by_the_tokens_that_begin_them(digits):
    tokenizer = ByWord(digits)
    for pair in TASKS["greater_than"](6, seed=0, tokenizer=tokenizer):
        first = int(re.search(r"(\d+) to", pair.clean)[1])
        century, ending = first // 100, re.search(r"year ?(\d*)$", pair.clean)[1]
        after, up_to = (sorted(int(tokenizer.decode([one])) for one in own) for own in (pair.answers, pair.foils))
        assert (ending == str(century)) == (digits != 3)
        year = {1: first % 100 // 10, 2: first % 100, 3: first // 10}[digits]
        assert after[0] == year + 1
        assert up_to[-1] == year - (digits != 2 and first % 10 != 9)
        assert "01 to" in pair.corrupted


def test_docstring_answers_are_the_third_arguments():
    for pair in TASKS["docstring"](10, seed=5):
        for text, answer in ((pair.clean, pair.answer), (pair.corrupted, pair.foil)):
            assert re.search(r"\((.*)\)", text)[1].split(", ")[3] == answer.strip()


def test_a_tokenizer_that_no_pair_fits_is_refused(word_tokenizer):
    with pytest.raises(
        ValueRefusedError, match=r"`n` must be at most the number of different pairs whose prompts have"
    ):
        TASKS["ioi"](2, tokenizer=word_tokenizer)
    with pytest.raises(TokenError, match=r"`tokenizer` must have tokens that distinguish the years of a century"):
        TASKS["greater_than"](2, tokenizer=word_tokenizer)


@pytest.mark.slow
def test_other_numbers_are_refused():
    with pytest.raises(ValueRefusedError, match=r"`n` must be 1 or more pairs\. Got 0"):
        TASKS["ioi"](0)
    with pytest.raises(KindError, match=r"`seed` must be a whole number\. Got 0\.5"):
        TASKS["ioi"](1, seed=0.5)
    with pytest.raises(
        ValueRefusedError, match=r"`n` must be at most the number of different pairs\. Got 3000, and found 2600"
    ):
        TASKS["capital"](3000)


def test_the_embedded_model_takes_the_tasks_its_tokens_allow():
    model = HookedModel.load("examples/models/tiny_base")
    for name in ("docstring", "greater_than"):
        report = TASKS[name](2, tokenizer=model.tokenizer).check(model)
        assert all(row.length[0] == row.length[1] > 0 for row in report.rows)
        assert all(row.clean == row.clean for row in report.rows)
