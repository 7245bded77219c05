"""Ctrl-C at every line in turn: afterwards each module has its class, no edit is in force, and runs are plain."""

import gc
import os
import sys
from collections import defaultdict
from contextlib import ExitStack, suppress
from pathlib import Path

import mlx.core as mx
import pytest

import mlx_patch
from mlx_patch import Ablate, Apply, Scale
from mlx_patch.engine import _tap

FOLDER = str(Path(mlx_patch.__file__).parent)
ENGINE = (f"{FOLDER}/engine/", f"{FOLDER}/model/_editing.py", f"{FOLDER}/model/_running.py")
"""The files whose lines are interrupted."""

KEEPING = tuple(f"{FOLDER}/{name}.py" for name in ("engine/_tap", "engine/_frame", "engine/_owner", "model/_editing"))
"""Those that put frames in and take them out."""


EVERY = os.environ.get("EVERY_INTERRUPT") == "1"
"""Each line each time that it is run, which takes minutes. Without, its first and its last time."""


class Traced:
    """A context that notes each line of the engine before it is run, and interrupts before one of them.

    Attributes:
        lines: The lines that came, a file and a number each.
    """

    def __init__(self, interrupted=None):
        self.interrupted, self.lines = interrupted, []

    def __enter__(self):
        self.before = sys.gettrace()
        sys.settrace(self._called)
        return self

    def __exit__(self, *_):
        sys.settrace(self.before)

    def _called(self, frame, event, arg):
        return self._line if frame.f_code.co_filename.startswith(ENGINE) else None

    def _line(self, frame, event, arg):
        if event == "line":
            self.lines.append((frame.f_code.co_filename, frame.f_lineno))
            if len(self.lines) - 1 == self.interrupted:
                sys.settrace(None)
                raise KeyboardInterrupt
        return self._line


def chosen(lines, files):
    """Which of the lines that came are interrupted, by number."""
    times = defaultdict(list)
    for n, line in enumerate(lines):
        if line[0].startswith(files):
            times[line].append(n)
    return sorted({n for came in times.values() for n in (came if EVERY else (came[0], came[-1]))})


def classes(model):
    return [type(module) for module in model.model.modules()]


def plain_run(model, tokens):
    model.run(tokens)


def edited_run(model, tokens):
    model.run(tokens, [Ablate("zero").at("mlp_out", layer=0)])


def inner_attention(model, tokens):
    model.run_with_cache(tokens, ("pattern", "rot_k"), [Ablate("zero").at("z", layer=0)])


def nested_blocks(model, tokens):
    with model.editing(Ablate("zero").at("mlp_out", layer=0)), model.editing(Scale(2.0).at("z", layer=1)):
        model.run(tokens, [Scale(0.5).at("resid_post", layer=0)])


def a_run_inside_an_edit(model, tokens):
    def again(activation, site):
        with model.editing(Scale(2.0).at("mlp_out", layer=1)):
            return activation + model.run_with_cache(tokens, "resid_pre")[1]["resid_pre", 0]

    model.run(tokens, [Apply(again).at("resid_pre", layer=1)])


def an_exit_stack(model, tokens):
    with ExitStack() as stack:
        for n in range(2):
            stack.enter_context(model.editing(Scale(2.0).at("mlp_out", layer=n)))
        model.run(tokens)


def a_generator(model, tokens):
    def halves():
        with model.editing(Scale(0.5).at("mlp_out", layer=0)):
            yield model.run(tokens)
            yield model.run(tokens)

    for _ in halves():
        model.run(tokens)


JOBS = [plain_run, edited_run, inner_attention, nested_blocks, a_run_inside_an_edit, an_exit_stack, a_generator]


@pytest.mark.slow
@pytest.mark.parametrize("job", JOBS, ids=lambda job: job.__name__)
def test_an_interrupt_at_any_line_leaves_the_model_as_it_was(tiny, job):
    model, tokens = tiny(), mx.array([[3, 5, 7]])
    before, plain = classes(model), model.run(tokens)
    job(model, tokens)  # what the first run caches is not made again
    with Traced() as whole:
        job(model, tokens)
    for n in chosen(whole.lines, ENGINE if job is inner_attention else KEEPING):
        with Traced(n), suppress(KeyboardInterrupt):
            job(model, tokens)
            pytest.fail("no interrupt came")
        if job is an_exit_stack and classes(model) != before:
            gc.collect()  # it holds the exception that holds it
        assert classes(model) == before, whole.lines[n]
        assert not [*_tap._frames_in()], whole.lines[n]
    assert mx.array_equal(model.run(tokens), plain)
