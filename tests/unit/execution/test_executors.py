"""An executor is a value: one that is written here is chosen by its name, and nothing else is changed for it."""

import gc
from typing import final

import mlx.core as mx
import numpy as np
import pytest

import mlx_patch as mp
from mlx_patch.errors import UnknownNameError
from mlx_patch.execution.executors import Executor, executors
from mlx_patch.model import run


@pytest.fixture
def toy():
    """A fourth executor, which runs the rows of each cell one by one."""

    @final
    class OneRow(Executor):
        name = "one_row"
        description = "one row of one cell a pass"
        one_cell_a_pass = True
        runs = 0

        def why_not(self, layout, cells):
            return ""

        def entry(self, cell):
            return 0

        def run(self, task, unpatched):
            values = []
            for row in range(task.tokens.shape[0]):
                tokens = task.tokens[row : row + 1]
                logits = run(task.layout, tokens, task.cells[0].edits, logits_at=task.readout.at).logits
                values.append(task.readout.measure(logits, tokens.shape[1]))
                type(self).runs += 1
            return mx.concatenate(values, axis=-1)[None], lambda: task.tokens.size * len(task.layout.blocks)

    yield OneRow
    del OneRow
    gc.collect()  # Python drops a class with the circles that it is in, and then it is no executor any longer


def test_a_fourth_executor_is_one_class(tiny, tokens, toy):
    model, batch = tiny("llama"), mx.concatenate([tokens, tokens[:, ::-1]])
    ask = {"intervention": mp.Scale(0.5), "at": "z", "over": ("layer", "pos"), "metric": mp.metrics.LogProb(3)}
    cheapest, own = (mp.sweep(model, batch, executor=name, **ask) for name in ("auto", "one_row"))
    assert np.abs(own.values - cheapest.values).max() < 1e-5
    assert toy.runs == 2 * own.values[..., 0].size
    assert own.plan.executor == own.provenance["executor"] == "one_row"
    assert "executor: one_row (one row of one cell a pass)" in str(own.plan)
    assert own.plan.reference == own.plan.token_layers == own.provenance["token_layers"]


def test_a_fourth_executor_is_not_chosen_unless_it_is_named(toy):
    assert [*executors()] == ["grow", "rows", "reference", "one_row"]
    assert executors()["one_row"].preference is None


def test_executors_are_those_that_have_a_file(tiny, tokens):
    gc.collect()
    assert [*executors()] == ["grow", "rows", "reference"]
    with pytest.raises(UnknownNameError, match=r"`executor` must be the name of an executor\. Got 'one_row'"):
        mp.plan(tiny("llama"), tokens, mp.Scale(0.5), "z", metric=mp.metrics.LogProb(3), executor="one_row")
