"""The axes of a sweep: what may be chosen along them, groups of layers, and the edits of every cell."""

import mlx.core as mx
import numpy as np
import pytest

from mlx_patch import Interpolate, Scale
from mlx_patch.errors import KindError, SelectionError, UnknownNameError, ValueRefusedError
from mlx_patch.sweeps import onwards, up_to, windows
from mlx_patch.sweeps._grid import make_grid
from mlx_patch.sweeps.axes import SweepScope, sweep_axes
from mlx_patch.sweeps.axes._choices import flatten

ALL = {"layer": range(3), "pos": range(4)}


def parse_choices(keyword, given, size=None):
    [axis] = [kind() for kind in sweep_axes().values() if kind.keyword == keyword]
    return axis.parse(given, size)


def grid(over, sites=("z",), **chosen):
    choices = {name: tuple(ALL[name]) for name in over if name in ALL}
    choices |= {name: tuple(given) for name, given in chosen.items()}
    axes = {name: kind(choices.get(name)) for name, kind in sweep_axes().items()}
    return make_grid(over, SweepScope(None, (), sites, None, axes))


@pytest.mark.parametrize(
    ("given", "chosen"),
    [
        (None, None),
        (3, (3,)),
        (-1, (-1,)),
        ([2, 0], (2, 0)),
        (range(2, 4), (2, 3)),
        ([(0, 1), 2, [3, 4]], ((0, 1), 2, (3, 4))),
        (np.array([1, 2]), (1, 2)),
        (np.array([[1, 2], [3, 4]]), ((1, 2), (3, 4))),
        (np.int64(5), (5,)),
        (mx.array([1, 2]), (1, 2)),
        (mx.array(7), (7,)),
    ],
)
def test_a_choice_is_numbers_and_groups_of_numbers(given, chosen):
    assert parse_choices("layers", given) == chosen
    assert all(type(n) is int for n in flatten(chosen or ()))


@pytest.mark.parametrize(
    ("given", "chosen"),
    [
        (slice(1, None), (1, 2, 3)),
        (slice(-2, None), (2, 3)),
        (slice(None, None, -2), (3, 1)),
        ([slice(0, 2), -1], ((0, 1), -1)),
    ],
)
def test_a_slice_is_the_numbers_that_it_has_of_so_many(given, chosen):
    assert parse_choices("positions", given, 4) == chosen


def test_alphas_are_numbers_of_any_kind():
    assert parse_choices("alphas", [0, 0.5, np.float32(1.5), mx.array(2.0)]) == (0.0, 0.5, 1.5, 2.0)
    assert parse_choices("alphas", 1) == (1.0,)


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("layers", [], r"`layers` must choose something\. Got \[\]\. Leave it out to choose all\."),
        ("heads", [1, 1], r"`heads` must not name anything twice\. Got \[1, 1\]\."),
        ("heads", [(1, 2), (1, 2)], r"`heads` must not name anything twice"),
        ("heads", [(1, 2), (2, 1)], r"`heads` must not name anything twice"),
        ("heads", [(1, 1)], r"`heads` must not name anything twice"),
        ("neurons", [3, (3,)], r"`neurons` must not name anything twice"),
        ("positions", [1.0], r"`positions` must hold ints, or groups of ints\. Got 1\.0\. Write \[0, 1\]"),
        ("positions", "12", r"`positions` must hold ints, or groups of ints\. Got '12'"),
        ("positions", [[(1, 2)]], r"`positions` must hold ints, or groups of ints\. Got \(1, 2\)"),
        ("positions", slice(1, 2), r"`positions` must hold ints, or groups of ints\. Got slice\(1, 2, None\)"),
        ("neurons", [True], r"`neurons` must hold ints, or groups of ints\. Got True"),
        ("alphas", ["0.5"], r"`alphas` must be a number\. Got '0\.5'\. Write \[0\.0, 0\.5, 1\.0\]"),
        ("alphas", [(0.0, 0.5)], r"`alphas` must be a number\. Got \(0\.0, 0\.5\)"),
        ("alphas", [True], r"`alphas` must be a number\. Got True"),
    ],
)
def test_what_is_no_choice_is_refused(name, given, message):
    with pytest.raises(SelectionError, match=message):
        parse_choices(name, given)


def test_groups_of_layers():
    assert windows(range(5), 2) == [(0, 1), (1, 2), (2, 3), (3, 4)]
    assert windows([4, 2, 0], 3) == [(4, 2, 0)]
    assert up_to([3, 5]) == [(3,), (3, 5)]
    assert onwards([3, 5]) == [(3, 5), (5,)]


@pytest.mark.parametrize("width", [0, 4])
def test_a_window_has_a_width_that_is_there(width):
    with pytest.raises(ValueRefusedError, match=rf"`width` must be 1 to 3, the number of layers\. Got {width}\."):
        windows(range(3), width)


def test_cells_are_the_product_of_the_axes():
    """The last goes fastest."""
    made = grid(("pos", "layer"), layer=[(0, 2), 1], pos=[3, 0], head=(1,))
    assert made.coords == {"pos": (3, 0), "layer": ((0, 2), 1)}
    at = Scale(2.0).at
    assert made.edits(Scale(2.0)) == [
        (at("z", layer=layer, pos=pos, head=1),) for pos in (3, 0) for layer in ((0, 2), 1)
    ]


def test_sites_go_with_the_axes_where_they_vary():
    made = grid(("layer", "site"), ("z", "mlp_out"), layer=[0])
    assert made.edits(Scale(2.0)) == [(Scale(2.0).at("z", layer=0),), (Scale(2.0).at("mlp_out", layer=0),)]


def test_groups_that_do_not_vary_are_patched_together():
    (((edit,),)) = grid(("layer",), layer=[1], pos=[(0, 1), 3]).edits(Scale(2.0))
    assert edit == Scale(2.0).at("z", layer=1, pos=(0, 1, 3))


def test_each_alpha_is_one_intervention_for_all_its_cells():
    edits = [edit for (edit,) in grid(("layer", "alpha"), alpha=[0.0, 0.5]).edits(Interpolate(mx.ones((8,)), 0.25))]
    assert [edit.intervention.alpha for edit in edits] == [0.0, 0.5] * 3
    assert len({id(edit.intervention) for edit in edits}) == 2


@pytest.mark.parametrize(
    ("error", "message", "over", "sites", "chosen"),
    [
        (UnknownNameError, r"`over` must hold axes .* Got 'layers'\. Did you mean layer\?", ("layers",), ("z",), {}),
        (ValueRefusedError, r"`over` must name at least one axis, and each once\. Got \(\)\.", (), ("z",), {}),
        (ValueRefusedError, r"at least one axis, and each once\. Got \('pos', 'pos'\)", ("pos", "pos"), ("z",), {}),
        (ValueRefusedError, r"`at` must be one site unless `over` has 'site'\. Got z, q\.", ("pos",), ("z", "q"), {}),
        (ValueRefusedError, r"`alphas` must be left out unless .* Got 0\.5", ("pos",), ("z",), {"alpha": (0.5,)}),
    ],
)
def test_what_makes_no_grid_is_refused(error, message, over, sites, chosen):
    with pytest.raises(error, match=message):
        grid(over, sites, **chosen)


def test_only_an_interpolation_has_alphas():
    with pytest.raises(KindError, match=r"must be an Interpolate if `over` has 'alpha'\. Got Scale\(2\.0\)\."):
        grid(("alpha",), alpha=[0.0]).edits(Scale(2.0))
