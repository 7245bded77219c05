"""Plots of plain arrays: labels that can be read, a scale whose middle is white, and where they are drawn."""

import sys
from itertools import pairwise

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.figure import Figure

from mlx_patch.errors import KindError, MissingExtraError, ShapeError, ValueRefusedError
from mlx_patch.plot import heatmap, layer_curve, limit_of, size_of_heatmap, visible

TOKENS = ["When", " John", "\n", "  ", "$5", "$7", "\t", "日本", "x" * 40, "\x00"]


@pytest.fixture(autouse=True)
def _plain_figures(monkeypatch):
    mpl.use("Agg")
    monkeypatch.setattr(plt, "show", pytest.fail)
    yield
    plt.close("all")


def texts(labels):
    return [label.get_text() for label in labels]


def bar(axes):
    """The colour bar's axes."""
    return axes.images[0].colorbar.ax


def white(image, value):
    return image.cmap(image.norm(value))


@pytest.mark.parametrize(
    ("token", "shown"),
    [
        (" Mary", "␣Mary"),
        ("   ", "␣␣␣"),
        ("\n\n", r"\n\n"),
        ("\t", r"\t"),
        ("\u200b", r"\u200b"),
        ("a" * 16, "a" * 16),
        ("a" * 17, "a" * 15 + "…"),
        ("", ""),
        ("é", "é"),
    ],
)
def test_nothing_in_a_token_is_invisible(token, shown):
    assert visible(token) == shown


def test_what_no_font_has_is_shown_as_its_escape():
    assert visible("日本", drawable=str.isascii) == r"\u65e5\u672c"


@pytest.mark.parametrize("center", [0.0, -5.0, 1.0])
def test_the_centre_is_white_and_both_ends_are_as_far(center):
    image = heatmap(np.array([[center - 1, center + 4]]), [0], [0, 1], center=center).images[0]
    assert image.get_clim() == (center - 4, center + 4)
    red, green, blue, _ = white(image, center)
    assert min(red, green, blue) > 0.95
    assert white(image, center + 4)[0] > white(image, center + 4)[2]
    assert white(image, center - 4)[2] > white(image, center - 4)[0]


def test_infinities_and_gaps_do_not_stretch_the_scale():
    values = np.array([[np.nan, np.inf], [-2.0, 1.0]])
    assert limit_of(values, 0) == 2
    assert limit_of(np.full((1, 1), np.nan), 0) == 1
    assert limit_of(np.zeros((1, 1)), 0) == 1
    assert heatmap(values, [0, 1], [0, 1]).images[0].get_clim() == (-2, 2)


def test_cells_without_a_value_are_grey_and_the_legend_says_so():
    axes = heatmap(np.array([[np.nan, 1.0]]), [0], [0, 1])
    red, green, blue, _ = axes.images[0].cmap(np.ma.masked_invalid([np.nan]))[0]
    assert red == green == blue == pytest.approx(0.78)
    assert texts(axes.get_legend().get_texts()) == ["no value"]
    assert heatmap(np.ones((1, 1)), [0], [0]).get_legend() is None


def test_a_limit_sets_the_scale():
    assert heatmap(np.ones((1, 1)), [0], [0], limit=3).images[0].get_clim() == (-3, 3)
    for limit in (0, -1, np.nan, np.inf):
        with pytest.raises(
            ValueRefusedError, match=r"`limit` must be (above 0|a finite number). Got .* Leave it out to see"
        ):
            heatmap(np.ones((1, 1)), [0], [0], limit=limit)


def test_the_first_row_is_at_the_bottom_unless_told_otherwise():
    values = np.array([[1.0], [2.0]])
    assert heatmap(values, [0, 1], [0]).get_ylim() == (-0.5, 1.5)
    assert heatmap(values, ["a", "b"], [0], upwards=False).get_ylim() == (1.5, -0.5)


