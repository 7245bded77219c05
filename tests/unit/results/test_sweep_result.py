"""What a sweep's result is: shapes and coordinates that fit, means, peaks, parts by label, and how it prints."""

import json
from pickle import dumps, loads

import numpy as np
import pytest

from mlx_patch.errors import KindError, SelectionError, ShapeError, UnknownNameError, ValueRefusedError
from mlx_patch.sweeps import Peak, SweepResult


def f32(*numbers):
    return np.array(numbers, dtype=np.float32)


def made(values, axes, baseline=None, provenance=None, **coords):
    """A result with coordinates 0, 1, 2, ... where none are given, and a baseline of zeros."""
    values = np.array(values, dtype=np.float32)
    places = {axis: tuple(range(size)) for axis, size in zip(axes, values.shape, strict=True)}
    shape = values.shape[-2:] if "metric" in axes else values.shape[-1:]
    baseline = np.zeros(shape, dtype=np.float32) if baseline is None else np.array(baseline, dtype=np.float32)
    return SweepResult(values, tuple(axes), places | coords, baseline, provenance or {})


@pytest.fixture
def grid():
    """Layers 10 and 11, positions 5 to 7, two examples: 100 layer + 10 pos + example; baseline 1070 + example."""
    values = [[[100 * layer + 10 * pos + e for e in (0, 1)] for pos in (5, 6, 7)] for layer in (10, 11)]
    return made(
        values,
        ("layer", "pos", "example"),
        [1070, 1071],
        {"metrics": ["logit_diff"], "executor": "tree"},
        layer=(10, 11),
        pos=(5, 6, 7),
        token=("When", " Mary", "\n"),
    )


@pytest.fixture
def double():
    """Two metrics at three layers: the first rises to 3, the second falls to -9."""
    values = [[[1], [-1]], [[2], [-9]], [[3], [-2]]]
    return made(values, ("layer", "metric", "example"), metric=("prob", "kl"))


def test_arrays_are_copies_that_nothing_changes():
    values = np.zeros((1, 1), dtype=np.float32)
    result = made(values, ("layer", "example"))
    source = np.ones((1, 1), dtype=np.float32)
    other = SweepResult(source, result.axes, result.coords, result.baseline, {})
    source[:] = 5
    assert other.values.item() == 1
    with pytest.raises(ValueError, match="read-only"):
        other.values[:] = 2


def test_coordinates_become_plain_python():
    result = made([[1], [2]], ("layer", "example"), layer=np.arange(2), example=range(1))
    assert result.coords == {"layer": (0, 1), "example": (0,)}
    assert all(type(layer) is int for layer in result.coords["layer"])
    assert made([[1]], ("pos", "example"), pos=[[3, 4]]).coords["pos"] == ((3, 4),)


def test_provenance_is_what_json_gives_back():
    given = {"edits": ("a", "b"), "n": {1: 2}}
    result = made([[1]], ("layer", "example"), provenance=given)
    assert result.provenance == {"edits": ["a", "b"], "n": {"1": 2}}
    with pytest.raises(KindError, match=r"`provenance` must be a mapping of JSON values. Got: .* Write it as text."):
        made([[1]], ("layer", "example"), provenance={"edit": object()})


def test_a_result_can_be_pickled(grid):
    again = loads(dumps(grid))
    assert np.array_equal(again.values, grid.values)
    assert again.coords == grid.coords


@pytest.mark.parametrize(
    ("axes", "error", "message"),
    [
        (
            ("layers", "example"),
            UnknownNameError,
            r"`axes` must be axes of a sweep. Got 'layers'. Did you mean layer\?",
        ),
        (("example", "layer"), ValueRefusedError, r"'example' last .* Got \('example', 'layer'\). Sort them."),
        (("layer", "layer", "example"), ValueRefusedError, r"`axes` must be different"),
        (("metric", "layer", "example"), ValueRefusedError, r"'metric', if there, before it"),
        (("layer",), ValueRefusedError, r"'example' last"),
        ((), ValueRefusedError, r"'example' last"),
    ],
)
def test_axes_that_are_unknown_or_out_of_order_are_refused(axes, error, message):
    with pytest.raises(error, match=message):
        made(np.zeros((1,) * len(axes)), axes, [0])


