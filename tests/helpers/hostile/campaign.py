"""Draws calls with hostile values, makes them, and judges what comes back."""

import inspect
import os
import random
import signal
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

import mlx_patch as mp
from hostile.examples import EXAMPLES, Call
from hostile.surface import slots_of
from hostile.values import HOSTILE, Hostile, values_near
from hostile.world import A, World

SECONDS = 20
"""Of its own work, after which a call hangs; or ten times as many on the clock, for one that waits."""

SLOW = ("HookedModel.verify", "sweeps.check_sweeps", "testing.*", "cross.fit_maps", "*.plot", "*.plot_*", "plot.*")
"""What takes long to call: the page is long, not the list of arguments. Each is drawn a tenth as often."""

ALLOWED = {
    ("ActivationCache.__contains__", "key"): "`in` is False of whatever is not there",
    ("ActivationCache.get", "default"): "returned as it is",
    ("Estimate", "plan"): "kept as it is",
    ("SweepResult", "plan"): "kept as it is",
    ("plot.heatmap", "rows"): "labels are any numbers",
    ("plot.heatmap", "columns"): "labels are any numbers",
    ("plot.token_grid", "rows"): "labels are any numbers",
    ("plot.token_grid", "columns"): "labels are any numbers",
    ("plot.pattern_map", "queries"): "labels are any numbers",
    ("plot.pattern_map", "keys"): "labels are any numbers",
    ("plot.layer_curve", "layers"): "labels are any numbers",
    ("HookedModel", "tokenizer"): "asked when it is used",
    ("metrics.metrics_of", "tokenizer"): "asked when it is used",
    ("pos.Selector.resolve", "tokenizer"): "asked when it is used",
    ("pos.show", "tokenizer"): "asked when it is used",
    ("align", "tokenizer"): "asked when it is used",
    ("HookedModel.generate", "max_tokens"): "as many as it takes are what was asked for",
    ("HookedModel.generate_with_cache", "max_tokens"): "as many as it takes are what was asked for",
    ("HookedModel.stream", "max_tokens"): "as many as it takes are what was asked for",
    ("lens.fit_tuned_lens", "steps"): "as many as it takes are what was asked for",
    ("lens.fit_tuned_lens", "positions"): "as many as it takes are what was asked for",
    ("metrics.GenerateMatches", "max_tokens"): "as many as it takes are what was asked for",
    ("metrics.GenerateMatches", "samples"): "as many as it takes are what was asked for",
    ("circuits.edges", "steps"): "as many as it takes are what was asked for",
    ("attribute", "steps"): "as many as it takes are what was asked for",
    ("testing.fuzz_sweeps", "cases"): "as many as it takes are what was asked for",
}
"""Arguments of which a value that means nothing elsewhere is taken as it is, or that ask for work without end."""


@dataclass(frozen=True)
class Leak:
    """A call that ended otherwise than it may."""

    number: int
    call: str
    problem: str

    def __str__(self) -> str:
        return f"{self.number}: {self.call}: {self.problem}"


