"""The list of seeded faults, fifth part: keys that queries pick, and entries that stand for several positions."""

from dataclasses import replace

import mlx.core as mx
import pytest

from mlx_patch.architectures import family_of
from mlx_patch.engine import _recipes_sparse
from mlx_patch.testing import tiny_model

AXES, DECIDES, HEADS = 1, 4, 7
NAME = "deepseek_v41"


def ends(block, positions, ratio=2):
    """The last position of each entry, if it stands for so many."""
    return mx.arange(ratio - 1, positions, ratio) if block.self_attn.ratio else mx.arange(0)


ENTRIES = [
    ("none", None, AXES),
    ("of three positions", lambda block, positions: ends(block, positions, 3), AXES),
    ("in every layer", lambda block, positions: mx.arange(1, positions, 2), AXES),
    ("seen from the next position on", lambda block, positions: ends(block, positions) + 1, HEADS),
]


@pytest.mark.parametrize(("what", "further", "law"), ENTRIES, ids=[what for what, _, _ in ENTRIES])
def test_a_wrong_word_about_entries_is_seen(broken, what, further, law):
    table = family_of(tiny_model(NAME))
    assert law in broken(NAME, family=replace(table, heads=replace(table.heads, further=further)))


@pytest.mark.parametrize("shared", [(), ("{block}.ffn_hc:output.0",)], ids=["nothing", "the weights alone"])
def test_entries_that_blocks_share_unsaid_are_seen(broken, shared):
    assert DECIDES in broken(NAME, family=replace(family_of(tiny_model(NAME)), shared=shared))


def test_an_edit_dropped_at_keys_that_were_not_picked_is_seen(broken, monkeypatch):
    dropped = property(lambda self: None, lambda self, value: None)
    monkeypatch.setattr(_recipes_sparse._Gathered, "_added", dropped, raising=False)
    assert HEADS in broken(NAME)


def test_entries_told_one_row_too_early_are_seen(broken, monkeypatch):
    side_by_side = _recipes_sparse._side_by_side

    def early(arrays, indices):
        at, window = side_by_side(arrays, indices), arrays[0].shape[1]
        return mx.where(at > window, at - 1, at)

    monkeypatch.setattr(_recipes_sparse, "_side_by_side", early)
    assert broken(NAME) & {HEADS, DECIDES}
