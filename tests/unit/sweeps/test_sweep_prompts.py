"""The prompts of a sweep: what may stand for one, and the groups of equal length in which they run."""

import mlx.core as mx
import numpy as np
import pytest

from mlx_patch import Scale, sweep
from mlx_patch.errors import KindError, SelectionError, ShapeError, TokenError
from mlx_patch.metrics import LogProb
from mlx_patch.tokens import batches_of


def groups(given, tokenizer=None):
    """Token ids and examples of each group, as plain lists."""
    return [(batch.tokens.tolist(), batch.examples) for batch in batches_of(given, tokenizer, 96)]


@pytest.mark.parametrize(
    "one",
    [[1, 2, 3], (1, 2, 3), [[1, 2, 3]], mx.array([1, 2, 3]), np.array([[1, 2, 3]]), [mx.array([1, 2, 3])]],
)
def test_one_prompt_in_each_form(one):
    assert groups(one) == [([[1, 2, 3]], (0,))]


@pytest.mark.parametrize(
    "two",
    [[[1, 2], [3, 4]], mx.array([[1, 2], [3, 4]]), [mx.array([1, 2]), np.array([[3, 4]])], [[1, 2], np.array([3, 4])]],
)
def test_prompts_of_one_length_are_one_batch(two):
    assert groups(two) == [([[1, 2], [3, 4]], (0, 1))]


def test_prompts_run_in_groups_that_keep_their_order():
    """Prompts of several lengths, a group for each."""
    given = [[1, 2], [3], [4, 5], mx.array([6, 7, 8]), (9,)]
    assert groups(given) == [([[1, 2], [4, 5]], (0, 2)), ([[3], [9]], (1, 4)), ([[6, 7, 8]], (3,))]
    assert [batch.length for batch in batches_of(given, None, 96)] == [2, 1, 3]


def test_texts_and_chats_are_prompts(word_tokenizer):
    assert groups("w03 w04", word_tokenizer) == [([[3, 4]], (0,))]
    assert groups(["w03 w04", "w05", [6, 7]], word_tokenizer) == [([[3, 4], [6, 7]], (0, 2)), ([[5]], (1,))]


@pytest.mark.parametrize(
    ("error", "message", "given"),
    [
        (ShapeError, r"`tokens` must have the shape \(batch, pos\), and not be empty", mx.zeros((0, 3), mx.int32)),
        (
            ShapeError,
            r"must hold one prompt per entry\. Got 2 in entry 1\. Pass a batch",
            [[1], np.array([[1, 2], [3, 4]])],
        ),
        (SelectionError, r"`tokens` must lie in 0 to 95\. Got 96\.", [[1], [2, 96]]),
        (KindError, r"`tokens` must be integers", [[1.5], [2, 3]]),
        (KindError, r"`tokens` must be integers", []),
        (KindError, r"`tokens` must be integers", None),
        (TokenError, r"`tokenizer` must be given to turn text into tokens\. Got None\.", ["w03", "w04 w05"]),
        (TokenError, r"`prompt` must be text if the tokenizer has no chat template", [[{"role": "user"}], "w03"]),
    ],
)
def test_what_is_no_prompt_is_refused(word_tokenizer, error, message, given):
    tokenizer = word_tokenizer if "chat" in message else None
    with pytest.raises(error, match=message):
        batches_of(given, tokenizer, 96)


def test_slices_are_the_layers_and_positions_that_they_have(tiny, tokens):
    ask = (tiny(), tokens, Scale(0.5), "resid_post")
    one, other = (
        sweep(*ask, ("layer", "pos"), LogProb(3), layers=layers, positions=positions)
        for layers, positions in ((slice(1, None), slice(-3, None, 2)), ([1, 2], [5, 7]))
    )
    assert one.coords == other.coords
    np.testing.assert_array_equal(one.values, other.values)
    together, whole = (
        sweep(*ask, "layer", LogProb(3), positions=chosen) for chosen in (slice(2, None), range(2, tokens.shape[1]))
    )
    np.testing.assert_array_equal(together.values, whole.values)


def test_a_slice_is_refused_where_prompts_differ_in_length(tiny, tokens):
    """A slice of positions."""
    with pytest.raises(SelectionError, match=r"`positions` must hold ints, .*Got slice\(1, None.* mp\.pos\.where"):
        sweep(
            tiny(), [[1, 2, 3, 4], [1, 2, 3]], Scale(0.5), "resid_post", "layer", LogProb(3), positions=slice(1, None)
        )
