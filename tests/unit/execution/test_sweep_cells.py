"""Cells: the first block and the first position that differ from the unpatched run, found without running it."""

from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest

from mlx_patch import Ablate, Interpolate, Replace, Scale
from mlx_patch.errors import ArchitectureError, MissingSiteError, SelectionError, UnknownNameError
from mlx_patch.execution.cells import (
    Shapes,
    cell_of,
    edits_before_entry,
    may_follow_the_norm,
    refuse_misfits,
    stream_before,
    unpatched_sites,
)
from mlx_patch.execution.executors import choose_executor, executors
from mlx_patch.execution.readouts import readout_of
from mlx_patch.interventions import Edit
from mlx_patch.metrics import Entropy, LogitDiff, Metric, Prob, as_metric
from mlx_patch.sites import Site

SCALE = Scale(2.0)


@pytest.fixture(scope="module")
def layout(tiny):
    return tiny().layout


def cell(layout, *edits, reads=7):
    return cell_of(layout, edits, 8, reads)


@pytest.mark.parametrize(
    ("site", "layer", "entry"),
    [
        ("embed", None, 0),
        ("resid_pre", 0, 0),
        ("resid_pre", 2, 2),
        ("z", 1, 1),
        ("resid_mid", -1, 2),
        ("mlp_out", (2, 1), 1),
        ("resid_post", 0, 1),
        ("resid_post", (1, 2), 2),
        ("resid_post", -1, 3),
        ("resid_post", None, 1),
        ("final_norm", None, 3),
        ("model.layers.1:output", None, 1),
        ("model.layers.2.mlp.gate_proj:output", None, 2),
        ("model.norm:input", None, 3),
        ("model.embed_tokens:output", None, None),
        ("lm_head:input", None, None),
    ],
)
def test_a_cell_begins_at_the_first_block_that_differs(layout, site, layer, entry):
    assert cell(layout, SCALE.at(site, layer=layer)).entry == entry


def test_what_a_cell_does_first_says_where_it_begins(layout):
    late, early = SCALE.at("final_norm", pos=-1), SCALE.at("z", layer=1, pos=5)
    assert (cell(layout, late, early).entry, cell(layout, late, early).start) == (1, 5)
    assert cell(layout, late, SCALE.at("lm_head:input")).entry is None


@pytest.mark.parametrize(
    ("pos", "start"),
    [
        (None, 0),
        (3, 3),
        (-1, 7),
        ((5, 2), 0),
        ((2, 5), 2),
        ((-2, 3), 0),
        ((3, -2), 3),
        (slice(4, 99), 4),
        (slice(None, None, 3), 0),
    ],
)
def test_a_cell_begins_at_its_first_position(layout, pos, start):
    """Unless the order of positions matters."""
    assert cell(layout, Replace(mx.zeros((64,))).at("resid_pre", layer=1, pos=pos)).start == start


def test_a_cell_begins_no_later_than_what_is_read(layout):
    assert cell(layout, SCALE.at("z", pos=6), reads=4).start == 4
    assert cell(layout, SCALE.at("z", pos=6), reads=0).start == 0


@pytest.mark.parametrize(
    "intervention", [Ablate("mean"), Ablate("noise"), SCALE | Ablate("mean"), Ablate("mean") | SCALE]
)
def test_what_reads_the_whole_activation_begins_at_0(layout, intervention):
    assert cell(layout, intervention.at("mlp_out", layer=1, pos=6)).start == 0


def test_a_prompt_that_cannot_be_cut_begins_at_0(tiny):
    assert cell(tiny("plamo3").layout, SCALE.at("mlp_out", layer=1, pos=6)).start == 0


@pytest.mark.parametrize(
    ("error", "message", "edit"),
    [
        (SelectionError, r"`pos` must lie in -8 to 7, the 8 positions\. Got 8\.", SCALE.at("z", pos=8)),
        (
            SelectionError,
            r"`pos` must choose a position of this prompt, 0 to 7\. Got slice\(8, 9, None\)\.",
            SCALE.at("z", pos=slice(8, 9)),
        ),
        (SelectionError, r"`layer` must lie in -3 to 2\. Got 3\.", SCALE.at("z", layer=3)),
    ],
)
def test_places_that_are_not_there_are_refused(layout, error, message, edit):
    with pytest.raises(error, match=message):
        cell(layout, edit)


