"""How a metric's strings become token ids, and `TopK`, which gives strings back."""

import math

import mlx.core as mx
import pytest

from mlx_patch.errors import KindError, SelectionError, TokenError, ValueRefusedError
from mlx_patch.metrics import (
    KL,
    Entropy,
    LogitDiff,
    LogProb,
    Prob,
    Rank,
    SequenceLogitDiff,
    StartsWith,
    TokenSetProb,
    TopK,
    TopToken,
)

PIECES = ["<unk>", "<bos>", " Mary", " John", "Tok", "yo", " ", "a", "b", "c", "Paris", "Ma", "ry"]


class Pieces:
    """A tokenizer of a few pieces: the longest that fits, else the unknown token."""

    unk_token_id = 0

    def encode(self, text, add_special_tokens=True):
        ids = [1] if add_special_tokens else []
        while text:
            fits = [piece for piece in PIECES[2:] if text.startswith(piece)]
            piece = max(fits, key=len, default=None)
            ids.append(PIECES.index(piece) if piece else 0)
            text = text[len(piece) if piece else 1 :]
        return ids

    def decode(self, ids):
        return "".join(PIECES[i] for i in ids)


TOKENIZER = Pieces()


def logits_of(*row: float) -> mx.array:
    return mx.array(row)[None, None]


def test_strings_become_ids_without_special_tokens():
    resolved = LogitDiff(" Mary", " John").resolve(TOKENIZER)
    assert (resolved.right, resolved.wrong) == (2, 3)
    assert resolved(logits_of(0.0, 0.0, 5.0, 3.0)).item() == 2.0


@pytest.mark.parametrize("kind", [Prob, LogProb, Rank])
def test_each_example_resolves_its_own_answer(kind):
    assert kind([" Mary", 7, " John"]).resolve(TOKENIZER) == kind([2, 7, 3], name=kind([" Mary", 7, " John"]).name)


def test_a_resolved_metric_keeps_its_label_and_position():
    resolved = Prob(" Mary", pos=4).resolve(TOKENIZER)
    assert (resolved.name, resolved.pos, repr(resolved)) == ("prob(' Mary', pos=4)", 4, "Prob(2, pos=4)")


@pytest.mark.parametrize(
    "metric", [Entropy(), Prob(3), LogitDiff(1, 2), TokenSetProb([3, 4]), KL(mx.zeros((1, 2)))], ids=lambda m: m.name
)
def test_a_metric_without_strings_resolves_to_itself(metric):
    assert metric.resolve(TOKENIZER) is metric
    assert metric.resolve(None) is metric


def test_a_token_set_is_the_union_of_its_strings():
    assert TokenSetProb("Tokyo").resolve(TOKENIZER).strings == (4, 5)
    assert TokenSetProb(["Tokyo", "yoa", 7]).resolve(TOKENIZER).strings == (4, 5, 7)
    probabilities = [math.log(p) for p in (0.1, 0.1, 0.1, 0.1, 0.2, 0.4)]
    assert TokenSetProb("Tokyo").resolve(TOKENIZER)(logits_of(*probabilities)).item() == pytest.approx(0.4)
    assert TokenSetProb("Tokyo", "sum").resolve(TOKENIZER)(logits_of(*probabilities)).item() == pytest.approx(0.6)


def test_an_answer_of_several_tokens_is_refused_with_its_pieces():
    with pytest.raises(TokenError, match=r"`token` must be one token. Got 'Tokyo', which gives 2: 'Tok' \(4\), 'yo'"):
        Prob("Tokyo").resolve(TOKENIZER)
    with pytest.raises(TokenError, match=r"`SequenceLogitDiff\(right, wrong\)`.*For the first token alone, .* 4\."):
        LogitDiff(" Mary", "Tokyo").resolve(TOKENIZER)
    SequenceLogitDiff(" Mary", "Tokyo").resolve(TOKENIZER)  # the remedies exist
    StartsWith("Tokyo").resolve(TOKENIZER)


def test_the_other_spacing_is_named_where_it_is_one_token():
    with pytest.raises(TokenError, match=r"Got ' Paris', which gives 2: .*'Paris' is one token \(10\)"):
        Prob(" Paris").resolve(TOKENIZER)
    with pytest.raises(TokenError, match=r"2: 'Tok' \(4\), 'yo' \(5\)\. Measure"):  # ' Tokyo' is no better: not named
        Prob("Tokyo").resolve(TOKENIZER)


def test_many_pieces_are_cut_short():
    with pytest.raises(TokenError, match=r"which gives 10: .* and 2 more"):
        Prob("cacacacaca").resolve(TOKENIZER)


def test_a_leading_space_is_named_where_it_helps():
    with pytest.raises(TokenError, match=r"Got 'Mary', which gives 2: .*' Mary' is one token \(2\)"):
        Prob("Mary").resolve(TOKENIZER)


@pytest.mark.parametrize("metric", [Prob("%"), TokenSetProb(["a", "%"])])
def test_text_that_the_tokenizer_does_not_know_is_refused(metric):
    with pytest.raises(TokenError, match=r"must be text that the tokenizer knows. Got '%', which gives its unknown"):
        metric.resolve(TOKENIZER)


@pytest.mark.parametrize("metric", [Prob(""), TokenSetProb("")])
def test_text_that_gives_no_token_is_refused(metric):
    with pytest.raises(TokenError, match=r"must give a token. Got '', which gives none"):
        metric.resolve(TOKENIZER)


def test_text_without_a_tokenizer_is_refused():
    with pytest.raises(TokenError, match=r"`tokenizer` must be given if `token` is text. Got None with ' Mary'"):
        Prob(" Mary").resolve(None)


def test_two_strings_of_one_token_are_refused():
    with pytest.raises(ValueRefusedError, match=r"`wrong` must differ from `right`"):
        LogitDiff(2, " Mary").resolve(TOKENIZER)


# --- TopK


def test_the_likeliest_come_first_and_equals_by_id():
    logits = mx.log(mx.array([[[0.125, 0.125, 0.5, 0.25]], [[0.25, 0.5, 0.125, 0.125]]]))
    top = TopK(3)(logits, TOKENIZER)
    assert [[(t.id, t.token) for t in one] for one in top] == [
        [(2, " Mary"), (3, " John"), (0, "<unk>")],
        [(1, "<bos>"), (0, "<unk>"), (2, " Mary")],
    ]
    assert [[t.probability for t in one] for one in top] == [pytest.approx([0.5, 0.25, 0.125], abs=1e-6)] * 2
    assert isinstance(top[0][0], TopToken)


def test_half_precision_and_another_position():
    logits = mx.array([[[0.0, 9.0], [9.0, 0.0]]], mx.bfloat16)
    [[first]] = TopK(1, pos=0)(logits)
    assert (first.id, first.token) == (1, None)
    assert first.probability == pytest.approx(1 / (1 + math.exp(-9)), abs=1e-6)


def test_more_than_the_vocabulary_is_refused():
    with pytest.raises(SelectionError, match=r"`k` must be at most d_vocab, 2. Got 3"):
        TopK(3)(logits_of(1.0, 2.0))


@pytest.mark.parametrize(("k", "error"), [(0, ValueRefusedError), (1.5, KindError), (True, KindError)])
def test_k_is_a_whole_number_from_one(k, error):
    with pytest.raises(error, match=r"`k` must be"):
        TopK(k)


def test_nan_is_refused():
    with pytest.raises(ValueRefusedError, match=r"`logits` must give probabilities. Got NaN"):
        TopK(1)(logits_of(1.0, math.nan))
