import mlx.core as mx
import numpy as np
import pytest

from mlx_patch.errors import SelectionError
from mlx_patch.interventions import Replace, Scale, Span, Where, axis_of, index_of, pos_axis
from mlx_patch.sites import Site

RESID = Site("resid_post", 0)
Z = Site("z", 0)
PATTERN = Site("pattern", 0)
WHOLE = Span(0, 6, 6)
CONTINUED = Span(offset=100, length=4, prompt=104)


def counted(*shape: int) -> mx.array:
    return mx.arange(int(np.prod(shape)), dtype=mx.float32).reshape(shape)


def touched(edit, activation, site=RESID, span=WHOLE) -> np.ndarray:
    """Where an edit that makes everything minus one wrote."""
    return np.array(edit.apply(activation, site, span)) == -1.0


def at(**choices):
    return Replace(mx.array(-1.0)).at("resid_post", **choices)


# Absolute positions


@pytest.mark.parametrize(
    ("span", "pos", "local"),
    [
        (WHOLE, (0, 5), (0, 5)),
        (WHOLE, (-1, -6), (5, 0)),
        (CONTINUED, (100, 103), (0, 3)),
        (CONTINUED, (-1, -4), (3, 0)),
        (WHOLE, slice(None), (0, 1, 2, 3, 4, 5)),
        (WHOLE, slice(4, 99), (4, 5)),
        (WHOLE, slice(-99, 2), (0, 1)),
        (WHOLE, slice(1, -1, 2), (1, 3)),
        (WHOLE, slice(9, 12), ()),
        (CONTINUED, slice(None), (0, 1, 2, 3)),
        (CONTINUED, slice(98, 102), (0, 1)),
        (CONTINUED, slice(-2, None), (2, 3)),
        (CONTINUED, slice(1, None, 2), (1, 3)),
        (CONTINUED, slice(0, 50), ()),
    ],
)
def test_positions_are_absolute_and_slices_clip(span, pos, local):
    assert span.local(pos) == local


@pytest.mark.parametrize(
    "pos", [slice(None), slice(3, None), slice(-2, None), slice(1, -1), slice(0, None, 3), (2, -1)]
)
def test_a_prompt_in_pieces_picks_what_the_whole_picks(pos):
    whole = Span(0, 10, 10).local(pos)
    pieces = [(0, 4), (4, 1), (5, 5)]
    split = [o + p for o, n in pieces for p in Span(o, n, 10, pieces=True).local(pos)]
    assert sorted(split) == sorted(whole)


def test_a_slice_without_an_end_runs_on_with_generation():
    """And one with an end does not."""
    generated = Span(offset=12, length=1, prompt=10, pieces=True)
    assert generated.local(slice(-2, None)) == (0,)
    assert generated.local(slice(0, -1)) == ()
    assert generated.local((12,)) == (0,)
    assert generated.local((13,)) == ()


@pytest.mark.parametrize("pos", [6, -7, 99])
def test_a_position_past_the_edge_is_refused(pos):
    with pytest.raises(SelectionError, match=rf"`pos` must lie in -6 to 5, the 6 positions\. Got {pos}\."):
        WHOLE.local((pos,))


def test_a_negative_position_before_the_prompt_is_refused():
    """Even in pieces."""
    with pytest.raises(SelectionError, match=r"`pos` must lie in -10 to 9, the 10 positions\. Got -11\."):
        Span(0, 4, 10, pieces=True).local((-11,))


def test_a_position_that_the_prompt_cache_holds_is_refused():
    with pytest.raises(
        SelectionError, match=r"`pos` must be 100 or more: the prompt cache already holds .* Got 99\. Run the"
    ):
        CONTINUED.local((99,))


@pytest.mark.parametrize("pos", [(-1,), slice(-1, None)])
def test_a_negative_position_needs_a_prompt_whose_end_is_known(pos):
    with pytest.raises(SelectionError, match=r"`pos` must be 0 or more if the prompt comes in pieces\. Got -1\."):
        Span(0, 4, None, pieces=True).local(pos)


def test_one_position_under_two_names_is_refused():
    with pytest.raises(SelectionError, match=r"`pos` must not name anything twice\. Got \(5, -1\), which are \(5, 5\)"):
        WHOLE.local((5, -1))


# Which part of an array


