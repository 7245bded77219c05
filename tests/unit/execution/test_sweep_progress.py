"""How far a sweep is: told to a function, drawn as a bar, or not at all; and what becomes of it on an error."""

import importlib.util
import sys
from io import StringIO
from types import SimpleNamespace

import numpy as np
import pytest

from mlx_patch import Scale
from mlx_patch.errors import KindError, MissingExtraError
from mlx_patch.execution.progress import PassProgress, Progress
from mlx_patch.metrics import LogitDiff
from mlx_patch.sweeps import sweep


class Terminal(StringIO):
    """A place that text is written to, and that somebody reads."""

    def isatty(self):
        return True


def written(monkeypatch, choice, stream):
    """What comes to the standard error of a program that does two of four cells."""
    monkeypatch.setattr(sys, "stderr", stream)
    with Progress(choice, 4) as shown:
        shown.add(2)
    return stream.getvalue() if stream else ""


def test_a_function_is_told_after_each_pass(tiny, tokens):
    told = []
    sweep(
        tiny(),
        tokens,
        Scale(2.0),
        "mlp_out",
        ("layer", "pos"),
        LogitDiff(3, 4),
        positions=[1, -2, 7],
        progress=lambda done, total: told.append((done, total)),
        executor="reference",
    )
    assert told == [(n, 9) for n in range(1, 10)]


def test_cells_that_were_done_before_count(capsys):
    told = []
    with Progress(lambda done, total: told.append((done, total)), 7, n_done=3) as shown:
        shown.add(2)
        shown.add(2)
    assert told == [(5, 7), (7, 7)]
    assert capsys.readouterr().err == ""


def test_a_bar_is_drawn_on_a_terminal_or_where_it_is_asked_for(monkeypatch):
    for choice, stream in ((None, Terminal()), (True, StringIO())):
        assert "0/4" in written(monkeypatch, choice, stream)
    with Progress(True, 4, n_done=1) as shown:
        shown.add(2)
        assert (shown.bar.n, shown.bar.total) == (3, 4)


@pytest.mark.parametrize(("choice", "stream"), [(None, StringIO()), (False, Terminal()), (None, None)])
def test_no_bar_is_drawn_elsewhere(monkeypatch, choice, stream):
    assert written(monkeypatch, choice, stream) == ""


def test_what_the_function_raises_ends_the_sweep(tiny, tokens):
    """And leaves the model as it was."""

    def stop(done, total):
        raise RuntimeError(f"after {done} of {total}")

    model = tiny()
    classes = [type(module) for module in model.model.modules()]
    with pytest.raises(RuntimeError, match="after 3 of 3"):
        sweep(model, tokens, Scale(2.0), "mlp_out", metric=LogitDiff(3, 4), progress=stop)
    assert [type(module) for module in model.model.modules()] == classes


def test_a_bar_is_closed_on_an_error(monkeypatch):
    monkeypatch.setattr(sys, "stderr", StringIO())
    shown = Progress(True, 4)
    with pytest.raises(ZeroDivisionError), shown:
        1 / 0
    assert shown.bar.disable  # which is what tqdm says of a bar that is closed


def test_what_is_no_progress_is_refused():
    with pytest.raises(
        KindError, match=r"`progress` must be a function of \(done, total\), a bool or None\. Got str\."
    ):
        Progress("bar", 4)


def test_a_bar_needs_tqdm(monkeypatch):
    monkeypatch.setattr("mlx_patch.execution.progress._bar.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"`progress=True` needs tqdm\. Run `pip install tqdm`"):
        Progress(True, 4)
    assert written(monkeypatch, None, Terminal()) == ""
    assert importlib.util.find_spec("tqdm")


@pytest.mark.parametrize(("shell", "drawn"), [({"kernel": 1}, True), ({}, False), (None, False)])
def test_a_bar_is_drawn_in_a_notebook(monkeypatch, shell, drawn):
    """IPython in a terminal has a shell without a kernel, and is no notebook."""
    ipython = SimpleNamespace(get_ipython=lambda: None if shell is None else SimpleNamespace(**shell))
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    assert ("0/4" in written(monkeypatch, None, StringIO())) == drawn
    assert written(monkeypatch, False, StringIO()) == ""
    assert written(monkeypatch, None, None) == ""


def swept(model, tokens, progress, **more):
    chosen = {"at": "z", "over": ("layer", "head"), "metric": LogitDiff(3, 4), "positions": [-1], **more}
    return sweep(model, tokens, Scale(2.0), progress=progress, **chosen)


@pytest.mark.parametrize("name", ["llama", "gemma3_text", "mamba2", "qwen3_next"])
@pytest.mark.parametrize("executor", ["grow", "rows"])
def test_progress_moves_inside_a_pass_and_changes_no_number(tiny, tokens, monkeypatch, name, executor):
    monkeypatch.setattr("mlx_patch.execution.progress._bar.BAR_INTERVAL", 0.0)
    told, model = [], tiny(name)
    more = {"at": "resid_post", "over": ("layer", "neuron"), "neurons": [0, 1, 2, 3], "executor": executor}
    seen = swept(model, tokens, lambda done, total: told.append((done, total)), **more)
    assert len(seen.plan.passes) < len(told)
    assert told == sorted(set(told))
    assert told[-1] == (seen.plan.n_cells, seen.plan.n_cells)
    unseen = swept(model, tokens, False, **more)
    assert np.array_equal(seen.values, unseen.values)


def test_ctrl_c_inside_the_first_pass_goes_through(tiny, tokens, monkeypatch):
    def stop(done, total):
        assert done < total
        raise KeyboardInterrupt

    monkeypatch.setattr("mlx_patch.execution.progress._bar.BAR_INTERVAL", 0.0)
    with pytest.raises(KeyboardInterrupt):
        swept(tiny(), tokens, stop)


def test_short_passes_are_shown_when_they_are_finished(monkeypatch):
    clock, told = [0.0], []
    monkeypatch.setattr("mlx_patch.execution.progress._bar.monotonic", lambda: clock[0])
    pass_progress = PassProgress(told.append)
    for clock[0], share in ((0.1, 0.2), (0.3, 0.5), (0.4, 0.6), (9.0, 1.0)):
        pass_progress.reached(share, 10)
    assert told == [5, 4]  # one is left for the end, when its number is there
    assert (pass_progress.rest(10), pass_progress.rest(10)) == (1, 10)


def test_where_nobody_sees_it_passes_are_whole(tiny, tokens, monkeypatch):
    monkeypatch.setattr(PassProgress, "reached", lambda *given: pytest.fail("a stage was waited for"))
    swept(tiny(), tokens, False)


def test_what_may_not_be_needed_is_not_computed_to_be_shown(tiny, tokens, monkeypatch):
    """Of two edits in a cell the second may replace all that comes in."""
    monkeypatch.setattr(PassProgress, "reached", lambda *given: pytest.fail("a stage was waited for"))
    swept(tiny(), tokens, lambda *told: None, at="resid_post", over="layer", layers=[(0, 1), (0, 2)], positions=None)
