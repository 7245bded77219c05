"""A 2 x 2 of halves in files, tables and figures."""

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest

import mlx_patch as mp
from mlx_patch.errors import FileError
from mlx_patch.files import Format, write_archive


@pytest.fixture
def result():
    cells = np.random.default_rng(0).normal(size=(3, 2, 2, 4)).astype(np.float32)
    return mp.TwoByTwo((0, 2, 4), cells, "logit_diff([' Mary', ' John', ' Kate'], [' Tom', ' Jo'])")


def test_it_says_what_it_is_in_a_line(result):
    assert repr(result) == "TwoByTwo(logit_diff, layer 3 (0 to 4), 4 examples)"


def test_files_give_it_back(result, tmp_path):
    result.save(tmp_path / "a.npz")
    again = mp.TwoByTwo.load(tmp_path / "a.npz")
    assert (again.layers, again.metric) == (result.layers, result.metric)
    np.testing.assert_array_equal(again.cells, result.cells)
    again.save(tmp_path / "b.npz")
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_files_that_do_not_fit_are_refused(result, tmp_path):
    result.save(tmp_path / "a.npz")
    with pytest.raises(FileError, match=r"`path` must end in '.npz'"):
        result.save(tmp_path / "a.json")
    with pytest.raises(FileError, match=r"must be a file that SweepResult.save wrote"):
        mp.SweepResult.load(tmp_path / "a.npz")
    entry = Format("mlx_patch.TwoByTwo", 1).entry
    for about in ({"layers": [0], "metric": "kl"}, {"metric": "kl"}, {"layers": None, "metric": "kl"}):
        write_archive(tmp_path / "b.npz", entry | about, {"cells": result.cells})
        with pytest.raises(FileError, match=r"must be a file that TwoByTwo.save wrote. Got .*, which is inconsistent"):
            mp.TwoByTwo.load(tmp_path / "b.npz")


def test_a_table_has_a_row_for_each_number(result):
    table = result.to_pandas()
    assert list(table.columns) == ["layer", "early", "late", "example", "value"]
    assert len(table) == result.cells.size
    row = table[(table.layer == 2) & (table.early == "other") & (table.late == "base") & (table.example == 3)]
    assert row.value.item() == result.cells[1, 1, 0, 3]


def test_a_plot_has_both_effects_and_the_interaction(result):
    mpl.use("Agg")
    axes = result.plot()
    lines = {line.get_label(): line.get_ydata() for line in axes.lines}
    np.testing.assert_allclose(lines["early"], result.early.mean(axis=-1), rtol=1e-6)
    np.testing.assert_allclose(lines["interaction"], result.interaction.mean(axis=-1), rtol=1e-6)
    assert len(axes.collections) == 3  # the intervals
    assert axes.get_ylabel() == "change of logit_diff"
    assert "earlier state" in axes.get_title()
    plt.close("all")