def test_a_long_value_label_stays_on_the_figure():
    """It is written in several lines."""
    label = "logit of the right name minus that of the wrong one, at the last position (nats)\n0 corrupted, 1 clean"
    for axes in (
        layer_curve(np.ones(2), [0, 1], value_label=label),
        bar(heatmap(np.ones((3, 3)), range(3), range(3), value_label=label)),
    ):
        axes.figure.canvas.draw()
        box = axes.yaxis.label.get_window_extent()
        assert box.y0 >= 0
        assert box.y1 <= axes.figure.bbox.height
        assert box.x0 >= 0
    axes = layer_curve(np.ones(2), [0, 1], value_label=label)
    assert axes.get_ylabel().replace("\n", " ") == label.replace("\n", " ")
    assert axes.get_ylabel().endswith("\n0 corrupted, 1 clean")


def test_labels_and_units_are_there_and_no_dollar_is_mathematics():
    axes = heatmap(np.ones((1, 10)), [4], range(10), tokens=TOKENS, value_label="a($5, $7) (nats)", title="$a$")
    axes.figure.canvas.draw()
    assert texts(axes.get_yticklabels()) == ["4"]
    shown = texts(axes.get_xticklabels())
    assert shown[:5] == ["When (0)", "␣John (1)", r"\n (2)", "␣␣ (3)", "$5 (4)"]
    assert shown[6] == r"\t (6)"
    assert shown[9] == r"\x00 (9)"
    assert (axes.get_xlabel(), axes.get_ylabel(), axes.get_title()) == ("position", "layer", "$a$")
    assert bar(axes).get_ylabel() == "a($5, $7) (nats)"
    written = [*axes.get_xticklabels(), axes.title, axes.xaxis.label, axes.yaxis.label, bar(axes).yaxis.label]
    assert not any(text.get_parse_math() for text in written)


@pytest.mark.parametrize(("rows", "columns"), [(30, 60), (12, 12), (3, 4), (100, 8)])
def test_labels_do_not_run_into_each_other(rows, columns):
    tokens = [f" token{p}" for p in range(columns)]
    axes = heatmap(np.zeros((rows, columns)), range(rows), range(columns), tokens=tokens)
    axes.figure.canvas.draw()
    assert len(axes.get_xticklabels()) == columns
    assert len(axes.get_yticklabels()) == rows
    for labels, ends in ((axes.get_xticklabels(), ("x0", "x1")), (axes.get_yticklabels(), ("y0", "y1"))):
        boxes = sorted(tuple(getattr(label.get_window_extent(), end) for end in ends) for label in labels)
        assert all(before[1] <= after[0] + 0.5 for before, after in pairwise(boxes))


def test_where_there_is_no_room_for_all_labels_some_are_left_out():
    [axes] = Figure(figsize=(3, 3)).subplots(squeeze=False).ravel()
    heatmap(np.zeros((100, 300)), range(100), range(300), ax=axes)
    axes.figure.canvas.draw()
    shown = texts(axes.get_xticklabels())
    assert shown[0] == "0"
    assert 3 < len(shown) < 20
    boxes = [label.get_window_extent() for label in axes.get_xticklabels()]
    assert all(before.x1 < after.x0 for before, after in pairwise(boxes))


def test_a_figure_is_as_large_as_its_labels_need_and_no_larger():
    assert size_of_heatmap(30, 60, tokens=True) == pytest.approx((12.4, 7.0))
    assert size_of_heatmap(1, 1) == (6.0, 3.0)
    assert size_of_heatmap(1000, 1000) == (40.0, 40.0)


def test_it_is_drawn_where_the_caller_says():
    """And pyplot keeps no figure of its own."""
    figure = Figure()
    left, right = figure.subplots(1, 2)
    assert heatmap(np.ones((1, 1)), [0], [0], ax=left) is left
    assert layer_curve(np.ones(2), [0, 1], ax=right) is right
    assert plt.get_fignums() == []
    heatmap(np.ones((1, 1)), [0], [0])
    assert len(plt.get_fignums()) == 1
    with pytest.raises(KindError, match=r"`ax` must be a matplotlib Axes. Got Figure. Make one with"):
        heatmap(np.ones((1, 1)), [0], [0], ax=figure)


