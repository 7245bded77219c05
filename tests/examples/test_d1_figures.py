"""The figures of the D1 study: every curve is on them, and no word is struck through."""

import sys

import matplotlib as mpl
import numpy as np
import pytest

mpl.use("Agg")
import matplotlib.pyplot as plt


def curve(first, *values):
    return dict(enumerate(values, first))


@pytest.fixture(scope="session")
def pairs(record_of):
    """Lists of records, by what is hard about them."""
    ext = record_of(curve(0, 0, 0, 0, 1e-4, 0.12, 0.98), curve(0, 0.51, 0.14, 0.01, 0.01, 0, 0), instruct=0.98)
    none = {"instruct": 7e-6, "pair": "tiny_int", "display": "Tiny internaliser"}
    internal = record_of(curve(0, 0, 0, 0, 0, 0, 7e-6), curve(0, *[8e-6] * 5, 0), **none)
    name = {"pair": "smollm2", "display": "SmolLM2 135M, plain and with an adapter"}
    some = record_of(curve(10, *[3e-4] * 5), curve(10, 0.45, 0.36, 0.47, 0.38, 0.57), n_layers=30, **name)
    up_and_down = [0.95, 0.44, 0.85, 0.04, 0.8, *[0.0] * 25]
    deep = record_of(curve(0, *[0.0] * 24, *[0.2] * 3, 0.6, 0.94, 0.9), curve(0, *up_and_down), n_layers=30, **name)
    long = "a-very-long-name-of-a-folder-that-somebody-gave-a-base-model and another-one-of-the-same-kind-for-instruct"
    one_layer = {"pair": "custom", "display": long}
    return {
        "externaliser": [ext],
        "internaliser": [internal],
        "two pairs": [ext, internal],
        "some layers": [some],
        "one layer": [record_of({0: 8e-7}, {0: 0.51}, instruct=0.98, **one_layer)],
        "the last layer": [record_of({5: 0.98}, {5: 0.0}, instruct=0.98)],
        "many layers": [deep],
        "pairs of unequal depth": [ext, some, deep],
        "an overflow": [record_of(curve(0, 0, float("nan"), 0.9), curve(0, 0.9, 0.1, 0), n_layers=3)],
    }


NAMES = (
    "externaliser",
    "internaliser",
    "two pairs",
    "some layers",
    "one layer",
    "the last layer",
    "many layers",
    "pairs of unequal depth",
    "an overflow",
)


@pytest.fixture(scope="module", params=NAMES)
def drawn(request, d1, pairs):
    """A figure that is laid out, and the records that it is of."""
    figure = sys.modules["d1_figures"].draw(pairs[request.param])
    figure.canvas.draw()
    yield figure, pairs[request.param]
    plt.close(figure)


def panels_of(figure):
    return figure.axes


def curves(panel):
    """The lines that hold a point a layer: not those across, and no mark of one layer."""
    return [line for line in panel.get_lines() if line.get_label()[0] != "_"]


def texts(figure):
    """Every text that is seen, with its box in pixels."""
    found = [*figure.findobj(mpl.text.Text)]
    for panel in panels_of(figure):
        for axis, limits in ((panel.xaxis, panel.get_xlim()), (panel.yaxis, panel.get_ylim())):
            ticks = [tick for tick in axis.get_major_ticks() if not min(limits) <= tick.get_loc() <= max(limits)]
            unseen = {id(text) for tick in ticks for text in (tick.label1, tick.label2)}
            found = [text for text in found if id(text) not in unseen]
    renderer = figure.canvas.get_renderer()
    seen = [text for text in found if text.get_visible() and text.get_text().strip()]
    return [(text.get_text(), text.get_window_extent(renderer)) for text in seen]