def test_a_site_that_the_architecture_lacks_is_refused(tiny):
    with pytest.raises(MissingSiteError, match=r"cohere has no 'resid_mid': its attention and MLP run in parallel"):
        cell(tiny("cohere").layout, SCALE.at("resid_mid"))


def test_only_the_block_before_is_edited_before_a_row_enters(layout):
    """Of it, only what leaves it."""
    post, pre, mlp = SCALE.at("resid_post", layer=(0, 2)), SCALE.at("resid_pre", layer=1), SCALE.at("mlp_out", layer=1)
    assert edits_before_entry(cell(layout, mlp, post, pre), layout, 1) == (post,)
    assert edits_before_entry(cell(layout, mlp), layout, 1) == ()
    assert stream_before(0) is None
    assert stream_before(3) == Site("resid_post", 2)


def test_a_row_needs_no_unpatched_stream_if_it_is_replaced(layout):
    """All of the stream, that is."""
    swap = Replace(mx.zeros((1, 8, 64)))

    def needed(*edits):
        return unpatched_sites(layout, [cell(layout, *edits)])

    assert needed(swap.at("resid_post", layer=0)) == ()
    assert needed(swap.at("resid_post", layer=0, pos=3)) == (Site("resid_post", 0),)
    assert needed(Interpolate(mx.zeros((64,)), 0.5).at("resid_post", layer=0)) == (Site("resid_post", 0),)
    assert needed(SCALE.at("resid_post", layer=0), swap.at("resid_post", layer=0)) == (Site("resid_post", 0),)
    assert needed(swap.at("resid_pre", layer=1)) == (Site("resid_pre", 1),)
    assert needed(SCALE.at("final_norm")) == (Site("resid_post", 2),)


def test_only_raw_paths_outside_blocks_may_follow_the_slice(layout):
    behind = [
        site
        for site in ("lm_head:input", "model.norm:output", "model.layers.1.mlp:output", "final_norm", "z")
        if may_follow_the_norm(layout, SCALE.at(site))
    ]
    assert behind == ["lm_head:input"]


def named(choice):
    """The name of an executor that was chosen, and why no cheaper one was."""
    executor, why = choice
    return executor.name, why


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("gemma3n", "later blocks of gemma3n read more than the stream that enters them"),
        ("rwkv7", "read more than the stream"),
    ],
)
def test_what_cannot_begin_in_the_middle_says_why(tiny, name, why):
    """An architecture whose rows cannot."""
    layout = tiny(name).layout
    cells = [cell(layout, SCALE.at("resid_post", layer=0))]
    assert why in executors()["grow"].why_not(layout, cells)
    assert named(choose_executor("auto", layout, cells)) == ("rows", executors()["grow"].why_not(layout, cells))
    assert named(choose_executor("reference", layout, cells)) == ("reference", "")
    with pytest.raises(ArchitectureError, match=rf"`executor` must be one .* Got 'grow', but .*{why}.* Use 'auto'\."):
        choose_executor("grow", layout, cells)


def test_each_reason_against_growing_is_said(layout):
    blocks = [
        ({"parts": 2}, "a block of llama is 2 layers, which overlap"),
        ({"rereads": True}, "blocks of llama read the tokens besides the stream"),
        ({"final_norm": None}, "no table says that only the stream goes from block to block"),
    ]
    for changed, why in blocks:
        assert executors()["grow"].why_not(replace(layout, family=replace(layout.family, **changed)), []) == why
    assert executors()["grow"].why_not(layout, []) == ""


