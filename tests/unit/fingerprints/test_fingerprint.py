"""Fingerprints: equal for equal contents, in every process; different for whatever makes a difference."""

import enum
import functools
import json
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx_lm.tuner.lora import LoRALinear

from mlx_patch import Ablate, ActivationCache, Add, Apply, HookedModel, Interpolate, Replace, Scale, Site
from mlx_patch.errors import KindError
from mlx_patch.fingerprints import Fingerprints, fingerprint
from mlx_patch.metrics import KL, LogProb, as_metric
from mlx_patch.provenance import checksum

OFFSET = 3


def shifted(logits):
    return logits[:, -1, OFFSET]


def cache(value=1.0, pos=(0, 1), site="resid_post"):
    arrays = {Site(site, 0): mx.full((1, 2, 4), value)}
    return ActivationCache(arrays, mx.array([[5, 6]]), pos, 2)


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


@dataclass(frozen=True)
class Point:
    x: object


class Plain:
    def __init__(self, x):
        self.x = x


class Slotted:
    __slots__ = ("x",)

    def __init__(self, x):
        self.x = x


VALUES = {
    "none": None,
    "int": 1,
    "float": 1.0,
    "bool": True,
    "text": "1",
    "bytes": b"1",
    "minus zero": -0.0,
    "zero": 0.0,
    "nan": float("nan"),
    "list": [1],
    "tuple": (1,),
    "nested": [[1]],
    "two": [1, 1],
    "dict": {"a": 1},
    "another key": {"b": 1},
    "set": {1},
    "frozen": frozenset({1}),
    "enum": Colour.RED,
    "another enum": Colour.BLUE,
    "slice": slice(1, None),
    "range": range(1),
    "path": Path("a"),
    "point": Point(1),
    "another point": Point(2),
    "plain": Plain(1),
    "another plain": Plain(2),
    "slotted": Slotted(1),
    "another slotted": Slotted(2),
    "class": Point,
    "module": json,
    "dtype": mx.float32,
    "another dtype": mx.bfloat16,
    "scalar": np.float32(1),
    "array": mx.array([1.0, 2.0]),
    "another array": mx.array([1.0, 2.5]),
    "half": mx.array([1.0, 2.0], mx.bfloat16),
    "another half": mx.array([1.0, 2.5], mx.bfloat16),
    "half scalar": mx.array(1.0, mx.bfloat16),
    "column": mx.array([[1.0], [2.0]]),
    "ints": mx.array([1, 2]),
    "numpy": np.array([1.0, 2.0], np.float32),
    "objects": np.array([None, "a"], object),
    "cache": cache(),
    "another cache": cache(2.0),
    "a cache of another site": cache(site="mlp_out"),
    "a cache of other positions": cache(pos=(0, 2)),
    "builtin": len,
    "of mlx": mx.sin,
    "another of mlx": mx.cos,
    "bound": mx.array([1.0]).sum,
    "bound elsewhere": mx.array([2.0]).sum,
    "partial": functools.partial(pow, 2),
    "another partial": functools.partial(pow, 3),
    "replace": Replace(cache()),
    "replace from another": Replace(cache(2.0)),
    "scale": Scale(1.0),
    "add": Add(mx.array([1.0])),
    "ablate": Ablate("zero"),
    "noise": Ablate("noise", seed=1),
    "more noise": Ablate("noise", seed=2),
    "interpolate": Interpolate(cache(), 0.5),
    "chain": Scale(1.0) | Scale(2.0),
    "edit": Scale(1.0).at("z", layer=1),
    "an edit elsewhere": Scale(1.0).at("z", layer=2),
    "metric": LogProb(3),
    "another metric": LogProb(4),
    "a metric at another position": LogProb(3, pos=0),
    "divergence": KL(mx.zeros((1, 2, 4))),
}


def test_no_two_different_values_share_a_fingerprint():
    found = {name: fingerprint(value) for name, value in VALUES.items()}
    several = Fingerprints()
    assert {name: several.of(value) for name, value in VALUES.items()} == found
    same = [(a, b) for a in found for b in found if a < b and found[a] == found[b]]
    assert same == []


