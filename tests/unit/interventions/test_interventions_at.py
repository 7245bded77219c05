"""`.at(...)` and the `Edit` that it makes."""

import pickle

import mlx.core as mx
import numpy as np
import pytest

from mlx_patch.errors import KindError, SelectionError, UnknownNameError
from mlx_patch.interventions import Ablate, Add, Clamp, Edit, Replace, Scale
from mlx_patch.sites import SITES, Site

HALVE = Scale(0.5)


@pytest.mark.parametrize("name", SITES)
def test_every_site_can_be_named(name):
    assert HALVE.at(name) == Edit(HALVE, name)


def test_a_site_may_be_said_with_its_layer_in_every_spelling():
    edit = HALVE.at("resid_post", layer=3)
    assert edit == HALVE.at("resid_post.3") == HALVE.at("blocks.3.hook_resid_post") == HALVE.at(Site("resid_post", 3))
    assert HALVE.at("hook_embed") == HALVE.at("embed")
    assert HALVE.at("model.norm:output").site == "model.norm:output"


@pytest.mark.parametrize("many", [[1, 4], (1, 4), range(1, 5, 3), np.array([1, 4]), mx.array([1, 4])], ids=type)
def test_choices_may_be_any_ints(many):
    assert HALVE.at("z", head=many).head == (1, 4)
    assert HALVE.at("z", layer=2, pos=np.int64(3)) == HALVE.at("z", 2, 3)


@pytest.mark.parametrize("pos", [None, -1, [1, 2], slice(2, None), slice(None, -1, 2)], ids=str)
def test_equal_edits_are_one_in_a_set_also_with_slices(pos):
    assert len({HALVE.at("z", pos=pos), HALVE.at("z", pos=pos), HALVE.at("z", pos=0)}) == 2


def test_edits_with_arrays_are_equal_only_to_themselves():
    edit = Replace(mx.zeros((8,))).at("z")
    assert len({edit, edit, Replace(mx.zeros((8,))).at("z")}) == 2


@pytest.mark.parametrize("edit", [HALVE.at("z", pos=slice(-3, None)), Ablate("zero").at("z.3", head=[1, 2])])
def test_an_edit_can_be_sent_to_another_process(edit):
    assert pickle.loads(pickle.dumps(edit)) == edit


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (HALVE.at("embed"), "Scale(0.5).at('embed')"),
        (HALVE.at("z", 3, -1, [1, 4]), "Scale(0.5).at('z', layer=3, pos=-1, head=(1, 4))"),
        (HALVE.at("z", pos=slice(2, None)), "Scale(0.5).at('z', pos=slice(2, None, None))"),
        ((HALVE | Clamp(low=0)).at("z.1"), "(Scale(0.5) | Clamp(low=0.0)).at('z', layer=1)"),
        (Add(mx.zeros((4,), dtype=mx.bfloat16), 2).at("embed"), "Add(array (4,) bfloat16, scale=2.0).at('embed')"),
    ],
    ids=repr,
)
def test_an_edit_prints_as_it_is_written(edit, said):
    assert repr(edit) == said


# Refusals


@pytest.mark.parametrize("what", ["layer", "pos", "head", "neuron", "batch"])
@pytest.mark.parametrize("empty", [[], (), range(0), np.array([], dtype=int)], ids=type)
def test_an_empty_choice_is_refused(what, empty):
    with pytest.raises(SelectionError, match=rf"`{what}` must choose something\. Got .* Leave it out to choose all"):
        HALVE.at("z", **{what: empty})


@pytest.mark.parametrize("empty", [slice(3, 3), slice(5, 2), slice(-1, -3), slice(None, 0), slice(-2, 0)], ids=str)
def test_a_slice_that_can_hold_nothing_is_refused(empty):
    with pytest.raises(SelectionError, match=r"`pos` must choose something\. Got slice"):
        HALVE.at("z", pos=empty)


@pytest.mark.parametrize("what", ["layer", "pos", "head", "neuron", "batch"])
def test_a_choice_that_names_one_thing_twice_is_refused(what):
    with pytest.raises(SelectionError, match=rf"`{what}` must not name anything twice\. Got \[2, 1, 2\]"):
        HALVE.at("z", **{what: [2, 1, 2]})


@pytest.mark.parametrize("wrong", [1.0, "1", True, [0.5], [True, False], np.array([True, False]), mx.array([0.5])])
@pytest.mark.parametrize("what", ["layer", "pos", "head", "neuron", "batch"])
def test_a_choice_is_made_of_ints_and_not_of_truth_values(what, wrong):
    with pytest.raises(SelectionError, match=rf"`{what}` must be an int or a list of ints\. Got"):
        HALVE.at("z", **{what: wrong})


def test_a_slice_is_for_positions_forward_and_made_of_ints():
    with pytest.raises(SelectionError, match=r"`head` must be an int or a list of ints\. Got slice\(0, 2, None\)"):
        HALVE.at("z", head=slice(0, 2))
    with pytest.raises(SelectionError, match=r"`pos` must be a slice that goes forward\. Got .* Reverse it"):
        HALVE.at("z", pos=slice(None, None, -1))
    with pytest.raises(SelectionError, match=r"`pos` must have a step other than 0\. Got slice\(None, None, 0\)"):
        HALVE.at("z", pos=slice(None, None, 0))
    with pytest.raises(SelectionError, match=r"`pos` must be a slice of whole numbers\. Got slice\('a', None, None\)"):
        HALVE.at("z", pos=slice("a", None))


@pytest.mark.parametrize(
    ("site", "what", "axes"),
    [
        ("resid_post", "head", "batch pos d_model"),
        ("mlp_post", "head", "batch pos d_mlp"),
        ("pattern", "neuron", "batch head query_pos key_pos"),
        ("model.norm:output", "head", r"batch pos \.\.\."),
    ],
)
def test_an_axis_that_the_site_lacks_is_refused(site, what, axes):
    with pytest.raises(SelectionError, match=rf"`{what}` must be None at '{site}', whose axes are: {axes}\. Got \(1"):
        HALVE.at(site, **{what: 1})


def test_a_layer_is_refused_where_the_site_leaves_no_choice():
    """Where there is one, or where the site says it."""
    with pytest.raises(SelectionError, match=r"`layer` must be None for 'embed', which the model has once\. Got 1\."):
        HALVE.at("embed", layer=1)
    with pytest.raises(SelectionError, match=r"`layer` must be None if the site names it \(z\.3\)\. Got 1\."):
        HALVE.at("z.3", layer=1)


def test_an_unknown_site_gets_the_nearest_name():
    with pytest.raises(UnknownNameError, match=r"`name` must be a site\. Got 'resid_pots'\. Did you mean resid_po"):
        HALVE.at("resid_pots", layer=3)


def test_an_edit_does_not_compose_any_more():
    with pytest.raises(KindError, match=r"`\|` must join two interventions\. Got Scale\(0\.5\)\.at\('z'\)\. Compose"):
        HALVE | HALVE.at("z")