@pytest.mark.parametrize(
    ("coords", "error", "message"),
    [
        ({"layer": (0,)}, ShapeError, r"one entry per place of `values` along 'layer', 2. Got 1. Give as many."),
        ({"layer": (3, 3)}, ValueRefusedError, r"`coords` must be different along 'layer'. Got \(3, 3\)"),
        ({"head": (1,)}, UnknownNameError, r"belong to the axes layer, pos, example, .* Got head. Leave them out."),
        ({"token": ("a",)}, ShapeError, r"along 'token', 3. Got 1."),
        ({"layer": (0, None)}, KindError, r"`coords` must be numbers, texts or groups along 'layer'\. Got None"),
    ],
)
def test_coordinates_that_do_not_fit_are_refused(coords, error, message):
    with pytest.raises(error, match=message):
        made(np.zeros((2, 3, 1)), ("layer", "pos", "example"), **coords)


def test_tokens_belong_to_positions():
    with pytest.raises(UnknownNameError, match=r"Got token. Leave them out."):
        made([[1]], ("layer", "example"), token=("a",))
    assert made([[1], [2]], ("pos", "example"), token=("a", "a")).coords["token"] == ("a", "a")


def test_shapes_and_dtypes_that_do_not_fit_are_refused():
    with pytest.raises(ShapeError, match=r"`values` must have the axes layer, example. Got shape \(1,\)"):
        SweepResult(f32(1), ("layer", "example"), {"layer": (0,), "example": (0,)}, f32(1), {})
    with pytest.raises(ShapeError, match=r"`baseline` must have the last axes of `values`, shape \(1,\). Got \(2,\)"):
        made([[1]], ("layer", "example"), [1, 2])
    with pytest.raises(ShapeError, match=r"shape \(2, 1\). Got \(1,\)"):
        made([[[1], [2]]], ("layer", "metric", "example"), [1])
    with pytest.raises(KindError, match=r"`values` must be a numpy array of float32. Got an array of float64. Use"):
        SweepResult(np.zeros((1, 1)), ("layer", "example"), {"layer": (0,), "example": (0,)}, f32(1), {})
    with pytest.raises(KindError, match=r"`baseline` must be .* Got list"):
        SweepResult(f32([1]), ("layer", "example"), {"layer": (0,), "example": (0,)}, [1.0], {})
    with pytest.raises(ValueRefusedError, match=r"`values` must not be empty. Got no place along 'layer'."):
        made(np.zeros((0, 1)), ("layer", "example"))


def test_means_are_over_examples(grid):
    assert grid.mean().tolist() == [[1050.5, 1060.5, 1070.5], [1150.5, 1160.5, 1170.5]]
    assert grid.baseline_mean() == 1070.5


def test_the_interval_holds_the_mean_and_the_seed_fixes_it(grid):
    low, high = grid.interval()
    assert low.tolist() == (grid.mean() - 0.5).tolist()  # of two examples: both the lower, both the higher
    assert high.tolist() == (grid.mean() + 0.5).tolist()
    assert np.array_equal(grid.interval(0.5, seed=3), grid.interval(0.5, seed=3))


def test_a_cell_that_was_not_run_is_missing_and_has_no_mean():
    result = made([[1, 2], [np.nan, 4], [np.nan, np.nan]], ("layer", "example"))
    assert not result.complete
    assert result.missing == 2
    assert np.array_equal(result.mean(), [1.5, np.nan, np.nan], equal_nan=True)
    assert not result.left_out.any()
    assert result.peak().where == {"layer": 0}


def test_a_baseline_that_was_not_run_leaves_nothing_out():
    result = made([[1, 2]], ("layer", "example"), [np.nan, 0])
    assert result.missing == 1
    assert np.isnan(result.baseline_mean())


def test_cells_are_counted_and_not_numbers(double):
    assert double.complete
    broken = made([[[1], [np.nan]], [[np.nan], [np.nan]]], ("layer", "metric", "example"))
    assert broken.missing == 2


def test_the_peak_is_furthest_from_the_baseline_either_way(grid):
    assert grid.peak() == Peak({"layer": 11, "pos": 7, "token": "\n"}, 1170.5, 100.0)
    down = made([[-5], [4]], ("layer", "example"))
    assert down.peak() == Peak({"layer": 0}, -5.0, -5.0)
    assert made([[-5], [4]], ("layer", "example"), [-4]).peak() == Peak({"layer": 1}, 4.0, 8.0)


