"""Two threads on one model: what one does to its activations the other does not see."""

import threading
from concurrent.futures import ThreadPoolExecutor

import mlx.core as mx
import numpy as np
import pytest

from mlx_patch import Ablate, Apply, HookedModel, Scale
from mlx_patch.engine import _tap

PATIENCE = 30  # seconds, after which a barrier says that something hangs


def same(a, b):
    return a.dtype == b.dtype and mx.array_equal(a, b).item()


def classes(model):
    return [type(module) for module in model.model.modules()]


def both(first, second):
    """Run two functions in threads of their own; what they return."""
    with ThreadPoolExecutor(2) as pool:
        return [future.result(PATIENCE) for future in (pool.submit(first), pool.submit(second))]


@pytest.fixture
def meet():
    """Two threads meet here: each call returns when the other thread calls too."""
    barrier = threading.Barrier(2, timeout=PATIENCE)
    yield barrier.wait
    barrier.abort()


def plain_run(model, tokens):
    logits = model.model(tokens)
    mx.eval(logits)
    return logits


def test_a_plain_run_inside_another_threads_edited_run_is_plain(tiny, tokens, meet):
    model = tiny()
    before, plain = classes(model), plain_run(model, tokens)
    wanted = model.run(tokens, [Scale(2.0).at("resid_post", layer=1)])

    def pause(activation, site):
        meet()  # the other thread starts
        meet()  # and has finished
        return activation * 2.0

    def other():
        meet()
        logits = plain_run(model, tokens)
        meet()
        return logits

    edited, got = both(lambda: model.run(tokens, [Apply(pause).at("resid_post", layer=1)]), other)
    assert same(got, plain)
    assert same(edited, wanted)
    assert classes(model) == before


def test_two_edited_runs_that_interleave_keep_their_own_edits(tiny, tokens, meet):
    model = tiny()
    before = classes(model)

    def edited(factor, site):
        def fn(activation, site):
            meet()  # both are in the middle of a run
            return activation * factor

        return lambda: model.run_with_cache(tokens, edits=[Apply(fn).at(site, layer=1)])

    (a, held_a), (b, held_b) = both(edited(2.0, "z"), edited(0.5, "mlp_out"))
    for got, held, edit in ((a, held_a, Scale(2.0).at("z", layer=1)), (b, held_b, Scale(0.5).at("mlp_out", layer=1))):
        wanted, cache = model.run_with_cache(tokens, edits=[edit])
        assert same(got, wanted)
        assert same(held["resid_post", 2], cache["resid_post", 2])
    assert classes(model) == before


def test_a_run_stays_edited_when_another_thread_leaves(tiny, tokens, meet):
    """The one that leaves first must not take the class of the one that stays."""
    model = tiny()
    before = classes(model)
    edit = Ablate("zero").at("z")
    wanted = model.run(tokens, [edit])

    def stays():
        def pause(activation, site):
            meet()
            meet()
            return activation

        return model.run(tokens, [Apply(pause).at("embed"), edit])

    def leaves():
        meet()
        try:
            with model.editing(edit):
                raise KeyboardInterrupt
        except KeyboardInterrupt:
            meet()

    got, _ = both(stays, leaves)
    assert same(got, wanted)
    assert classes(model) == before


def test_a_thread_inside_editing_does_not_edit_another(tiny, tokens, meet):
    model = tiny()
    plain = plain_run(model, tokens)

    def edits():
        with model.editing(Ablate("zero").at("z")):
            meet()
            logits = plain_run(model, tokens)
            meet()
        return logits

    def does_not():
        meet()
        logits = plain_run(model, tokens)
        meet()
        return logits

    edited, got = both(edits, does_not)
    assert same(got, plain)
    assert not same(edited, plain)


def test_many_runs_at_once_give_what_they_give_alone(tiny, tokens):
    model = HookedModel(tiny().model)
    before = classes(model)
    edits = [
        Scale(0.1 * n).at(site, layer=n % 3) for n, site in enumerate(["z", "mlp_out", "resid_mid", "pattern"] * 3)
    ]
    alone = [model.run(tokens, [edit]) for edit in edits]
    with ThreadPoolExecutor(4) as pool:
        got = list(pool.map(lambda edit: model.run(tokens, [edit]), edits * 3, timeout=PATIENCE))
    assert all(same(a, b) for a, b in zip(got, alone * 3, strict=True))
    assert classes(model) == before


def test_a_lock_that_an_interrupt_left_closed_is_put_right(tiny, tokens):
    """A `with` statement that is interrupted as it ends does not release: the thread itself never notices."""
    model = tiny()
    plain = model.run(tokens)
    _tap._guard._lock.acquire()
    with ThreadPoolExecutor(1) as pool:
        found = pool.submit(lambda: np.array(model.run(tokens, [Scale(0.5).at("mlp_out", layer=0)]))).result(timeout=20)
    assert not np.array_equal(found, np.array(plain))
    assert mx.array_equal(model.run(tokens), plain).item()