def test_equal_contents_in_other_objects_have_one_fingerprint():
    def pair(of):
        return fingerprint(of()), fingerprint(of())

    for of in (
        lambda: {"a": [1, (2.0, "x")], 3: {1, 2}},
        lambda: mx.arange(6).reshape(2, 3).T,
        lambda: Replace(cache()) | Scale(0.5),
        lambda: Apply(lambda activation, site: activation * OFFSET),
        lambda: as_metric(shifted),
        lambda: Plain(Plain(np.arange(3))),
    ):
        one, other = pair(of)
        assert one == other
    transposed = mx.arange(6).reshape(2, 3).T
    assert fingerprint(transposed) == fingerprint(mx.contiguous(transposed))


def test_the_order_of_mappings_does_not_count():
    """Nor that of sets; that of lists does."""
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})
    assert fingerprint([1, 2]) != fingerprint([2, 1])


def test_values_that_hold_themselves_have_a_fingerprint():
    def holding(tail):
        held = [tail]
        held.append(held)
        return held

    assert fingerprint(holding(1)) == fingerprint(holding(1)) != fingerprint(holding(2))


def test_what_is_inside_itself_looks_the_same_after_others():
    one, other = ["a"], ["b"]
    one.append(other)
    other.append(one)
    several = Fingerprints()
    assert [several.of(one), several.of(other)] == [fingerprint(one), fingerprint(other)]
    assert fingerprint(one) != fingerprint(other)


def test_functions_count_by_what_they_do():
    def closing(held, default=0, **named):
        def function(logits, k=default):
            return logits + held + k

        function.__kwdefaults__ = named or None
        return function

    one = closing(1)
    assert fingerprint(one) == fingerprint(closing(1))
    assert fingerprint(one) != fingerprint(closing(2))
    assert fingerprint(one) != fingerprint(closing(1, default=1))
    assert fingerprint(one) != fingerprint(lambda logits, k=0: logits + 1 + k)
    assert fingerprint(lambda x: x + 1) != fingerprint(lambda x: x - 1)
    assert fingerprint(lambda x: x + 1) != fingerprint(lambda x: x + 1.0)
    assert fingerprint(lambda x: x.min()) != fingerprint(lambda x: x.max())
    assert fingerprint(lambda x: [y + 1 for y in x]) != fingerprint(lambda x: [y + 2 for y in x])


def test_functions_count_by_the_globals_that_they_read(monkeypatch):
    before = fingerprint(shifted)
    monkeypatch.setitem(globals(), "OFFSET", 4)
    assert fingerprint(shifted) != before


def test_functions_count_by_the_functions_that_they_call():
    def study(constant):
        space = {}
        exec(f"def inner(x):\n    return x + {constant}\ndef outer(x):\n    return inner(x)", space)
        return space["outer"]

    assert fingerprint(study(1)) == fingerprint(study(1)) != fingerprint(study(2))


def test_a_function_may_call_itself():
    space = {}
    exec("def down(x):\n    return down(x - 1) if x else 0", space)
    assert len(fingerprint(space["down"])) == 32


def test_what_wraps_a_function_counts_by_it():
    for wrap in (functools.cache, mx.compile, functools.partial, staticmethod):
        one, other = wrap(lambda x: x + 1), wrap(lambda x: x + 2)
        if wrap is staticmethod:
            one, other = type("C", (), {"f": one}), type("C", (), {"f": other})
        assert fingerprint(one) != fingerprint(other)


def test_objects_count_by_the_methods_of_their_class():
    def made(constant):
        space = {"__name__": "study"}
        exec(
            "from dataclasses import dataclass\n"
            "@dataclass(frozen=True)\n"
            "class Metric:\n"
            "    scale: float = 1.0\n"
            "    @property\n"
            "    def name(self):\n"
            "        return 'x'\n"
            f"    def __call__(self, logits):\n        return logits * {constant}\n",
            space,
        )
        return space["Metric"]()

    sys.modules["study"] = sys.modules[__name__]
    try:
        assert fingerprint(made(1)) == fingerprint(made(1)) != fingerprint(made(2))
    finally:
        del sys.modules["study"]


