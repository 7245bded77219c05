"""A number that overflows is a number: what was run is known by what was run, and not by NaN."""

import json
import warnings

import mlx.core as mx
import numpy as np
import pytest

import mlx_patch as mp
from mlx_patch.errors import DegenerateGapWarning, FileError, KindError, ShapeError, ValueRefusedError
from mlx_patch.files import Format, read_archive, write_archive
from mlx_patch.metrics import LogitDiff, LogProb, SequenceLogitDiff
from mlx_patch.sweeps import PairResult, SweepResult
from mlx_patch.testing import tiny_model

OVERFLOW = mp.Scale(1e30)


@pytest.fixture
def half():
    """A model in float16, whose numbers end at 65504."""
    model = tiny_model("llama")
    model.set_dtype(mx.float16)
    return mp.HookedModel(model)


def swept(model, tokens, **more):
    chosen = {"intervention": OVERFLOW, "at": "mlp_out", "over": "layer", "metric": LogitDiff(3, 4), **more}
    return mp.sweep(model, tokens, **chosen)


def stopping(done, total):
    raise KeyboardInterrupt


@pytest.mark.parametrize("executor", ["grow", "rows", "reference"])
def test_cells_that_overflow_are_not_missing(half, tokens, executor):
    result = swept(half, tokens, executor=executor)
    assert np.isnan(result.values).all()
    assert result.run_mask.all()
    assert (result.missing, result.complete) == (0, True)
    assert f"complete, {len(result.values)} of {len(result.values)} cells were computed to be NaN" in repr(result)
    with pytest.raises(ValueRefusedError, match="They ran and overflowed: load the model in bfloat16 or float32"):
        result.peak()


@pytest.mark.parametrize("metric", [LogitDiff(3, 4), SequenceLogitDiff([3, 5], [4, 6])])
def test_a_stopped_sweep_knows_overflows_from_what_did_not_run(half, tokens, metric, tmp_path):
    stopped = {"executor": "reference", "progress": stopping, "checkpoint": tmp_path / "night.npz"}
    part = swept(half, tokens, metric=metric, **stopped)
    assert np.isnan(part.values).all()
    assert 0 < part.missing
    whole = swept(half, tokens, metric=metric, executor="reference", checkpoint=tmp_path / "night.npz")
    assert whole.complete


def test_what_was_run_is_known_of_each_metric_and_length(half, tokens):
    prompts = [[1, 2, 3, 4], [5, 6, 7]]
    metrics = [LogProb(3), SequenceLogitDiff([3, 5], [4, 6])]
    told = []

    def stop(done, total):
        told.append(total)
        if done >= total - 2:
            raise KeyboardInterrupt

    part = mp.sweep(half, prompts, OVERFLOW, "mlp_out", "layer", metrics, executor="reference", progress=stop)
    assert part.run_mask.shape == part.values.shape
    assert part.run_mask[:, :, 0].all()
    assert not part.run_mask[:, 1, 1].all()
    assert told
    assert swept(half, prompts, metric=metrics).complete


def test_a_file_keeps_what_was_run(half, tokens, tmp_path):
    result = swept(half, tokens, executor="reference", progress=stopping)
    result.save(tmp_path / "a.npz")
    again = SweepResult.load(tmp_path / "a.npz")
    assert np.array_equal(again.run_mask, result.run_mask)
    assert again.missing == result.missing == len(result.values) - 1
    assert json.loads(result.to_json())["run_mask"] == result.run_mask.tolist()
    assert "run_mask" not in json.loads(swept(half, tokens).to_json())


def test_a_file_of_another_mask_is_refused(half, tokens, tmp_path):
    result = swept(half, tokens)
    result.save(tmp_path / "a.npz")
    known = ("values", "baseline", "run_mask")
    about, arrays = read_archive(tmp_path / "a.npz", "SweepResult.save", Format("mlx_patch.SweepResult", 1), known)
    write_archive(tmp_path / "b.npz", about, arrays | {"run_mask": np.ones(3, bool)})
    with pytest.raises(FileError, match=r"`run_mask` must have the shape of `values`"):
        SweepResult.load(tmp_path / "b.npz")


def made(values, baseline, **more):
    values = np.array(values, np.float32)
    coords = {"layer": tuple(range(len(values))), "example": tuple(range(values.shape[1]))}
    baseline = np.array(baseline, np.float32)
    return SweepResult(values, ("layer", "example"), coords, baseline, {"metrics": ["m"]}, **more)


def test_a_part_and_a_fraction_keep_what_was_run():
    mask = np.array([[True], [False], [True]])
    result = made([[np.nan], [np.nan], [1]], [0], run_mask=mask)
    assert result.missing == 1
    assert result.sel(layer=[0, 2]).complete
    assert result.sel(layer=1).missing == 1
    assert result.normalised(clean=2, corrupted=0).missing == 1


def test_an_unpatched_run_that_overflows_leaves_its_example_out():
    result = made([[1, 2]], [np.nan, 0], run_mask=np.ones((1, 2), bool))
    assert result.complete
    with pytest.warns(DegenerateGapWarning, match="1 of 2 examples have no gap .*, or NaN in the unpatched run"):
        fractions = result.normalised(clean=4, corrupted=0)
    assert fractions.left_out.tolist() == [True, False]
    assert fractions.mean().tolist() == [0.5]
    assert fractions.complete


def test_a_summary_counts_overflows_apart():
    mask = np.array([[True], [False], [True]])
    denoising, noising = (
        made([[np.nan], [np.nan], [1 - start]], [start], run_mask=mask).normalised(clean=1, corrupted=0)
        for start in (0, 1)
    )
    summary = PairResult(denoising, noising).summary()
    assert (summary.missing, summary.nan) == (1, 1)
    assert "3 cells, 1 not run, 1 NaN" in str(summary)


def test_infinities_are_drawn_and_told_without_a_warning():
    result = made([[np.inf], [-np.inf], [1]], [np.inf])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "complete" in repr(result)
        result.mean()
        result.peaks(3)


def test_a_mask_that_is_none_is_refused():
    with pytest.raises(KindError, match=r"`run_mask` must be a numpy array of bool. Got an array of float32. Use"):
        made([[1]], [1], run_mask=np.ones((1, 1), np.float32))
    with pytest.raises(KindError, match=r"Got list"):
        made([[1]], [1], run_mask=[[True]])
    with pytest.raises(ShapeError, match=r"`run_mask` must have the shape of `values`, \(1, 1\). Got \(2,\)"):
        made([[1]], [1], run_mask=np.ones(2, bool))


def test_a_number_was_run_whatever_the_mask_says():
    assert made([[1], [np.nan]], [1], run_mask=np.zeros((2, 1), bool)).missing == 1