@pytest.mark.parametrize(
    ("what", "size", "site"), [("head", 3, Z), ("neuron", 4, Z), ("batch", 2, Z), ("neuron", 5, RESID)]
)
def test_an_index_past_the_edge_is_refused_on_every_axis(what, size, site):
    x = counted(2, 6, 3, 4) if site is Z else counted(2, 6, 5)
    for wrong in (size, -size - 1):
        with pytest.raises(SelectionError, match=rf"`{what}` must lie in {-size} to {size - 1}\. Got {wrong}\."):
            Scale(2.0).at(site.name, **{what: wrong}).apply(x, site, WHOLE)


@pytest.mark.parametrize("what", ["head", "neuron", "batch"])
def test_one_index_under_two_names_is_refused(what):
    with pytest.raises(SelectionError, match=rf"`{what}` must not name anything twice\. Got \(-1, 2\)"):
        Scale(2.0).at("z", **{what: [-1, 2]}).apply(counted(3, 6, 3, 3), Z, WHOLE)


def test_choices_along_several_axes_pick_the_cross_product():
    """Positions, heads, neurons and rows."""
    x = counted(3, 6, 4, 5)
    edit = Replace(mx.array(-1.0)).at("z", pos=[5, 0, 2], head=[3, 1], neuron=[4, 0], batch=[2, 0])
    expected = np.zeros(x.shape, dtype=bool)
    expected[np.ix_([2, 0], [5, 0, 2], [3, 1], [4, 0])] = True
    np.testing.assert_array_equal(touched(edit, x, Z), expected)


def test_at_a_pattern_positions_are_those_of_the_queries():
    x = counted(2, 3, 6, 6)
    expected = np.zeros(x.shape, dtype=bool)
    expected[np.ix_([1], [0, 2], [5, 1], range(6))] = True
    edit = Replace(mx.array(-1.0)).at("pattern", pos=[-1, 1], head=[0, 2], batch=1)
    np.testing.assert_array_equal(touched(edit, x, PATTERN), expected)


def test_the_first_new_position_is_after_the_prompt_cache():
    done = touched(at(pos=[101, -1]), counted(1, 4, 2), span=CONTINUED)
    assert done.any(axis=(0, 2)).tolist() == [False, True, False, True]


def test_a_pass_without_any_of_the_positions_is_left_alone():
    assert at(pos=[9]).apply(counted(1, 4, 2), RESID, Span(0, 4, 10, pieces=True)) is None
    assert at(pos=slice(8, None)).apply(counted(1, 4, 2), RESID, Span(0, 4, 4)) is None


def test_the_picked_positions_are_told_as_absolute_ones():
    where = Where(RESID, counted(1, 4, 2), (None, (3, 0), None), CONTINUED)
    assert where.positions == (103, 100)
    assert where.every_row().rows == (0,)


def test_positions_are_refused_on_an_axis_of_something_else():
    raw = Site("model.layers.0.mlp.gate:output")
    with pytest.raises(
        SelectionError, match=r"`site` must have the 6 positions of this pass along axis 1, for an edit"
    ):
        Scale(2.0).at(raw, pos=0).apply(counted(12, 4), raw, WHOLE)


def test_at_a_raw_site_the_neuron_is_on_the_last_axis():
    """And not on one that is taken."""
    raw = Site("model.layers.0.mlp.gate:output")
    edit = Replace(mx.array(-1.0)).at(raw, neuron=3)
    assert touched(edit, counted(12, 4), raw)[:, 3].all()
    with pytest.raises(SelectionError, match=r"`neuron` must be None at model.* whose shape is \(2, 6\)\. Got"):
        Replace(mx.array(-1.0)).at(raw, pos=1, neuron=3).apply(counted(2, 6), raw, WHOLE)
    with pytest.raises(SelectionError, match=r"`neuron` must be None"):
        edit.apply(counted(12), raw, WHOLE)


def test_an_index_is_made_of_slices_where_it_can_be():
    assert index_of((None, None), (2, 3)) == (slice(None),)
    assert index_of(((1,), (0, 1)), (2, 3)) == (slice(1, 2), slice(0, 2))


@pytest.mark.parametrize("picks", [(None, (0, 3)), (None, (-1, 0)), (None, None, (0,))])
def test_an_index_past_the_edge_never_reaches_mlx(picks):
    with pytest.raises(SelectionError, match=r"`picks` must lie inside the shape \(2, 3\)\. Got"):
        index_of(picks, (2, 3))


def test_axes_are_found_by_name():
    assert [axis_of(Z, what) for what in ("batch", "pos", "head", "neuron")] == [0, 1, 2, 3]
    assert [axis_of(PATTERN, what) for what in ("batch", "pos", "head", "neuron")] == [0, 2, 1, -1]
    assert axis_of(RESID, "head") == -1
    assert pos_axis(Site("model.norm:output")) == 1