def test_bound_methods_count_by_their_object():
    assert fingerprint(Bound(1).measure) == fingerprint(Bound(1).measure) != fingerprint(Bound(2).measure)


class Bound:
    def __init__(self, x):
        self.x = x

    def measure(self, logits):
        return logits * self.x


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (
            threading.Lock(),
            r"`metric` must consist of values that another process can recognise. Got metric, a _thread.lock.",
        ),
        ({"a": [object()]}, r"Got metric: entry 'a': part 0 of a list, a builtins.object. Leave `checkpoint` out, or"),
        (Plain(np.random.default_rng(0)), r"Got metric: attribute 'x'.*a .*Generator"),
    ],
)
def test_what_cannot_be_seen_into_is_refused(value, message):
    with pytest.raises(KindError, match=message):
        fingerprint(value, "metric")


def test_a_refusal_says_which_function_reads_it():
    lock = threading.Lock()
    with pytest.raises(KindError, match=r"Got metric: attribute 'function': 'lock', which it closes over, a _th"):
        fingerprint(as_metric(lambda logits: (lock, logits)[1]), "metric")


IN_ANOTHER_PROCESS = """
import json, sys
import mlx.core as mx
sys.path.insert(0, sys.argv[1])
import test_fingerprint as here
values = {name: value for name, value in here.VALUES.items() if name != "set"}
values |= {"strings": {"b", "a", "c", "d"}, "f": here.shifted, "g": here.Bound(2).measure, "cls": here.Bound}
values["set in code"] = lambda x: x in {"b", "a", "c", "d"}
print(json.dumps({name: here.fingerprint(value) for name, value in values.items()}))
"""


def test_every_process_finds_the_same():
    folder = str(Path(__file__).parent)
    found = []
    for seed in ("1", "2"):
        environment = {"PYTHONHASHSEED": seed, "PYTHONPATH": str(Path(__file__).parents[3]), "PATH": ""}
        command = [sys.executable, "-c", IN_ANOTHER_PROCESS, folder]
        done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr
        found.append(json.loads(done.stdout))
    assert found[0] == found[1]
    assert len(found[0]) > 60


def test_a_model_counts_by_its_weights_wherever_they_lie():
    one, other = nn.Linear(4, 4), nn.Linear(4, 4)
    assert fingerprint(one) != fingerprint(other)
    other.update(one.parameters())
    assert fingerprint(one) == fingerprint(other)


CHANGES = {
    "negated": lambda w: -w,
    "rows turned round": lambda w: w[::-1],
    "columns turned round": lambda w: w[:, ::-1],
    "transposed": lambda w: w.T,
    "one number": lambda w: w.at[1, 2].add(0.125),
    "two numbers exchanged": lambda w: mx.concatenate([w[:, 1:2], w[:, 0:1], w[:, 2:]], axis=1),
    "dtype": lambda w: w.astype(mx.float16 if w.dtype == mx.float32 else mx.float32),
    "shape": lambda w: w.reshape(4, 16),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16, mx.float16])
def test_a_checksum_sees_changed_weights(change, dtype):
    model = nn.Linear(8, 8)
    model.weight = mx.random.normal((8, 8)).astype(dtype)
    before = checksum(model)
    model.weight = model.weight[...]
    assert checksum(model) == before
    model.weight = change(model.weight)
    assert checksum(model) != before


def test_a_checksum_sees_adapters_and_their_scale_and_the_mode():
    model = nn.Sequential(nn.Linear(4, 4))
    plain = checksum(model)
    adapted = LoRALinear.from_base(model.layers[0], r=2, scale=1.0)
    model.layers[0] = adapted
    with_adapter = checksum(model)
    adapted.scale = 2.0
    scaled = checksum(model)
    model.train(False)
    assert len({plain, with_adapter, scaled, checksum(model)}) == 4


@pytest.mark.parametrize("name", ["llama", "mamba", "qwen3_next", "minicpm3", "gemma3n"])
@pytest.mark.parametrize("precision", ["float32", "4bit"])
def test_running_a_model_does_not_change_its_checksum(tiny, tokens, name, precision):
    model: HookedModel = tiny(name, precision)
    before = checksum(model.model)
    model.run(tokens)
    assert checksum(model.model) == before