def test_peaks_come_in_order_and_ties_in_that_of_the_axes():
    result = made([[1], [-3], [3], [np.nan], [0]], ("layer", "example"))
    assert [peak.where["layer"] for peak in result.peaks(9)] == [1, 2, 0, 4]
    assert [peak.effect for peak in result.peaks(2)] == [-3.0, 3.0]


def test_an_infinite_value_is_furthest():
    result = made([[1e30], [-np.inf]], ("layer", "example"))
    assert result.peak().where == {"layer": 1}


def test_several_metrics_have_a_peak_each(double):
    assert double.peak(metric="prob").where == {"layer": 2}
    assert double.peak("kl") == Peak({"layer": 1}, -9.0, -9.0)
    with pytest.raises(
        ValueRefusedError, match=r"`metric` must name one of several .* Got None. Choose from: prob, kl."
    ):
        double.peak()
    with pytest.raises(SelectionError, match=r"`metric` must be among .* Got 'kll'. Did you mean kl\?"):
        double.peak("kll")


def test_the_only_metric_goes_by_its_own_name(grid):
    assert grid.of_metric("logit_diff") is grid
    with pytest.raises(ValueRefusedError, match=r"the result's own, logit_diff. Got 'kl'. Leave it out."):
        grid.peak("kl")
    with pytest.raises(ValueRefusedError, match=r"the result's own, which has no name. Got 'kl'."):
        made([[1]], ("layer", "example")).peak("kl")


@pytest.mark.parametrize(
    ("n", "error", "message"),
    [
        (0, ValueRefusedError, r"`n` must be 1 or more. Got 0. Give the number of peaks."),
        (1.5, KindError, r"`n` must be a whole number. Got 1.5."),
        (True, KindError, r"`n` must be a whole number. Got True."),
    ],
)
def test_a_number_of_peaks_is_one_or_more(grid, n, error, message):
    with pytest.raises(error, match=message):
        grid.peaks(n)


def test_no_value_has_no_peak():
    empty = made([[np.nan]], ("layer", "example"))
    with pytest.raises(
        ValueRefusedError, match=r"`peak` must have at least one cell with a value.* Run the sweep to its end"
    ):
        empty.peak()


def test_a_peak_reads_as_a_sentence():
    peak = Peak({"layer": 12, "pos": 7, "token": " Mary"}, value=3.21, effect=8.43)
    assert repr(peak) == "layer 12, pos 7 (' Mary'): 3.21 (baseline -5.22, effect +8.43)"
    assert repr(Peak({"layer": (3, 4, 5), "head": (1, 4)}, 1, 1)) == "layer 3-5, head 1,4: 1 (baseline 0, effect +1)"
    assert repr(Peak({}, 1, 1)) == "the only cell: 1 (baseline 0, effect +1)"


def test_one_label_drops_its_axis_and_is_noted(grid):
    part = grid.sel(pos=6)
    assert part.axes == ("layer", "example")
    assert part.values.tolist() == [[1060, 1061], [1160, 1161]]
    assert part.coords == {"layer": (10, 11), "example": (0, 1)}
    assert part.provenance["selected"] == {"pos": 6, "token": " Mary"}
    assert part.baseline.tolist() == [1070, 1071]
    both = part.sel(layer=11)
    assert both.axes == ("example",)
    assert both.provenance["selected"] == {"pos": 6, "token": " Mary", "layer": 11}
    assert both.mean() == 1160.5


def test_a_list_keeps_its_axis_in_its_order(grid):
    part = grid.sel(pos=[7, 5])
    assert part.values[0].tolist() == [[1070, 1071], [1050, 1051]]
    assert part.coords["pos"] == (7, 5)
    assert part.coords["token"] == ("\n", "When")
    assert "selected" not in part.provenance
    assert grid.sel(layer=range(10, 12)).axes == grid.axes


def test_a_negative_number_counts_from_the_end_of_what_was_swept(grid):
    assert grid.sel(pos=-1).provenance["selected"]["pos"] == 7
    assert grid.sel(layer=-2).provenance["selected"]["layer"] == 10
    with pytest.raises(SelectionError, match=r"`layer` must be among the coordinates of the result. Got -3."):
        grid.sel(layer=-3)
    with pytest.raises(SelectionError, match=r"Got -1."):
        made([[1], [2]], ("alpha", "example"), alpha=(0.0, 1.0)).sel(alpha=-1)


