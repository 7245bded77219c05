"""Which plot a result is, and what its numbers and labels say."""

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.figure import Figure

from mlx_patch.errors import ValueRefusedError
from mlx_patch.sweeps import PairResult, SweepResult


@pytest.fixture(autouse=True)
def _plain_figures():
    mpl.use("Agg")
    yield
    plt.close("all")


def made(shape, axes, baseline=-5.0, provenance=None, **coords):
    """Values 0, 1, 2, ... in order, two examples whose mean they are."""
    values = np.arange(np.prod(shape, dtype=int), dtype=np.float32).reshape(shape)
    values = np.stack([values - 1, values + 1], axis=-1)
    places = {axis: tuple(range(size)) for axis, size in zip(axes, shape, strict=True)} | {"example": (0, 1)}
    whole = np.full(values.shape[-2:] if "metric" in axes else 2, baseline, dtype=np.float32)
    return SweepResult(values, (*axes, "example"), places | coords, whole, provenance or {"metrics": ["kl"]})


def texts(labels):
    return [label.get_text() for label in labels]


def colours(axes):
    return axes.images[0].get_array().tolist()


def test_one_axis_is_a_curve_with_an_interval_and_a_baseline():
    """A curve of values."""
    axes = made((3,), ("layer",)).plot()
    curve, base = axes.lines
    assert curve.get_xydata().tolist() == [[0, 0], [1, 1], [2, 2]]
    assert base.get_ydata() == [-5, -5]
    assert len(axes.collections) == 1
    assert texts(axes.get_legend().get_texts()) == ["unpatched", "95% interval of the mean"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("layer", "kl")


def test_one_example_has_no_interval():
    assert len(made((3,), ("layer",)).sel(example=[0]).plot().collections) == 0


def test_windows_of_layers_are_named():
    axes = made((2,), ("layer",), layer=((0, 1), (1, 2))).plot()
    assert texts(axes.get_xticklabels()) == ["0-1", "1-2"]
    assert axes.lines[0].get_linestyle() == "-"


def test_sites_are_points():
    axes = made((2,), ("site",), site=("z", "mlp_out")).plot()
    assert axes.lines[0].get_linestyle() == "None"
    assert texts(axes.get_xticklabels()) == ["z", "mlp_out"]


def test_two_axes_are_a_heatmap_of_changes():
    axes = made((2, 3), ("layer", "pos"), token=("When", " Mary", "\n")).plot()
    assert colours(axes) == [[5, 6, 7], [8, 9, 10]]
    assert axes.images[0].get_clim() == (-10, 10)
    assert axes.images[0].colorbar.ax.get_ylabel() == "change of kl"
    assert texts(axes.get_xticklabels()) == ["When (0)", "␣Mary (1)", r"\n (2)"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("position", "layer")
    assert axes.get_ylim() == (-0.5, 1.5)


@pytest.mark.parametrize(
    ("over", "rows"),
    [(("pos", "layer"), "layer"), (("pos", "head"), "head"), (("head", "pos"), "head"), (("head", "layer"), "layer")],
)
def test_layers_are_rows_and_positions_columns(over, rows):
    axes = made((2, 3), over).plot()
    [other] = set(over) - {rows}
    assert axes.get_ylabel() == rows
    assert axes.get_xlabel() == {"pos": "position"}.get(other, other)
    expected = np.arange(6).reshape(2, 3) + 5
    assert colours(axes) == (expected if over[0] == rows else expected.T).tolist()


def test_rows_of_names_are_read_downwards():
    axes = made((2, 2), ("site", "alpha"), site=("z", "mlp_out"), alpha=(0.5, 1.0)).plot()
    assert axes.get_ylim() == (1.5, -0.5)
    assert texts(axes.get_xticklabels()) == ["0.5", "1"]


def test_fractions_are_shown_as_they_are():
    """With the unpatched run in the middle."""
    noising = made((2, 2), ("layer", "pos"), baseline=4.0).normalised(clean=4, corrupted=0)
    axes = noising.plot()
    assert colours(axes) == [[0, 0.25], [0.5, 0.75]]
    assert axes.images[0].get_clim() == (0, 2)
    assert "fraction (0 corrupted" in axes.images[0].colorbar.ax.get_ylabel()


def test_what_was_chosen_is_the_title():
    result = made((2, 3), ("layer", "pos"), token=("When", " Mary", "\n"))
    assert result.sel(pos=1).plot().get_title() == "pos 1 (' Mary')"


def test_what_was_patched_where_is_the_title():
    provenance = {
        "metrics": ["logit_diff([' Mary', ' John', ' Kate'], [' Tom', ' Anna', ' Paul'])"],
        "intervention": "Replace(ActivationCache(z 0-29; positions 0-13 of 14; 1.9 MB))",
        "at": ["z"],
        "pos": [13],
        "via": "logits",
    }
    result = made((2, 3), ("layer", "head"), provenance=provenance)
    assert result.plot().get_title() == "Replace at z, pos 13, via logits"
    assert result.sel(layer=1).plot().get_title() == "Replace at z, pos 13, via logits, layer 1"
    assert result.sel(layer=1).plot().get_ylabel() == "logit_diff"
    assert repr(result).splitlines()[1].startswith("  logit_diff: 0 to 5, peak")
    by_site = made((2,), ("site",), site=("z", "mlp_out"), provenance=provenance | {"intervention": "Ablate('zero')"})
    assert by_site.plot().get_title() == "Ablate('zero'), pos 13, via logits"


def test_short_names_that_would_be_the_same_stay_long():
    names = ("prob([' Mary', ' John', ' Kate', ' Tom'])", "prob([' Anna', ' Paul', ' Rita', ' Jim'])")
    result = made((2, 2), ("layer", "metric"), metric=names, provenance={"metrics": list(names)})
    assert [line.strip().split(": ")[0] for line in repr(result).splitlines()[1:3]] == list(names)


def test_a_metric_is_chosen():
    result = made((2, 3, 2), ("layer", "pos", "metric"), metric=("prob", "kl"))
    axes = result.plot(metric="kl")
    assert colours(axes) == [[6, 8, 10], [12, 14, 16]]
    assert axes.images[0].colorbar.ax.get_ylabel() == "change of kl"
    with pytest.raises(ValueRefusedError, match=r"`metric` must name one of several .* Choose from: prob, kl."):
        result.plot()


def test_it_is_drawn_on_the_axes_that_are_given():
    panel = Figure().subplots()
    assert made((3,), ("layer",)).plot(ax=panel) is panel
    assert plt.get_fignums() == []


@pytest.mark.parametrize(
    ("over", "message"),
    [
        (
            ("layer", "pos", "head"),
            r"`plot` must have one or two axes to draw. Got 3: layer, pos, head. .* `result.sel\(head=0\).plot\(\)`.",
        ),
        ((), r"Got 0. Read `values`, or choose less with `sel`."),
    ],
)
def test_more_or_fewer_axes_are_refused_with_the_remedy(over, message):
    with pytest.raises(ValueRefusedError, match=message):
        made((2,) * len(over), over).plot()


def pair(shape, axes):
    denoising = made(shape, axes, 0.0).normalised(clean=10, corrupted=0)
    return PairResult(denoising, made(shape, axes, 20.0).normalised(clean=20, corrupted=0))


def test_a_pair_s_heatmaps_share_their_scale():
    panels = pair((2, 3), ("layer", "pos")).plot()
    assert [panel.images[0].get_clim() for panel in panels] == [(-1, 1), (0, 2)]
    assert [panel.get_title() for panel in panels] == [
        "denoising: clean put into corrupted",
        "noising: corrupted put into clean",
    ]


def test_a_pair_s_curves_share_their_height():
    first, second = pair((4,), ("layer",)).plot()
    assert first.get_ylim() == second.get_ylim()
    assert first.get_ylim()[1] > 1


def test_wide_panels_stand_one_above_the_other():
    wide, narrow = pair((2, 40), ("layer", "pos")).plot(), pair((2, 4), ("layer", "pos")).plot()
    assert wide[0].get_position().y0 > wide[1].get_position().y1
    assert narrow[0].get_position().x1 < narrow[1].get_position().x0
