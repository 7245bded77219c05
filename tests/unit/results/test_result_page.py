"""The HTML page of a result: one file that loads nothing, with every number, and text that cannot write into it."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
from html_pages import HOSTILE, Page

from mlx_patch.errors import FileError
from mlx_patch.results import Estimate, PairResult, SweepResult


def result_of(*axes, examples=1, metrics=0, kind=SweepResult, **more):
    """A result whose numbers are 0, 1, 2, ... over these axes, of sizes 2, 3, ..."""
    sizes = [2 + i for i in range(len(axes))]
    coords = {axis: tuple(range(size)) for axis, size in zip(axes, sizes, strict=True)}
    names = [f"metric {i}" for i in range(metrics or 1)]
    if metrics:
        sizes, axes, coords = [*sizes, metrics], (*axes, "metric"), {**coords, "metric": tuple(names)}
    coords["example"] = tuple(range(examples))
    shape = (*sizes, examples)
    values = np.arange(np.prod(shape), dtype=np.float32).reshape(shape) / 8
    baseline = np.ones(shape[-2:] if metrics else shape[-1:], np.float32)
    tokens = {}
    if "pos" in coords:
        tokens = {"token": (HOSTILE, *"bcdefg"[: len(coords["pos"]) - 1])}
    provenance = {"metrics": names, "tokens": HOSTILE}
    return kind(values, (*axes, "example"), {**coords, **tokens}, baseline, provenance, **more)


SHAPES = [(), ("layer",), ("site",), ("layer", "pos"), ("pos", "layer"), ("layer", "pos", "head", "alpha")]


@pytest.mark.parametrize("metrics", [0, 2])
@pytest.mark.parametrize("axes", SHAPES, ids=str)
def test_a_page_has_every_number(axes, metrics):
    result = result_of(*axes, examples=3, metrics=metrics)
    data = Page(result.to_html()).data
    np.testing.assert_array_equal(np.array(data["values"]).ravel(), result.values.ravel())
    np.testing.assert_array_equal(np.array(data["baseline"]).ravel(), result.baseline.ravel())
    assert [axis["name"] for axis in data["axes"]] == list(axes)
    assert [len(axis["labels"]) for axis in data["axes"]] == list(result.values.shape[: len(axes)])
    assert data["metrics"] == list(result.metrics)
    assert data["examples"] == 3


def test_a_result_without_axes_is_called_the_only_cell():
    name = ">the only cell<"
    assert name in result_of().to_html()
    assert name not in result_of("layer").to_html()


@pytest.mark.parametrize(
    ("axes", "shown"),
    [
        (("pos", "layer"), ["layer", "pos"]),
        (("head", "pos", "layer"), ["layer", "pos"]),
        (("site", "head", "alpha"), ["site", "head"]),
        (("layer",), None),
    ],
)
def test_layers_are_rows_and_positions_columns(axes, shown):
    assert Page(result_of(*axes).to_html()).data.get("shown") == shown


def test_a_page_loads_nothing():
    page = result_of("layer", "pos").to_html()
    assert not re.findall(r"https?://(?!www\.w3\.org/2000/svg)", page)
    read = Page(page)
    assert not {"link", "img", "iframe", "base", "form"} & set(read.attributes)
    assert all("src" not in attributes for attributes in read.attributes["script"])
    [policy] = [row["content"] for row in read.attributes["meta"] if "http-equiv" in row]
    assert policy.startswith("default-src 'none'")
    assert "url(" not in page
    assert "@import" not in page


def test_texts_of_tokens_cannot_write_into_a_page():
    page = result_of("layer", "pos").to_html()
    read = Page(page)
    assert "b" not in read.attributes
    assert len(read.attributes["script"]) == 2
    assert "</script><b>" not in page
    assert "\u2028" not in read.texts["script"][0]
    [pos] = [axis for axis in read.data["axes"] if axis["name"] == "pos"]
    assert pos["labels"][0].startswith("0 </script><b>&")
    assert HOSTILE in json.loads(read.texts["pre"][1])["tokens"]


def test_the_strongest_cells_are_there_as_text():
    result = result_of("layer", "pos", metrics=2)
    tables = Page(result.to_html()).texts["table"]
    assert len(tables) == 2
    for metric, table in zip(result.metrics, tables, strict=True):
        assert metric in table
        assert f"{result.peak(metric).value:.4g}" in table


def test_a_page_follows_dark_mode_and_is_small():
    page = result_of("layer", "pos").to_html()
    assert "@media (prefers-color-scheme: dark)" in page
    assert "color-scheme: light dark" in page
    assert len(page.encode()) < 40_000
    assert '<html lang="en">' in page


def test_numbers_have_the_digits_of_float32():
    values = np.full((200, 60, 1), 1 / 3, np.float32)
    coords = {"layer": tuple(range(200)), "pos": tuple(range(60)), "example": (0,)}
    result = SweepResult(values, ("layer", "pos", "example"), coords, np.zeros(1, np.float32), {})
    page = result.to_html()
    assert len(page.encode()) < 40_000 + 200 * 60 * 20
    assert Page(page).data["values"][0][0][0] == 0.33333334


def test_what_is_not_finite_has_no_value():
    result = result_of("layer", "pos")
    values = result.values.copy()
    values[0, 0, 0], values[1, 1, 0] = np.nan, np.inf
    data = Page(SweepResult(values, result.axes, result.coords, result.baseline, {}).to_html()).data
    assert data["values"][0] == [[None]]
    assert data["values"][4] == [[None]]
    nothing = SweepResult(np.full_like(values, np.nan), result.axes, result.coords, result.baseline, {})
    assert "No cell has a value." in nothing.to_html()


def test_a_curve_has_the_interval_of_the_mean():
    result = result_of("layer", examples=4, metrics=2)
    low, high = result.interval()
    interval = Page(result.to_html()).data["interval"]
    np.testing.assert_allclose(interval, [low, high], rtol=1e-6)
    assert "interval" not in Page(result_of("layer").to_html()).data


def test_examples_that_are_left_out_do_not_count():
    result = result_of("layer", examples=3)
    with pytest.warns(UserWarning, match="examples"):
        normalised = result.normalised(clean=np.array([2.0, 1.0, 3.0]), corrupted=1.0)
    data = Page(normalised.to_html()).data
    assert data["counted"] == [[True, False, True]]
    assert data["normalised"]


def test_an_estimate_says_which_cells_were_swept():
    exact = np.array([[True, False, False], [False, False, True]])
    data = Page(result_of("layer", "pos", kind=Estimate, exact=exact).to_html()).data
    assert data["exact"] == exact.ravel().tolist()
    assert "exact" not in Page(result_of("layer", "pos").to_html()).data


def test_a_page_is_written_whole(tmp_path):
    result = result_of("layer")
    page = result.to_html(tmp_path / "a.html")
    assert (tmp_path / "a.html").read_text(encoding="utf-8") == page
    assert [path.name for path in tmp_path.iterdir()] == ["a.html"]
    with pytest.raises(FileError, match="`path` must be in a folder that can be written to"):
        result.to_html(tmp_path / "no" / "a.html")


def test_a_notebook_shows_the_page_in_a_frame():
    result = result_of("layer", "pos")
    frame = Page(result._repr_html_())
    [attributes] = frame.attributes["iframe"]
    assert attributes["srcdoc"] == result.to_html()
    assert attributes["sandbox"] == "allow-scripts"


def test_a_page_of_both_directions_has_the_page_of_each(tmp_path):
    result = result_of("layer", "pos")
    ends = {"clean": 2.0, "corrupted": 1.0}
    other = replace(result, baseline=np.full(1, 2, np.float32))
    pair = PairResult(result.normalised(**ends), other.normalised(**ends))
    page = pair.to_html(tmp_path / "pair.html")
    assert (tmp_path / "pair.html").read_text(encoding="utf-8") == page
    for text in (page, pair._repr_html_()):
        pages = [frame["srcdoc"] for frame in Page(text).attributes["iframe"]]
        assert pages == [pair.denoising.to_html(), pair.noising.to_html()]


def test_a_notebook_shows_the_text_of_a_large_result():
    values = np.zeros((400, 300, 1), np.float32)
    coords = {"layer": tuple(range(400)), "pos": tuple(range(300)), "example": (0,)}
    result = SweepResult(values, ("layer", "pos", "example"), coords, np.zeros(1, np.float32), {})
    text = result._repr_html_()
    assert text.startswith("<pre>SweepResult: layer 400")
    assert len(text) < 1000