def test_a_curve_has_its_values_to_scale():
    axes = layer_curve(np.array([1.0, 2.0, 5.0]), [0, 1, 9], baseline=1.5, value_label="nats")
    line, base = axes.lines
    assert line.get_xydata().tolist() == [[0, 1], [1, 2], [9, 5]]
    assert base.get_ydata() == [1.5, 1.5]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("layer", "nats")
    assert texts(axes.get_legend().get_texts()) == ["unpatched"]


def test_curves_have_names_colours_and_bands_of_their_own():
    """Where there are several."""
    values = np.array([[1.0, 2.0], [3.0, 4.0]])
    axes = layer_curve(values, [0, 1], low=values - 1, high=values + 1, baseline=[0, 1], labels=["a", "$b$ $c$"])
    lines = [line for line in axes.lines if line.get_linestyle() == "-"]
    assert [line.get_label() for line in lines] == ["a", "$b$ $c$"]
    assert lines[0].get_color() != lines[1].get_color()
    bands = [band.get_paths()[0].get_extents() for band in axes.collections]
    assert [(band.y0, band.y1) for band in bands] == [(0, 3), (2, 5)]
    assert [line.get_color() for line in axes.lines if line.get_linestyle() == "--"] == [x.get_color() for x in lines]
    assert texts(axes.get_legend().get_texts()) == ["a", "$b$ $c$", "unpatched", "interval"]
    axes.figure.canvas.draw()


def test_places_without_order_are_not_joined():
    values = np.array([1.0, 2.0])
    axes = layer_curve(values, ["z", "mlp_out"], low=values, high=values, connected=False, axis_label="site")
    assert axes.lines[0].get_linestyle() == "None"
    assert texts(axes.get_xticklabels()) == ["z", "mlp_out"]


def test_a_curve_over_positions_has_tokens():
    axes = layer_curve(np.ones(2), [7, 9], tokens=[" Mary", "\n"], axis_label="position")
    assert texts(axes.get_xticklabels()) == ["␣Mary (7)", r"\n (9)"]
    assert axes.get_xticks().tolist() == [7, 9]


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (
            lambda: heatmap(np.ones((1, 2)), [0], [0]),
            r"`values` must have one row .* \(1, 1\). Got \(1, 2\). Give labels",
        ),
        (lambda: heatmap(np.ones((0, 1)), [], [0]), r"Got \(0, 1\)"),
        (
            lambda: heatmap(np.ones((1, 1)), [0], [0], tokens=[]),
            r"`tokens` must hold one token per column, 1. Got 0. Give all",
        ),
        (
            lambda: layer_curve(np.ones(3), [0]),
            r"`values` must have one number per layer, .* Got \(1, 3\). Give as many",
        ),
        (lambda: layer_curve(np.ones(0), []), r"Got \(1, 0\)"),
        (lambda: layer_curve(np.ones(1), [0], low=np.ones(1)), r"`low` and `high` must both .* Give both or neither."),
        (lambda: layer_curve(np.ones(1), [0], labels=["a", "b"]), r"`labels` must have 1 entries. Got 2. Give all or"),
        (lambda: layer_curve(np.ones(1), [0], tokens=[]), r"`tokens` must have 1 entries. Got 0."),
        (lambda: layer_curve(np.ones(1), [0], baseline=[1, 2]), r"`baseline` must be one number, or .* Got \(2,\)."),
    ],
)
def test_numbers_that_do_not_fit_are_refused(draw, message):
    with pytest.raises(ShapeError, match=message):
        draw()


def test_without_matplotlib_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    message = r'`plot` needs matplotlib. Got: .* Install the extra: pip install "mlx-patch\[plot\]".'
    with pytest.raises(MissingExtraError, match=message):
        heatmap(np.ones((1, 1)), [0], [0])
