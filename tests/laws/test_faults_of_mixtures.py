"""The list of seeded faults, fourth part: mixtures of attentions, streams that are put away for later blocks."""

from dataclasses import replace

import pytest

from mlx_patch.architectures import Point, family_of
from mlx_patch.testing import tiny_model

DECIDES, HEADS = 4, 7
FIRST_RUN, SECOND_RUN = (Point("self_attn", "inside", recipe="sdpa", part=part) for part in (0, 1))


def in_the_second_run(call):
    """IQuest-Loop-Coder's points inside attention, with another call for the second run."""
    return dict.fromkeys(("attn_scores", "pattern"), (FIRST_RUN, replace(SECOND_RUN, call=call)))


@pytest.mark.parametrize("run", [None, 0], ids=["in none", "in the first"])
def test_two_attentions_in_another_run_than_is_said_are_seen(broken, run):
    table = family_of(tiny_model("iquestloopcoder"))
    assert HEADS in broken("iquestloopcoder", family=replace(table, heads=replace(table.heads, mixed_in=run)))


def test_attention_over_another_layer_s_keys_is_not_its_own(broken):
    """Not the layer's own attention."""
    assert HEADS in broken("iquestloopcoder", in_the_second_run(call=0))
    assert broken("iquestloopcoder", in_the_second_run(call=1)) == set()


@pytest.mark.parametrize("kept", [None, lambda block: not block.is_block_start], ids=["none", "the wrong ones"])
def test_a_stream_that_is_put_away_unsaid_is_seen(broken, kept):
    table = family_of(tiny_model("kimi_k3"))
    assert broken("kimi_k3", family=replace(table, stream=replace(table.stream, kept=kept))) == {DECIDES}
