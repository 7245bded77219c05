"""The pages of results: one file each, that loads nothing, with the numbers of the result and a text alternative."""

import numpy as np
import pytest
from html_pages import HOSTILE, read_safely
from page_samples import PAGED, curve, direct, estimate, heads, two_by_two

from mlx_patch.errors import FileError
from mlx_patch.lens import DirectLogits


@pytest.mark.parametrize("name", PAGED)
def test_a_page_is_safe_and_written_whole(name, tmp_path):
    result = PAGED[name]()
    page = result.to_html(tmp_path / "a.html")
    assert (tmp_path / "a.html").read_text(encoding="utf-8") == page == result.to_html()
    read = read_safely(page)
    assert len(read.attributes["script"]) == 2
    assert read.texts["h1"][0] == read.texts["title"][0]
    assert repr(result).split("(")[0].splitlines()[0][:12] in "".join(read.texts["pre"] + read.texts["h1"])
    [frame] = read_safely(f"{result._repr_html_()}<!-- prefers-color-scheme: dark -->").attributes["iframe"]
    assert frame["srcdoc"] == page
    with pytest.raises(FileError, match="`path` must be in a folder that can be written to"):
        result.to_html(tmp_path / "no" / "a.html")


def test_parts_of_a_logit_are_cells_without_a_baseline():
    result = direct("layer", "head")
    page = read_safely(result.to_html())
    np.testing.assert_array_equal(np.array(page.data["values"]).reshape(result.values.shape), result.values)
    assert page.data["baseline"] is None
    assert page.data["shown"] == ["layer", "head"]
    assert [axis["ordered"] for axis in page.data["axes"]] == [True, False]
    strongest, others = page.texts["table"]
    assert f"layer 2, head 3{result.mean().max():.4g}" in strongest
    assert "embed1.5" in others


def test_of_many_parts_a_page_has_the_strongest():
    values = np.arange(30_000, dtype=np.float32).reshape(3, 10_000, 1)
    coords = {"layer": (0, 1, 2), "neuron": tuple(range(10_000))}
    result = DirectLogits("neuron", values, ("layer", "neuron"), coords, {}, np.ones(1), 1.0, "logit of 3")
    page = read_safely(result.to_html())
    assert "script" not in page.attributes
    assert "layer 2, neuron 9999" in page.texts["table"][0]


def test_a_curve_of_faithfulness_has_its_intervals():
    result = curve()
    data = read_safely(result.to_html()).data
    expected = np.stack([result.f_absolute, result.f_signed, result.f_complement], axis=-1)
    np.testing.assert_allclose(np.array(data["values"])[..., 0], expected, rtol=1e-6)
    low, high = result.interval("signed")
    np.testing.assert_allclose(np.array(data["interval"])[:, :, 1], [low, high], rtol=1e-6)
    assert data["axes"][0]["labels"] == ["1 (0.1)", "2 (0.2)", "5 (0.5)", "10 (1)"]
    alone = read_safely(curve(examples=1, complement=False).to_html()).data
    assert "interval" not in alone
    assert len(alone["metrics"]) == 2


def test_points_of_an_agreement_say_which_cell_they_are():
    agreement = estimate().agreement
    assert agreement.cells[0] == f"layer 0, pos 0 ({HOSTILE!r})"
    data = read_safely(agreement.to_html()).data
    points = {point["label"]: (point["x"], point["y"], point["group"]) for point in data["points"]}
    assert points["layer 0, pos 1 ('b')"] == (6.0, 5.0, "drawn at random")
    assert points["layer 1, pos 1 ('b')"] == (3.0, 2.0, "the strongest estimates")
    assert len(points) == 3
    assert (data["x"], data["y"]) == ("estimated change of kl", "exact change of kl")


def test_effects_of_heads_have_a_picker_for_their_kind():
    result = heads()
    data = read_safely(result.to_html()).data
    assert data["metrics"] == ["total effect", "direct effect", "attributed effect"]
    values = np.array(data["values"]).reshape(2, 4, 3, 2)
    np.testing.assert_allclose(values[:, :, 1], result.direct, rtol=1e-6)
    assert data["axes"][0]["labels"] == ["5", "6"]


def test_a_two_by_two_has_its_cells_and_effects():
    result = two_by_two()
    data = read_safely(result.to_html()).data
    values = dict(zip(data["metrics"], np.moveaxis(np.array(data["values"]), 1, 0), strict=True))
    np.testing.assert_allclose(values["effect: interaction"], result.interaction, rtol=1e-5)
    np.testing.assert_allclose(values["base's earlier state, other's later layers"], result.cells[:, 0, 1], rtol=1e-6)
    low, _ = np.array(data["interval"])
    assert low.shape == (3, 7)
    assert (low[:, 0] <= result.early.mean(axis=-1)).all()
