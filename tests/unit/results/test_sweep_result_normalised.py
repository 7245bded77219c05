"""Fractions of the clean-corrupted gap, and pairs of sweeps that tell necessary from sufficient."""

import warnings

import mlx.core as mx
import numpy as np
import pytest

from mlx_patch.errors import DegenerateGapWarning, FileError, KindError, ShapeError, ValueRefusedError
from mlx_patch.sweeps import PairResult, SweepResult


def made(values, baseline, axes=("layer", "example"), provenance=None, **coords):
    values = np.array(values, dtype=np.float32)
    places = {axis: tuple(range(size)) for axis, size in zip(axes, values.shape, strict=True)} | coords
    return SweepResult(values, axes, places, np.array(baseline, dtype=np.float32), provenance or {"metrics": ["m"]})


@pytest.fixture
def raw():
    """Two layers, two examples; corrupted runs at -1 and 0."""
    return made([[-1, 10], [3, 5]], [-1, 0])


def test_zero_is_corrupted_and_one_is_clean(raw):
    result = raw.normalised(clean=[3, 10], corrupted=[-1, 0])
    assert result.values.tolist() == [[0, 1], [1, 0.5]]
    assert result.baseline.tolist() == [0, 0]
    assert result.mean().tolist() == [0.5, 0.75]
    assert result.is_normalised
    assert result.provenance["normalised"] == {"clean": [3, 10], "corrupted": [-1, 0], "left_out": 0}
    assert "fraction of the clean-corrupted gap" in repr(result)


def test_a_result_s_baseline_is_a_reference(raw):
    clean = made([[0, 0]], [3, 10])
    ours = raw.normalised(clean=clean, corrupted=raw)
    assert np.array_equal(ours.values, raw.normalised(clean=[3, 10], corrupted=[-1, 0]).values)


@pytest.mark.parametrize("clean", [4, 4.0, np.float32(4), np.array([4, 4]), mx.array([4.0, 4.0]), [4, 4]])
def test_a_reference_is_a_number_or_one_an_example(raw, clean):
    assert raw.normalised(clean=clean, corrupted=0).values.tolist() == [[-0.25, 2.5], [0.75, 1.25]]


def test_a_score_that_is_nan_comes_back_from_a_file(raw, tmp_path):
    """The provenance has it."""
    with pytest.warns(DegenerateGapWarning):
        result = raw.normalised(clean=[3, np.nan], corrupted=[-1, 0])
    result.save(tmp_path / "a.npz")
    again = SweepResult.load(tmp_path / "a.npz")
    assert np.array_equal(again.values, result.values, equal_nan=True)
    assert again.provenance["normalised"]["clean"][0] == 3
    assert np.isnan(again.provenance["normalised"]["clean"][1])


def test_each_metric_has_its_own_gap():
    result = made([[[1, 1], [1, 1]]], [[0, 0], [0, 0]], ("layer", "metric", "example"), metric=("a", "b"))
    done = result.normalised(clean=[[2, 4], [5, 10]], corrupted=0)
    assert done.values.tolist() == np.array([[[0.5, 0.25], [0.2, 0.1]]], dtype=np.float32).tolist()


def test_examples_without_a_gap_are_left_out_with_a_warning(raw):
    with pytest.warns(DegenerateGapWarning, match=r"^1 of 2 examples have no gap .* left out of means. Check these"):
        result = raw.normalised(clean=[3, 0], corrupted=[-1, 0])
    assert np.array_equal(result.values, [[0, np.nan], [1, np.nan]], equal_nan=True)
    assert np.array_equal(result.baseline, [0, np.nan], equal_nan=True)
    assert result.left_out.tolist() == [False, True]
    assert result.complete
    assert result.mean().tolist() == [0, 1]
    assert result.provenance["normalised"]["left_out"] == 1
    assert "1 of 2 examples left out" in repr(result)


def test_the_warning_counts_examples_and_not_metrics():
    result = made([[[1, 1], [1, 1]]], [[0, 0], [0, 0]], ("layer", "metric", "example"), metric=("a", "b"))
    with pytest.warns(DegenerateGapWarning, match=r"^1 of 2 examples, for one metric or more, have no gap"):
        done = result.normalised(clean=[[1, 0], [1, 1]], corrupted=0)
    assert done.mean().tolist() == [[1, 1]]
    with pytest.raises(ValueRefusedError, match=r"`interval` must have two examples or more to resample. Got 1."):
        done.interval()
    assert done.sel(metric="b").interval()[0].tolist() == [1]


