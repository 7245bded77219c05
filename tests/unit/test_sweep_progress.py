"""How far a sweep is: told to a function, drawn as a bar, or not at all; and what becomes of it on an error."""

import importlib.util
import sys
from io import StringIO

import pytest

from mlx_patch import Scale
from mlx_patch.errors import KindError, MissingExtraError
from mlx_patch.metrics import LogitDiff
from mlx_patch.sweeps import _progress, sweep
from mlx_patch.sweeps._progress import Progress


class Terminal(StringIO):
    """A place that text is written to, and that somebody reads."""

    def isatty(self):
        return True


def written(monkeypatch, choice, stream):
    """What comes to the standard error of a program that does two of four cells."""
    monkeypatch.setattr(sys, "stderr", stream)
    with Progress(choice, 4) as shown:
        shown.more(2)
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
    with Progress(lambda done, total: told.append((done, total)), 7, done=3) as shown:
        shown.more(2)
        shown.more(2)
    assert told == [(5, 7), (7, 7)]
    assert capsys.readouterr().err == ""


def test_a_bar_is_drawn_on_a_terminal_or_where_it_is_asked_for(monkeypatch):
    for choice, stream in ((None, Terminal()), (True, StringIO())):
        assert "0/4" in written(monkeypatch, choice, stream)
    with Progress(True, 4, done=1) as shown:
        shown.more(2)
        assert (shown.bar.n, shown.bar.total) == (3, 4)


@pytest.mark.parametrize(("choice", "stream"), [(None, StringIO()), (False, Terminal()), (None, None)])
def test_no_bar_is_drawn_elsewhere(monkeypatch, choice, stream):
    assert written(monkeypatch, choice, stream) == ""


def test_what_the_function_raises_ends_the_sweep_and_leaves_the_model_as_it_was(tiny, tokens):
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
    monkeypatch.setattr(_progress, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"where tqdm is not installed\. Got True\. Run `pip install tqdm`"):
        Progress(True, 4)
    assert written(monkeypatch, None, Terminal()) == ""
    assert importlib.util.find_spec("tqdm")