def test_every_point_lies_within_its_panel(drawn):
    figure, _ = drawn
    for panel in panels_of(figure):
        (left, right), (bottom, top) = panel.get_xlim(), panel.get_ylim()
        for line in panel.get_lines():
            y = np.asarray(line.get_ydata(), dtype=float)
            y = y[np.isfinite(y)]
            assert ((bottom < y) & (y < top)).all()
        for line in curves(panel):
            x = np.asarray(line.get_xdata(), dtype=float)
            assert ((left < x) & (x < right)).all()


def test_every_curve_is_drawn_with_all_its_layers(drawn):
    figure, records = drawn
    first, second, third = panels_of(figure)
    lengths = [len(record["layers_tested"]) for record in records]
    for panel in (first, second):
        assert [len(line.get_xdata()) for line in curves(panel)] == lengths
    assert [len(line.get_xdata()) for line in curves(third)] == (lengths if len(records) > 1 else lengths * 3)
    assert all(line.get_marker() not in ("", "None", None) for panel in panels_of(figure) for line in curves(panel))


def test_no_part_of_the_axis_is_empty(drawn):
    figure, _ = drawn
    for panel in panels_of(figure):
        shown = np.concatenate([line.get_xdata() for line in curves(panel)])
        left, right = panel.get_xlim()
        span = shown.max() - shown.min()
        assert max(shown.min() - left, right - shown.max()) <= max(0.06 * span, 0.5)


def test_no_word_is_struck_through_or_cut(drawn):
    figure, _ = drawn
    width, height = figure.canvas.get_width_height()
    frames = [panel.get_window_extent() for panel in panels_of(figure)]
    for text, box in texts(figure):
        assert box.x0 >= 0
        assert box.y0 >= 0
        assert box.x1 <= width
        assert box.y1 <= height, text
        for frame in frames:
            within = frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1
            apart = box.x1 <= frame.x0 or frame.x1 <= box.x0 or box.y1 <= frame.y0 or frame.y1 <= box.y0
            assert within or apart, text


def test_no_two_words_overlap(drawn):
    figure, _ = drawn
    found = texts(figure)
    for number, (text, box) in enumerate(found):
        for other, beside in found[:number]:
            x = min(box.x1, beside.x1) - max(box.x0, beside.x0)
            y = min(box.y1, beside.y1) - max(box.y0, beside.y0)
            assert min(x, y) <= 1, (text, other)


def test_the_finding_of_each_pair_is_in_its_legend(drawn, d1):
    figure, records = drawn
    for panel, way in zip(panels_of(figure), ("instruct_to_base", "base_to_instruct"), strict=False):
        said = [" ".join(text.get_text().split()) for text in panel.get_legend().get_texts()]
        assert all(line.endswith(d1.finding_of(r, way).label) for line, r in zip(said, records, strict=True))


def test_the_star_is_where_half_of_the_gap_is_crossed(d1, pairs):
    """It marks the layer; hollow where that is the last."""
    figure = sys.modules["d1_figures"].draw(pairs["externaliser"])
    into_base, into_instruct, _ = figure.axes
    for panel, layer, filled in ((into_base, 5, False), (into_instruct, 1, True)):
        [star] = [line for line in panel.get_lines() if line.get_marker() == "*"]
        assert list(star.get_xdata()) == [layer]
        assert (star.get_markerfacecolor() != "white") == filled
    plt.close(figure)


def test_layers_are_numbered_whole(drawn):
    figure, records = drawn
    if len({record["n_layers"] for record in records}) > 1:
        return
    for panel in panels_of(figure):
        left, right = panel.get_xlim()
        ticks = [tick for tick in panel.get_xticks() if left <= tick <= right]
        assert ticks
        assert all(float(tick).is_integer() for tick in ticks)


def test_what_has_no_effect_does_not_look_like_one(d1, pairs):
    figure = sys.modules["d1_figures"].draw(pairs["internaliser"])
    for panel in figure.axes:
        bottom, top = panel.get_ylim()
        assert top - bottom >= 0.02
    plt.close(figure)