class Campaign:
    """Calls of a world, drawn by a seed.

    Args:
        world: Valid values.
        seed: Decides all draws.

    Attributes:
        outcomes: How many calls ended in each way: "refused", "taken", "the caller's own error" of a function that the
            caller wrote, "without end" where that was asked for, "another error".
    """

    def __init__(self, world: World, seed: int):
        self.world = world
        self.draw = random.Random(seed)
        quick, slow = [], []
        for name in EXAMPLES:
            is_slow = any(fnmatchcase(name, pattern) for pattern in SLOW)
            (slow if is_slow else quick).append(name)
        self.names = [*quick * 10, *slow]
        self.results: dict[str, Any] = {}
        self.outcomes: Counter[str] = Counter()

    def leaks(self, n: int) -> Iterator[Leak]:
        """Make `n` calls, and yield what is wrong."""
        for number in range(n):
            name = self.draw.choice(self.names)
            valid = EXAMPLES[name](self.world)
            slots = Slots(name, valid)
            chosen = self.draw.sample(slots.names, min(len(slots.names), self.draw.choice((1, 1, 1, 2))))
            given = {slot: self.drawn_value(slots.value(slot)) for slot in chosen}
            described = f"{name}({', '.join(f'{slot}={value.name}' for slot, value in given.items())})"
            self.announce(number, described)
            problem = self.problem(name, slots, given)
            if problem and not any((name, slot) in ALLOWED for slot in given):
                yield Leak(number, described, problem)
            if number % 100 == 0 and (harm := self.harm()):
                yield Leak(number, described, harm)

    def drawn_value(self, valid: Any) -> Hostile:
        """A hostile value; of two, one is made of the valid one, where there are such."""
        near = values_near(valid)
        if near and self.draw.random() < 0.4:
            return self.draw.choice(near)
        return self.draw.choice(HOSTILE)

    def announce(self, number: int, described: str) -> None:
        """Write down what is called next, for where it ends the process."""
        if path := os.environ.get("HOSTILE_LOG"):
            Path(path).write_text(f"{number}: {described}\n", encoding="utf-8")

    def problem(self, name: str, slots: "Slots", given: dict[str, Hostile]) -> str | None:
        """What is wrong with how a call ends; None if nothing is."""
        try:
            with limited(), warnings.catch_warnings():
                warnings.simplefilter("error")
                for category in (mp.errors.DegenerateGapWarning, mp.errors.OutlierPositionWarning):
                    warnings.simplefilter("ignore", category)
                result = slots.replaced(given)()
                followed = follow_up(self.world, result)
                brought = (contents(result), followed)
        except mp.PatchError as error:
            self.outcomes["refused"] += 1
            return None if str(error).strip() else f"{type(error).__name__} without a message"
        except Hangs:
            self.outcomes["without end"] += 1
            return "hangs"
        except Exception as error:
            if "<lambda>" in str(error):
                self.outcomes["the caller's own error"] += 1
                return None
            self.outcomes["another error"] += 1
            return f"{type(error).__name__}: {str(error)[:150]} [{where(error)}]"
        finally:
            close_figures()
        self.outcomes["taken"] += 1
        if self.world.module_classes() != self.world.classes:
            return "left a tap behind"
        return self.misread(name, given, brought)

    def misread(self, name: str, given: dict[str, Hostile], brought: Any) -> str | None:
        """What is wrong with what a call returned: what means nothing was taken, or what means the same was misread."""
        refused = [value.name for value in given.values() if value.refused]
        if refused:
            return f"took {refused[0]}"
        if not all(value.same for value in given.values()):
            return None
        if name not in self.results:
            result = EXAMPLES[name](self.world)()
            self.results[name] = (contents(result), follow_up(self.world, result))
        expected = self.results[name]
        if not equal(brought, expected):
            return f"gave another result: {brought!r:.150} for {expected!r:.150}"
        return None

    def harm(self) -> str | None:
        """How the model differs from what it was; None if it does not."""
        if self.world.module_classes() != self.world.classes:
            return "left a tap behind"
        if self.world.sums_of_weights() != self.world.weights:
            return "altered the weights"
        if not np.array_equal(np.array(self.world.model([A]).astype(mx.float32)), self.world.logits):
            return "altered the logits"
        return None


class Slots:
    """The arguments of a call, each by a name."""

    def __init__(self, name: str, valid: Call):
        self.valid = valid
        self.positional = _positional_names(valid)
        known = [slot for slot in slots_of(valid.function) if slot not in ("args", "kwargs")]
        self.names = sorted({*self.positional, *valid.kwargs, *known})

    def value(self, slot: str) -> Any:
        """The valid value; an object of its own where the valid call leaves it out."""
        if slot in self.positional:
            return self.valid.args[self.positional.index(slot)]
        return self.valid.kwargs.get(slot, inspect.Parameter.empty)

    def replaced(self, given: dict[str, Hostile]) -> Call:
        """The call with hostile values."""
        args, kwargs = list(self.valid.args), dict(self.valid.kwargs)
        for slot, hostile in given.items():
            value = hostile.make(self.value(slot))
            if slot in self.positional:
                args[self.positional.index(slot)] = value
            else:
                kwargs[slot] = value
        return Call(self.valid.function, args, kwargs)


def _positional_names(valid: Call) -> list[str]:
    """The names of the arguments that a call gives by position."""
    try:
        parameters = list(inspect.signature(valid.function).parameters.values())
    except ValueError:
        parameters = []
    plain = [parameter.name for parameter in parameters if parameter.kind is parameter.POSITIONAL_OR_KEYWORD]
    numbered = [f"argument {number}" for number in range(len(valid.args))]
    return [*plain, *numbered[len(plain) :]][: len(valid.args)]


