"""Alignments and selectors, for any prompts."""

from hypothesis import given
from hypothesis import strategies as st

from mlx_patch import align, pos
from mlx_patch.errors import ValueRefusedError

TOKENS = st.lists(st.integers(0, 5), min_size=1, max_size=14)


def aligned(source, target, **how):
    try:
        return align(source, target, **how)
    except ValueRefusedError:
        return None


@given(TOKENS, TOKENS, st.sampled_from(["ends", "none"]))
def test_pairs_rise_and_each_position_is_in_a_column(source, target, changed):
    alignment = aligned(source, target, changed=changed)
    if alignment is None:
        assert changed == "none"
        return
    assert list(alignment.sources) == sorted(set(alignment.sources))
    assert list(alignment.targets) == sorted(set(alignment.targets))
    for side, size in ((0, len(source)), (1, len(target))):
        assert [column[side] for column in alignment.columns if column[side] is not None] == list(range(size))
    assert [column for column in alignment.columns if None not in column] == list(alignment.pairs)
    assert all(alignment.source_of(b) == a == alignment.inverse.inverse.source_of(b) for a, b in alignment.pairs)
    assert str(alignment).count("\n") == 1


@given(TOKENS)
def test_a_prompt_is_aligned_with_itself_one_by_one(tokens):
    assert align(tokens, tokens).pairs == tuple((i, i) for i in range(len(tokens)))


@given(TOKENS, TOKENS, TOKENS, TOKENS)
def test_what_both_begin_and_end_with_is_aligned(begin, one, other, end):
    alignment = align([9, *begin, 8, *one, 7, *end], [9, *begin, 8, *other, 7, *end])
    for i in range(len(begin) + 2):
        assert alignment.source_of(i) == i
    for i in range(1, len(end) + 2):
        assert alignment.source_of(-i) == len(alignment.source_tokens) - i


@given(TOKENS, st.data())
def test_selectors_are_sets_of_positions(tokens, data):
    one, other = (pos.token(data.draw(st.sampled_from(tokens)), nth="all") for _ in "ab")
    found, more = set(one.resolve(tokens)), set(other.resolve(tokens))
    assert (one | other).resolve(tokens) == (other | one).resolve(tokens) == tuple(sorted(found | more))
    assert one.first.resolve(tokens) == (min(found),)
    assert one.final.resolve(tokens) == (max(found),)
    assert ((one + 1) - 1).resolve([*tokens, 9]) == one.resolve(tokens)