def test_a_cell_of_unknown_block_keeps_rows_from_growing(layout):
    cells = [cell(layout, SCALE.at("z")), cell(layout, SCALE.at("lm_head:input"))]
    assert named(choose_executor("auto", layout, cells[:1])) == ("grow", "")
    assert named(choose_executor("auto", layout, cells)) == (
        "rows",
        "a cell edits a module whose block is unknown",
    )


def test_an_executor_that_nobody_knows_is_refused(layout):
    with pytest.raises(
        UnknownNameError, match=r"`executor` must be the name of an executor\. Got 'row'\. Did you mean rows"
    ):
        choose_executor("row", layout, [])


def test_metrics_read_the_positions_that_they_name():
    assert readout_of([LogitDiff(3, 4), Prob(1, pos=2), Entropy(pos=-6)], 8).at == (2, 7)
    assert readout_of([Prob(1, pos=2), as_metric(lambda logits: logits[:, 0, 0])], 8).at is None
    assert readout_of([Prob(1, pos=5)], 8).first == 5
    assert readout_of([Prob(1, pos=5)], 8).whole().first == 0


def test_metrics_are_measured_on_the_positions_that_were_kept():
    logits = mx.random.normal((2, 8, 5))
    metrics: list[Metric] = [LogitDiff(3, 4), Prob(1, pos=2)]
    kept = readout_of(metrics, 8).measure(logits[:, mx.array([2, 7])], 8)
    whole = readout_of(metrics, 8).whole().measure(logits, 8)
    np.testing.assert_array_equal(np.array(kept), np.array(whole))
    np.testing.assert_array_equal(np.array(whole), np.stack([np.array(metric(logits)) for metric in metrics]))


@pytest.mark.parametrize("pos", [8, -9])
def test_a_metric_that_reads_past_the_prompt_is_refused(pos):
    with pytest.raises(SelectionError, match=rf"`pos` of prob.* must lie in -8 to 7, the 8 positions .* Got {pos}\."):
        readout_of([Prob(1, pos=pos)], 8)


def test_shapes_come_from_one_token_run_once(tiny, monkeypatch):
    model, sizes = tiny(), []
    plain = type(model.model).__call__
    monkeypatch.setattr(
        type(model.model), "__call__", lambda self, ids, **more: (sizes.append(ids.shape), plain(self, ids, **more))[1]
    )
    shapes = Shapes(model.layout, mx.array([[1, 2, 3], [4, 5, 6]]))
    shapes.learn([Site("z", 1), Site("pattern", 0), Site("lm_head:input")])
    shapes.learn([Site("pattern", 0)])
    assert sizes == [(1, 1)]
    assert shapes.zeros(Site("z", 1), 5, 7).shape == (5, 7, 4, 32)
    assert shapes.zeros(Site("pattern", 0), 5, 7).shape == (5, 4, 7, 7)
    assert shapes.zeros(Site("lm_head:input"), 5, 7) is None


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 2, 1, 0)])
def test_of_like_edits_the_one_furthest_along_is_tried(tiny, order, monkeypatch):
    """A source with two heads has what the first two cells take, and not what the others take."""
    model, tokens = tiny("llama"), mx.array([[1, 2, 3, 4]])
    _, cache = model.run_with_cache(tokens, sites="z")
    tried = []
    apply = Edit.apply
    monkeypatch.setattr(Edit, "apply", lambda edit, *rest: tried.append(edit) or apply(edit, *rest))
    cells = [cell_of(model.layout, [Replace(cache).at("z", layer=1, pos=-1, head=head)], 4, 3) for head in order]
    same = Replace(cache)
    alike = [cell_of(model.layout, [same.at("z", layer=1, pos=-1, head=head)], 4, 3) for head in order]
    refuse_misfits(Shapes(model.layout, tokens), (1, 4), alike)
    assert [edit.head for edit in tried] == [(3,)]
    refuse_misfits(Shapes(model.layout, tokens), (1, 4), cells)
    assert len(tried) == 5
    with pytest.raises(SelectionError, match=r"`head` must"):
        refuse_misfits(Shapes(model.layout, tokens), (1, 4), [cell_of(model.layout, [same.at("z", head=4)], 4, 3)])