def test_examples_are_kept_and_so_is_their_baseline(grid):
    part = grid.sel(example=1)
    assert part.axes == grid.axes
    assert part.values.shape == (2, 3, 1)
    assert part.baseline.tolist() == [1071]


def test_a_metric_is_chosen_with_its_baseline():
    result = made([[[1], [2]]], ("layer", "metric", "example"), [[5], [6]], metric=("prob", "kl"))
    part = result.sel(metric="kl")
    assert part.values.tolist() == [[2]]
    assert part.baseline.tolist() == [6]
    assert part.metrics == ("kl",)
    assert result.sel(metric=["kl"]).metrics == ("kl",)


def test_a_tuple_is_one_label():
    windows = made([[1], [2]], ("layer", "example"), layer=((0, 1), (1, 2)))
    assert windows.sel(layer=(1, 2)).values.tolist() == [2]
    assert windows.sel(layer=[(1, 2)]).values.tolist() == [[2]]
    with pytest.raises(SelectionError, match=r"Got \(0, 2\). Known: 0-1, 1-2."):
        windows.sel(layer=(0, 2))


def test_labels_that_are_not_there_are_refused(grid):
    with pytest.raises(
        UnknownNameError, match=r"`sel` must be given axes of the result. Got 'layr'. Did you mean layer"
    ):
        grid.sel(layr=10)
    with pytest.raises(SelectionError, match=r"Got 3. Known: 10, 11."):
        grid.sel(layer=3)
    for wrong in (slice(0, 1), np.arange(2), True):
        with pytest.raises(KindError, match=r"`layer` must be a coordinate or a list of them. Got .*coords\['layer'\]"):
            grid.sel(layer=wrong)
    with pytest.raises(ValueRefusedError, match=r"Got no place along 'layer'"):
        grid.sel(layer=[])


def test_none_is_no_label(grid):
    with pytest.raises(KindError, match=r"`layer` must be a coordinate .* Got NoneType"):
        grid.sel(layer=None)


def test_a_result_prints_what_it_is(grid, double):
    peak = "layer 11, pos 7 ('\\n'): 1.17e+03 (baseline 1.07e+03, effect +100)"
    assert repr(grid).splitlines() == [
        "SweepResult: layer 2 (10, 11) x pos 3 (5 to 7) x example 2 (0, 1)",
        f"  logit_diff: 1.05e+03 to 1.17e+03, peak at {peak}",
        "  executor tree, complete",
    ]
    assert repr(grid.sel(pos=6)).splitlines()[1] == "  at pos 6 (' Mary')"
    assert repr(double).splitlines() == [
        "SweepResult: layer 3 (0 to 2) x example 1 (0)",
        "  prob: 1 to 3, peak at layer 2: 3 (baseline 0, effect +3)",
        "  kl: -9 to -1, peak at layer 1: -9 (baseline 0, effect -9)",
        "  complete",
    ]


def test_a_result_that_was_stopped_says_so():
    assert repr(made([[np.nan], [1]], ("layer", "example"))).splitlines()[-1] == "  1 of 2 cells are missing"
    assert "no cell has a value" in repr(made([[np.nan]], ("layer", "example")))


def test_json_reads_well_and_loses_nothing(grid):
    text = grid.to_json()
    read = json.loads(text)
    assert read["axes"] == ["layer", "pos", "example"]
    assert read["coords"]["token"] == ["When", " Mary", "\n"]
    assert np.array_equal(read["values"], grid.values)
    assert read["baseline"] == [1070.0, 1071.0]
    assert (read["complete"], read["seconds"], read["plan"]) == (True, None, None)
    assert max(len(line) for line in text.splitlines()) < 120


def test_json_has_null_for_what_was_not_run(tmp_path):
    """And words for infinities."""
    result = made([[np.nan], [np.inf], [-np.inf], [0.1]], ("layer", "example"), provenance={"low": float("nan")})
    path = tmp_path / "a.json"
    text = result.to_json(path)
    assert path.read_text() == text + "\n"
    read = json.loads(text, parse_constant=pytest.fail)
    assert read["values"] == [[None], ["Infinity"], ["-Infinity"], [0.1]]
    assert read["provenance"] == {"low": None}
