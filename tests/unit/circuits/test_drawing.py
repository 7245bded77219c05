"""A circuit's picture: every node and edge once, layers upwards, strength as width and sign as colour."""

import xml.etree.ElementTree as ElementTree
from html import escape

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.patches import FancyArrowPatch

from mlx_patch.circuits import BlockParts, Circuit, EdgeScores, Graph
from mlx_patch.errors import ShapeError, ValueRefusedError

RED, BLUE = "#b2182b", "#2166ac"
NAMES = ["input->a0.h1<q>", "input->a1.kv0<k>", "a0.h1->m1", "a1.h0->logits", "m1->logits"]
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(autouse=True)
def _plain_figures():
    mpl.use("Agg")
    yield
    plt.close("all")


@pytest.fixture
def edges():
    graph = Graph(tuple(BlockParts(layer, True, True, 2, 1, False) for layer in range(2)), 8)
    scores = np.full(graph.has_edge.shape, np.nan, np.float32)
    scores[graph.has_edge] = np.linspace(-2, 1, graph.n_edges)
    return EdgeScores(graph, scores[:, :, None, None], np.zeros(1, np.float32), {})


@pytest.fixture
def circuit(edges):
    return Circuit.of_edges(edges.graph, NAMES)


def score_of(edges, name):
    return edges.mean()[Circuit.of_edges(edges.graph, [name]).has_edge].item()


def test_each_node_has_a_box_and_each_edge_an_arrow(edges, circuit):
    axes = edges.plot(circuit)
    heights = {text.get_text(): text.get_position()[1] for text in axes.texts}
    assert set(heights) == {"input", "a0.h1", "a1.kv0", "a1.h0", "m1", "logits"}
    order = sorted(heights, key=heights.get)
    assert order == ["input", "a0.h1", "a1.kv0", "a1.h0", "m1", "logits"]
    arrows = [patch for patch in axes.patches if isinstance(patch, FancyArrowPatch)]
    assert len(arrows) == 5
    widths = [arrow.get_linewidth() for arrow in arrows]
    assert widths == sorted(widths)  # the strongest is drawn last
    sizes = sorted(abs(score_of(edges, name)) for name in NAMES)
    np.testing.assert_allclose(widths, [0.5 + 4 * size / sizes[-1] for size in sizes], rtol=1e-5)
    styles = sorted(arrow.get_linestyle() for arrow in arrows)
    assert styles == ["dashed", "solid", "solid", "solid", "solid"]


def test_the_colour_is_the_sign(edges, circuit):
    axes = edges.plot(circuit)
    arrows = [patch for patch in axes.patches if isinstance(patch, FancyArrowPatch)]
    by_size = sorted(NAMES, key=lambda name: abs(score_of(edges, name)))
    for arrow, name in zip(arrows, by_size, strict=True):
        expected = RED if score_of(edges, name) > 0 else BLUE
        assert mpl.colors.to_hex(arrow.get_edgecolor()) == expected
    assert {score_of(edges, name) > 0 for name in NAMES} == {True, False}


def test_a_kv_head_is_joined_to_its_query_heads(edges, circuit):
    axes = edges.plot(circuit)
    assert len(axes.lines) == 1
    places = {text.get_text(): text.get_position() for text in axes.texts}
    np.testing.assert_allclose(axes.lines[0].get_xydata(), [places["a1.kv0"], places["a1.h0"]])


def test_a_file_is_whole_and_has_every_score(edges, circuit, tmp_path):
    edges.to_html(tmp_path / "circuit.html", circuit)
    text = (tmp_path / "circuit.html").read_text(encoding="utf-8")
    assert "http" not in text.replace("http://www.w3.org/2000/svg", "")
    root = ElementTree.fromstring(text[text.index("<svg") : text.index("</svg>") + 6])
    titles = {title.text for title in root.iter(f"{SVG}title")}
    assert titles == {f"{name}: {score_of(edges, name):.4g}" for name in NAMES}
    rows = [f'<th scope="row">{escape(name)}</th><td>{score_of(edges, name):.4g}</td>' for name in NAMES]
    assert all(row in text for row in rows)  # the text alternative
    assert text == edges.to_html(circuit=circuit)
    labels = {label.text for label in root.iter(f"{SVG}text")}
    assert labels >= {"input", "a0.h1", "a1.kv0", "a1.h0", "m1", "logits", "layer 0", "layer 1"}


def test_a_notebook_shows_the_strongest_edges(edges):
    assert edges._repr_html_().count("<title>") == edges.graph.n_edges  # fewer than 50


def test_what_cannot_be_drawn_is_refused(edges, circuit, tmp_path):
    with pytest.raises(ValueRefusedError, match="`nodes` must not be empty"):
        edges.plot(edges.top(0))
    other = Graph((BlockParts(0, True, True, 2, 1, False),), 8)
    with pytest.raises(ShapeError, match="`circuit` must be of the same graph"):
        edges.to_html(tmp_path / "circuit.html", Circuit(other, other.has_edge))