@pytest.mark.parametrize(
    ("clean", "corrupted", "none"),
    [
        (1e-6, 0, True),
        (2e-6, 0, False),
        (1000.0, 1000.01, True),
        (1000.0, 1000.02, False),
        (np.inf, 0, True),
        (np.nan, 0, True),
        (np.inf, np.inf, True),
        (-5, 5, False),
    ],
)
def test_what_counts_as_no_gap(clean, corrupted, none):
    result = made([[1]], [0])
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        done = result.normalised(clean=clean, corrupted=corrupted)
    assert [warning.category for warning in seen] == [DegenerateGapWarning] * none
    assert bool(done.left_out.all()) == none


def test_a_cell_that_was_not_run_stays_missing():
    result = made([[np.nan, 1], [1, 1]], [0, 0]).normalised(clean=2, corrupted=0)
    assert result.missing == 1
    assert np.isnan(result.mean()[0])


def test_where_no_example_has_a_gap_there_is_no_peak(raw):
    with pytest.warns(DegenerateGapWarning, match="2 of 2"):
        result = raw.normalised(clean=0, corrupted=0)
    assert np.isnan(result.mean()).all()
    with pytest.raises(ValueRefusedError, match="on examples whose clean and corrupted runs differ"):
        result.peak()


def test_only_a_sweep_s_own_values_are_normalised(raw):
    done = raw.normalised(clean=[3, 10], corrupted=[-1, 0])
    with pytest.raises(ValueRefusedError, match=r"`normalised` must start .* Got one that is normalised already. Use"):
        done.normalised(clean=1, corrupted=0)
    with pytest.raises(ValueRefusedError, match=r"Got one whose baseline has NaN"):
        made([[1]], [np.nan]).normalised(clean=1, corrupted=0)


def test_references_that_do_not_fit_are_refused(raw):
    with pytest.raises(ShapeError, match=r"`clean` must have a shape of \(\), \(2,\). Got \(3,\). Give one number per"):
        raw.normalised(clean=[1, 2, 3], corrupted=0)
    with pytest.raises(
        KindError, match=r"`corrupted` must be a number, an array of numbers or a SweepResult. Got 'low'"
    ):
        raw.normalised(clean=1, corrupted="low")
    with pytest.raises(ValueRefusedError, match=r"`clean` must be a result of the same metrics, .* Got one of other"):
        raw.normalised(clean=made([[1, 1]], [1, 1], provenance={"metrics": ["other"]}), corrupted=0)
    with pytest.raises(ValueRefusedError, match=r"Got one that is normalised. Pass the numbers of that run."):
        raw.normalised(clean=raw.normalised(clean=9, corrupted=-9), corrupted=0)


def fractions(values, baseline, **coords):
    """Cells of one example, already fractions: 0 corrupted, 1 clean."""
    return made([[value] for value in values], [baseline], **coords).normalised(clean=1, corrupted=0)


@pytest.fixture
def pair():
    """Layer 0 does nothing, 1 is both, 2 only restores, 3 only destroys, 4 was not run."""
    return PairResult(fractions([0.1, 0.9, 0.8, 0.2, np.nan], 0), fractions([0.9, 0.05, 0.7, 0.3, np.nan], 1))


def test_sufficient_restores_and_necessary_destroys(pair):
    assert pair.sufficient().tolist() == [False, True, True, False, False]
    assert pair.necessary().tolist() == [False, True, False, True, False]
    assert pair.sufficient(0.85).tolist() == [False, True, False, False, False]
    assert pair.necessary(0.25).tolist() == [False, True, True, True, False]


def test_a_summary_says_which_is_which(pair):
    summary = pair.summary(0.5)
    assert [(row.where["layer"], row.verdict) for row in summary.rows] == [
        (1, "necessary and sufficient"),
        (2, "sufficient only"),
        (3, "necessary only"),
    ]
    assert str(summary).splitlines() == [
        "threshold 0.5 of the clean-corrupted gap, 5 cells, 1 not run",
        "necessary and sufficient: 1",
        "  layer 1: denoising restores 0.90, noising leaves 0.05",
        "sufficient only: 1",
        "  layer 2: denoising restores 0.80, noising leaves 0.70",
        "necessary only: 1",
        "  layer 3: denoising restores 0.20, noising leaves 0.30",
    ]


def test_a_threshold_itself_counts():
    pair = PairResult(fractions([0.5], 0), fractions([0.5], 1))
    assert pair.summary(0.5).rows[0].verdict == "necessary and sufficient"