class Hangs(BaseException):
    """A call that does not end."""


@contextmanager
def limited():
    """A block that ends after `SECONDS`, if only by `Hangs`. A busy machine gets more time."""
    began, worked = time.monotonic(), time.process_time()

    def stop(*_):
        if time.process_time() - worked < SECONDS and time.monotonic() - began < 10 * SECONDS:
            signal.alarm(SECONDS)
            return
        raise Hangs

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def where(error: BaseException) -> str:
    """The innermost line of the package that an error went through."""
    trace, line = error.__traceback__, "outside"
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        if "mlx_patch/" in file:
            line = f"{file.rpartition('mlx_patch/')[2]}:{trace.tb_lineno}"
        trace = trace.tb_next
    return line


def close_figures() -> None:
    from matplotlib import pyplot

    pyplot.close("all")


def follow_up(w: World, result: Any) -> Any:
    """What the made value gives where it is used: what a constructor takes, a run must take."""
    edits = edits_with(w, result)
    if edits is not None:
        return contents(w.model.run([A], edits, logits_at=-1))
    match result:
        case mp.metrics.Metric():
            return contents(mp.measure(w.model, [A], result))
        case mp.metrics.TopK():
            return repr(result(w.model.run([A]), w.tokenizer))
        case mp.Site():
            return str(result), repr(result), w.model.run_with_cache([A], [result])[1][result].shape
        case mp.PromptPair():
            return contents(result.tokens(w.model))
        case mp.PromptPairs():
            return str(result.check(w.model))
        case mp.steps.Steps():
            return w.model.generate(A, [mp.Scale(2.0).at("resid_post", layer=1).during(result)], max_tokens=4)
        case mp.LayerMap():
            return contents(mp.cross_patch(w.model, w.model, [A], metric=w.metric, layer_map=result, positions=[1]))
        case mp.LinearMap():
            return contents(result(mx.ones((2, 4))))
        case mp.Alignment():
            return repr(result), contents(result.sources)
    return None


def edits_with(w: World, result: Any) -> Any:
    """Edits for a run that use a value; None of a value that is for no run."""
    match result:
        case mp.Edit():
            return [result]
        case mp.Intervention():
            return [result.at("resid_post", layer=1)]
        case mp.Path():
            return mp.paths.edits_of(w.model, [A], result)
        case mp.Receiver():
            return mp.paths.edits_of(w.model, [A], w.replace.at("z", layer=0, head=1).via(result))
        case mp.pos.Selector():
            return [mp.Scale(2.0).at("resid_post", layer=1, pos=result)]
    return None


def contents(value: Any) -> Any:
    """What a value says, to be compared: numbers of arrays, fields of records, texts."""
    if isinstance(value, mx.array):
        return ("array", np.array(value.astype(mx.float32)) if value.dtype == mx.bfloat16 else np.array(value))
    if isinstance(value, np.ndarray):
        return ("array", value)
    if isinstance(value, str | bool | int | float | None):
        return value
    if isinstance(value, list | tuple):
        return [contents(entry) for entry in value]
    if isinstance(value, dict):
        return [[str(key), contents(entry)] for key, entry in value.items()]
    if isinstance(value, mp.SweepResult | mp.Estimate):
        return [contents(value.values), contents(value.baseline), list(value.axes)]
    if hasattr(value, "text") and hasattr(value, "logprobs"):  # a response of mlx_lm, which has times
        return value.text
    if isinstance(value, mp.HookedModel | mp.Intervention | mp.Edit):
        return repr(value)
    if is_dataclass(value) and not isinstance(value, type):
        return [contents(getattr(value, entry.name)) for entry in fields(value) if entry.repr]
    return type(value).__name__


def equal(first: Any, second: Any) -> bool:
    """Whether two contents are the same, NaN being equal to itself."""
    if isinstance(first, np.ndarray) and isinstance(second, np.ndarray):
        return first.shape == second.shape and np.array_equal(first, second, equal_nan=first.dtype.kind == "f")
    if isinstance(first, list | tuple) and isinstance(second, list | tuple):
        return len(first) == len(second) and all(map(equal, first, second))
    return first == second or str(first) == str(second) == "nan"
