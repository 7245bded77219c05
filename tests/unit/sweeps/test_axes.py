"""An axis is a value: one that is written here can be swept, and nothing else is changed for it."""

import gc
import inspect
from typing import final

import numpy as np
import pytest

import mlx_patch as mp
from mlx_patch.errors import SelectionError, UnknownNameError, ValueRefusedError
from mlx_patch.results import known_axes
from mlx_patch.sweeps import CrossChoices, SweepAxis
from mlx_patch.sweeps._variation import SweepChoices
from mlx_patch.sweeps.axes import sweep_axes

METRIC = mp.metrics.LogProb(3)
LAYERS, SEEDS = (0, 2), (0, 1, 7)


@pytest.fixture
def toy():
    """A seventh axis: the seeds of noise."""

    @final
    class DrawAxis(SweepAxis):
        name = "draw"
        label = "seed of the draw"

        def changed(self, intervention, choice):
            return mp.Ablate("noise", seed=choice, scale=intervention.scale)

    yield DrawAxis
    del DrawAxis
    gc.collect()  # Python drops a class with the circles that it is in, and then it is no axis any longer


@pytest.fixture
def ask():
    return {"intervention": mp.Ablate("noise"), "at": "z", "layers": LAYERS, "metric": METRIC}


def by_hand(model, tokens, seeds=SEEDS):
    """One run a cell. Shape `(layer, draw, example)`."""
    edits = [[mp.Ablate("noise", seed=seed).at("z", layer=layer) for seed in seeds] for layer in LAYERS]
    return np.array([[mp.measure(model, tokens, METRIC, [edit]) for edit in row] for row in edits])


def test_a_seventh_axis_is_one_class(tiny, tokens, toy, ask):
    model = tiny("llama")
    result = mp.sweep(model, tokens, over=("layer", toy(SEEDS)), **ask)
    assert result.axes == ("layer", "draw", "example")
    assert result.coords["draw"] == SEEDS
    assert np.abs(result.values - by_hand(model, tokens)).max() < 1e-5
    assert len(np.unique(result.values[0, :, 0])) > 1
    assert mp.plan(model, tokens, over=("layer", toy(SEEDS)), **ask).n_cells == 6


def test_a_result_knows_a_seventh_axis(tiny, tokens, toy, ask, tmp_path):
    result = mp.sweep(tiny("llama"), tokens, over=(toy(SEEDS), "layer"), **ask)
    assert np.array_equal(result.sel(draw=7).values, result.values[2])
    assert "draw 3 (0, 1, 7)" in str(result)
    result.save(tmp_path / "result.npz")
    assert mp.SweepResult.load(tmp_path / "result.npz").coords["draw"] == SEEDS
    assert result.sel(layer=0).plot().get_xlabel() == "seed of the draw"


def test_one_axis_can_be_alone(tiny, tokens, toy, ask):
    model = tiny("llama")
    result = mp.sweep(model, tokens, over=toy(4), **ask)
    both = mp.measure(model, tokens, METRIC, [mp.Ablate("noise", seed=4).at("z", layer=LAYERS)])
    assert result.axes == ("draw", "example")
    assert np.abs(result.values[0] - both).max() < 1e-5


def test_the_axes_of_sweeps_can_be_instances_as_well(tiny, tokens):
    layer, pos = sweep_axes()["layer"], sweep_axes()["pos"]
    ask = {"intervention": mp.Scale(0.5), "at": "z", "metric": METRIC}
    named = mp.sweep(tiny("llama"), tokens, over=("layer", "pos"), layers=[0, -1], positions=slice(2, 4), **ask)
    result = mp.sweep(tiny("llama"), tokens, over=(layer([0, -1]), pos(slice(2, 4))), **ask)
    assert result.coords == named.coords
    assert np.array_equal(result.values, named.values)


def test_what_is_no_choice_along_a_seventh_axis_is_refused(tiny, tokens, toy, ask):
    def refused(error, message, over, **more):
        with pytest.raises(error, match=message):
            mp.sweep(tiny("llama"), tokens, over=over, **ask | more)

    refused(ValueRefusedError, r"`draw` must be given if `over` has 'draw'\. Got None\. Put an instance", "draw")
    refused(SelectionError, r"`draw` must choose something\. Got \[\]", [toy([])])
    refused(SelectionError, r"`draw` must not name anything twice\. Got \[1, 1\]", [toy([1, 1])])
    refused(ValueRefusedError, r"`over` must name at least one axis, and each once", [toy([1]), toy([2])])
    layers = sweep_axes()["layer"]([1])
    refused(ValueRefusedError, r"`layers` must be left out where `over` has the choices\. Got both", layers)
    sites = sweep_axes()["site"](["z"])
    refused(
        ValueRefusedError, r"`at` must have the sites\. Got SiteAxis\(choices=\['z'\]\) in `over`", [sites], layers=None
    )


def test_axes_are_those_that_have_a_file(tiny, tokens, ask):
    gc.collect()
    of_sweeps = ["site", "layer", "pos", "head", "neuron", "alpha", "seed", "via", "feature"]
    of_recipes = ["source_layer", "keys", "subspace"]
    assert [*sweep_axes()] == [*of_sweeps, *of_recipes]
    assert [*known_axes()] == [*of_sweeps, "cell", *of_recipes]
    with pytest.raises(UnknownNameError, match=r"`over` must hold axes of a sweep\. Got 'draw'"):
        mp.sweep(tiny("llama"), tokens, over="draw", **ask)


@pytest.mark.parametrize("verb", [mp.sweep, mp.plan])
def test_a_keyword_of_an_axis_is_one_of_every_verb(verb):
    keywords = {kind.keyword for kind in sweep_axes().values() if kind.keyword}
    assert keywords <= set(inspect.signature(verb).parameters)
    assert keywords - {"at"} <= set(CrossChoices.__annotations__)
    assert keywords - {"at", "positions"} <= set(SweepChoices.__annotations__)
