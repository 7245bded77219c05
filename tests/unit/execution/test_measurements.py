"""A way to measure is a value: one that is written here has its metrics, and nothing else is changed for it."""

import gc
from dataclasses import dataclass
from typing import final

import mlx.core as mx
import numpy as np
import pytest

import mlx_patch as mp
from mlx_patch.errors import KindError
from mlx_patch.execution.measurements import Measurement, measurement_of, measurements
from mlx_patch.execution.passes import UnpatchedRun
from mlx_patch.metrics import Metric
from mlx_patch.model import run
from mlx_patch.sites import Site


@dataclass(frozen=True, repr=False)
class StreamNorm(Metric):
    """The norm of the stream behind a layer, at the last position: no function of logits."""

    layer: int

    def measure(self, logits):
        raise KindError(f"`metric` must be measured of activations. Got logits for {self.name}.")


def norms(model, tokens, metrics, edits=()):
    """Each metric on one run. Shape `(metric, batch)`."""
    sites = [Site("resid_post", metric.layer) for metric in metrics]
    streams = run(model.layout, tokens, edits, sites=sites).activations
    return mx.stack([mx.linalg.norm(streams[site][:, -1], axis=-1) for site in sites])


@pytest.fixture
def _toy():
    """A third measurement, of activations."""

    @final
    class OfActivations(Measurement):
        order = 2
        provenance = {"measured": "activations"}  # noqa: RUF012

        def serves(self, metric):
            return isinstance(metric, StreamNorm)

        def run_unpatched(self, model, task):
            cost = task.tokens.size * model.n_layers
            return UnpatchedRun(norms(model, task.tokens, task.readout.metrics), 0, token_layers=cost)

        def run_pass(self, model, task, executor, unpatched):
            runs = [norms(model, task.tokens, task.readout.metrics, cell.edits) for cell in task.cells]
            return mx.stack(runs), lambda: task.tokens.size * model.n_layers * len(runs)

    yield
    del OfActivations
    gc.collect()  # Python drops a class with the circles that it is in


@pytest.mark.usefixtures("_toy")
def test_a_third_measurement_is_one_class(tiny, tokens):
    model, edit = tiny("llama"), mp.Scale(0.5).at("resid_post", layer=0)
    metrics = [mp.metrics.LogProb(3), StreamNorm(2), StreamNorm(0)]
    result = mp.sweep(model, tokens, over=[edit], metric=metrics)
    assert result.metrics == tuple(metric.name for metric in metrics)
    expected = np.array(norms(model, tokens, metrics[1:], [edit]))
    assert np.allclose(result.values[0, 1:], expected, rtol=1e-5)
    assert np.allclose(result.baseline[1:], np.array(norms(model, tokens, metrics[1:])), rtol=1e-5)
    assert np.array_equal(mp.measure(model, tokens, StreamNorm(2), [edit]), expected[0])
    assert result.provenance["measured"] == "activations"
    assert np.allclose(result.values[0, 0], mp.measure(model, tokens, metrics[0], [edit]), rtol=1e-5)


@pytest.mark.usefixtures("_toy")
def test_what_several_sweeps_cannot_share_is_refused(tiny, tokens, tmp_path):
    ask = {"over": [mp.Scale(0.5).at("z")], "metric": [mp.metrics.LogProb(3), StreamNorm(1)]}
    with pytest.raises(KindError, match=r"`checkpoint` must be left out if StreamNorm is swept with metrics"):
        mp.sweep(tiny("llama"), tokens, checkpoint=tmp_path / "a.npz", **ask)


def test_measurements_are_those_that_have_a_file():
    gc.collect()
    assert [type(kind).__name__ for kind in measurements()] == ["OfLogits", "OfGeneratedText"]
    assert type(measurement_of(mp.metrics.GenerateMatches("a"))).__name__ == "OfGeneratedText"
    assert type(measurement_of(mp.metrics.SequenceLogProb([3, 4]))).__name__ == "OfLogits"
