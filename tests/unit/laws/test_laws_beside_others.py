"""The laws of a model that others use meanwhile: what theirs does to it is not held against it, nor altered."""

import threading
import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest

from mlx_patch import Ablate, Scale
from mlx_patch.errors import OutlierPositionWarning
from mlx_patch.laws import check_laws, restored, watching

LAWS = (watching, restored)
EDIT = Scale(2.0).at("mlp_out", layer=0)
PATIENCE = 60


def test_laws_hold_while_another_thread_is_in_a_block(tiny, tokens):
    """It opens before the laws are checked and closes in the middle."""
    model = tiny()
    is_open, may_close, is_closed = (threading.Event() for _ in range(3))

    def other():
        with model.editing(EDIT):
            model.model(tokens)
            is_open.set()
            may_close.wait(PATIENCE)
        is_closed.set()

    def until_closed(bench):
        yield from watching(bench)
        may_close.set()
        assert is_closed.wait(PATIENCE)
        yield from watching(bench)

    with ThreadPoolExecutor(1) as pool:
        blocked = pool.submit(other)
        assert is_open.wait(PATIENCE)
        assert check_laws(model, tokens, LAWS).ok
        assert check_laws(model, tokens, (until_closed,)).ok
        blocked.result(PATIENCE)


def test_laws_hold_while_a_block_opens_in_another_thread(tiny, tokens):
    model = tiny()
    may_open, is_open, may_close = (threading.Event() for _ in range(3))

    def other():
        may_open.wait(PATIENCE)
        with model.editing(EDIT):
            model.model(tokens)
            is_open.set()
            may_close.wait(PATIENCE)

    def once_open(bench):
        may_open.set()
        assert is_open.wait(PATIENCE)
        for law in LAWS:
            yield from law(bench)

    with ThreadPoolExecutor(1) as pool:
        blocked = pool.submit(other)
        assert check_laws(model, tokens, (once_open,)).ok
        may_close.set()
        blocked.result(PATIENCE)


def test_laws_hold_while_a_generator_is_suspended_in_a_block(tiny, tokens):
    model = tiny()

    def suspended():
        with model.editing(EDIT):
            model.model(tokens)
            yield

    steps = suspended()
    next(steps)
    assert check_laws(model, tokens, LAWS).ok
    steps.close()


def test_the_filters_of_warnings_are_not_touched(tiny, tokens):
    """They are the whole process's: what one thread sets and puts back, another would lose or keep."""
    seen = []

    def looking(bench):
        seen.append((warnings.filters, [*warnings.filters]))
        yield from watching(bench)

    before = (warnings.filters, [*warnings.filters])
    check_laws(tiny(), tokens, (looking,))
    assert seen[0][0] is before[0]
    assert seen[0][1] == before[1]


def test_a_mean_of_an_outlier_warns_again_after_the_laws(tiny, tokens):
    model = tiny()
    edit = [Scale(1e4).at("embed", pos=0), Ablate("mean").at("embed")]

    def poor(bench):
        model.run(tokens, edit)
        yield from ()

    check_laws(model, tokens, (poor,))
    with pytest.warns(OutlierPositionWarning):
        model.run(tokens, edit)