def test_a_summary_is_sorted_by_the_weaker_claim_and_prints_ten():
    pair = PairResult(fractions([0.9, 0.7, *[0.6] * 10], 0), fractions([0.4, 0.1, *[0.4] * 10], 1))
    summary = pair.summary()
    assert [row.where["layer"] for row in summary.of("necessary and sufficient")][:2] == [1, 0]
    assert len(summary.rows) == 12
    lines = str(summary).splitlines()
    assert lines[1] == "necessary and sufficient: 12"
    assert lines[12:] == ["  and 2 more, in `rows`", "sufficient only: 0", "necessary only: 0"]


def test_a_pair_of_several_metrics_is_read_one_at_a_time():
    axes, names = ("layer", "metric", "example"), ("a", "b")
    denoising = made([[[1], [0.1]]], [[0], [0]], axes, metric=names).normalised(clean=1, corrupted=0)
    noising = made([[[0], [0.9]]], [[1], [1]], axes, metric=names).normalised(clean=1, corrupted=0)
    pair = PairResult(denoising, noising)
    assert pair.sufficient().tolist() == [[True, False]]
    assert len(pair.summary(metric="a").rows) == 1
    assert pair.summary(metric="b").rows == ()
    with pytest.raises(ValueRefusedError, match=r"`metric` must name one of several"):
        pair.summary()


def test_the_two_prompts_may_have_other_tokens():
    denoising, noising = (
        made([[value]], [base], ("pos", "example"), token=(token,)).normalised(clean=1, corrupted=0)
        for value, base, token in ((1, 0, " Mary"), (0, 1, " John"))
    )
    assert PairResult(denoising, noising).summary().rows[0].where == {"pos": 0, "token": " Mary"}


def test_pairs_that_do_not_belong_together_are_refused():
    low, high = fractions([0.5], 0), fractions([0.5], 1)
    with pytest.raises(ValueRefusedError, match=r"`noising` must be normalised. Got one in its metric's unit. Use"):
        PairResult(low, made([[1]], [1]))
    with pytest.raises(
        ShapeError, match=r"`noising` must have the axes and coordinates of .* Got others: layer. Sweep"
    ):
        PairResult(low, fractions([0.5], 1, layer=(7,)))
    with pytest.raises(ShapeError, match=r"Got others: \('layer', 'example'\) and \('head', 'example'\)"):
        PairResult(low, made([[1]], [1], ("head", "example")).normalised(clean=1, corrupted=0))
    other = made([[1]], [1], provenance={"metrics": ["other"]}).normalised(clean=1, corrupted=0)
    with pytest.raises(ShapeError, match=r"metrics \('m',\) and \('other',\)"):
        PairResult(low, other)
    with pytest.raises(ValueRefusedError, match=r"`denoising` must start from the corrupted run, at 0, .* Swap"):
        PairResult(high, low)
    with pytest.raises(ValueRefusedError, match=r"Got starts at 0.0 and 0.0"):
        PairResult(low, low)


@pytest.mark.parametrize(
    ("threshold", "error", "message"),
    [
        (0, ValueRefusedError, r"`threshold` must be above 0. Got 0. Give 0.5."),
        (np.nan, ValueRefusedError, r"Got nan"),
        (np.inf, ValueRefusedError, r"Got inf"),
        ("half", KindError, r"`threshold` must be a number. Got 'half'. Give 0.5."),
        (True, KindError, r"Got True"),
    ],
)
def test_a_threshold_is_a_positive_number(pair, threshold, error, message):
    for read in (pair.sufficient, pair.necessary, pair.summary):
        with pytest.raises(error, match=message):
            read(threshold)


def test_a_pair_is_one_file(pair, tmp_path):
    path = tmp_path / "pair.npz"
    pair.save(path)
    again = PairResult.load(path)
    assert np.array_equal(again.denoising.values, pair.denoising.values, equal_nan=True)
    assert np.array_equal(again.noising.values, pair.noising.values, equal_nan=True)
    assert again.summary() == pair.summary()
    pair.save(tmp_path / "again.npz")
    assert (tmp_path / "again.npz").read_bytes() == path.read_bytes()
    with pytest.raises(FileError, match=r"must be a file that SweepResult.save wrote. Got .* which is of another kind"):
        SweepResult.load(path)


def test_a_pair_prints_both(pair):
    lines = repr(pair).splitlines()
    assert lines[0] == "PairResult"
    assert lines[1].startswith("denoising: SweepResult: layer 5")
    assert any(line.startswith("noising: SweepResult") for line in lines)
