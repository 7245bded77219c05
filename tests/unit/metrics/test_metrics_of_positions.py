"""Metrics that read several positions: what they are given, and what sweeps pay for them."""

from dataclasses import dataclass, replace

import mlx.core as mx
import numpy as np
import pytest

import mlx_patch as mp
from mlx_patch.errors import KindError, SelectionError
from mlx_patch.metrics import LogProb, MultiPositionMetric, SequenceLogProb

PROMPT = mx.array([[7, 3, 9, 4, 11, 5, 2, 8, 1, 6, 10, 12, 13, 15, 14, 16]])
LONG = mx.array([[(7 * n) % 90 + 1 for n in range(300)]])
PLACES = {"last": (-3, -2, -1), "apart": (-1, 2, 9), "early": (0, 1), "one": (5,)}


@dataclass(frozen=True)
class At(MultiPositionMetric):
    """The sum of a token's logits at some positions, each weighted by its place among them."""

    token: int
    where: tuple[int, ...]

    def positions(self, length):
        return self.where

    def measure_rows(self, rows):
        assert rows.dtype == mx.float32
        return sum((n + 1) * rows[:, n, self.token] for n in range(len(self.where)))


def as_function(metric):
    """The same metric as a function of all logits, for which a sweep pays every position."""

    def function(logits):
        return sum((n + 1) * logits[:, pos, metric.token].astype(mx.float32) for n, pos in enumerate(metric.where))

    return function


@pytest.mark.parametrize("name", ["llama", "gpt2", "mamba", "qwen3_next"])
@pytest.mark.parametrize("where", ["last", "apart"])
def test_a_sweep_gives_what_a_function_of_all_logits_gives(tiny, name, where):
    model, metric = tiny(name), At(3, PLACES[where])
    chosen = {"at": "resid_post", "over": ("layer", "pos"), "positions": [1, 5, 11, -1], "layers": [0, -1]}
    wanted = mp.sweep(model, PROMPT, mp.Scale(3.0), metric=as_function(metric), executor="reference", **chosen)
    for executor in ("auto", "rows", "reference"):
        got = mp.sweep(model, PROMPT, mp.Scale(3.0), metric=metric, executor=executor, **chosen)
        np.testing.assert_allclose(got.values, wanted.values, atol=1e-4)
        np.testing.assert_allclose(got.baseline, wanted.baseline, atol=1e-4)
        assert got.provenance["token_layers"] == got.plan.token_layers


@pytest.mark.parametrize(("where", "site"), [("apart", "resid_post"), ("early", "z"), ("last", "final_norm")])
def test_prompts_that_run_in_pieces_give_the_same(tiny, where, site):
    model, metric = tiny(), At(3, PLACES[where])
    over = "pos" if site == "final_norm" else ("layer", "pos")
    chosen = {"at": site, "over": over, "positions": [1, -1]}
    wanted = mp.sweep(model, LONG, mp.Scale(3.0), metric=as_function(metric), executor="reference", **chosen)
    got = mp.sweep(model, LONG, mp.Scale(3.0), metric=metric, **chosen)
    np.testing.assert_allclose(got.values, wanted.values, atol=1e-4)


def test_lists_batches_and_other_metrics_beside_it(tiny):
    model, metric = tiny(), At(3, (-1, 0))
    prompts = [[1, 2, 3, 4], [5, 6, 7], [8, 9, 10, 11]]
    metrics = [metric, LogProb(4, pos=1), SequenceLogProb([3, 5])]
    got = mp.sweep(model, prompts, mp.Scale(3.0), "mlp_out", ("layer", "pos"), metrics, positions=[-1])
    wanted = mp.sweep(
        model, prompts, mp.Scale(3.0), "mlp_out", ("layer", "pos"), metrics, positions=[-1], executor="reference"
    )
    np.testing.assert_allclose(got.values, wanted.values, atol=1e-4)
    np.testing.assert_allclose(
        mp.measure(model, prompts, metric, [mp.Scale(3.0).at("mlp_out", layer=1, pos=-1)]),
        got.values[1, 0, 0],
        atol=1e-4,
    )


def test_a_sweep_pays_for_what_lies_behind_the_edits(tiny):
    """And a plan says the least."""
    model, cells = tiny(), {"at": "mlp_out", "over": ("layer", "pos"), "positions": [12, -1]}
    layers, length = model.n_layers, PROMPT.shape[1]
    least = layers * length + sum((length - pos) * (layers - layer) for layer in range(layers) for pos in (12, 15))
    for where in ((-2, -1), (0, -1)):
        plan = mp.plan(model, PROMPT, mp.Scale(3.0), metric=At(3, where), **cells)
        assert plan.minimum == plan.token_layers == least
    plan = mp.plan(model, PROMPT, mp.Scale(3.0), metric=as_function(At(3, (-1,))), **cells)
    assert plan.minimum == least < plan.token_layers


def test_the_minimum_ends_where_a_metric_last_reads(tiny):
    model, layers = tiny(), tiny().n_layers
    plan = mp.plan(model, PROMPT, mp.Scale(3.0), "mlp_out", ("layer", "pos"), At(3, (-4,)), positions=[10])
    assert PROMPT.shape[1] == 16
    assert plan.minimum == 13 * layers + 3 * sum(range(1, layers + 1))
    assert plan.token_layers == 16 * layers + 6 * sum(range(1, layers + 1))


def test_called_itself_it_reads_its_positions(tiny):
    logits = tiny().run(PROMPT)
    metric = At(3, (-1, 2))
    assert float(metric(logits)) == pytest.approx(float(logits[0, -1, 3] + 2 * logits[0, 2, 3]), abs=1e-5)
    assert metric(logits.astype(mx.bfloat16)).dtype == mx.float32
    assert metric.name == "at(3, [-1, 2])"
    assert replace(metric, name="mine").name == "mine"


@pytest.mark.parametrize(
    ("where", "error", "message"),
    [
        ((16,), SelectionError, r"`positions` of at\(3, \[16\]\) must lie in -16 to 15, .* Got 16"),
        ((), SelectionError, r"`positions` of .* must name at least one position, and each once\. Got \(\)"),
        ((1, -15), SelectionError, r"must name at least one position, and each once\. Got \(1, -15\)"),
        ((1.5,), KindError, "must be the number of one position"),
    ],
)
def test_positions_that_are_none_are_refused_first(tiny, where, error, message):
    """Before anything runs."""
    with pytest.raises(error, match=message):
        mp.plan(tiny(), PROMPT, mp.Scale(3.0), "mlp_out", metric=At(3, where))


def test_it_has_no_one_position():
    with pytest.raises(KindError, match=r"`pos` must be left out: the metric reads `positions`\. Got 3"):
        At(3, (1,), pos=3)
