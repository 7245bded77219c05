"""What a function reads counts, wherever it reads it from; what cannot be known is refused."""

import collections
import enum
import functools
import importlib
import os
import sys
import textwrap
import types
from dataclasses import dataclass, field

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

import mlx_patch as mp
from mlx_patch import ActivationStore, Apply, HookedModel, sweep
from mlx_patch.errors import FileError, KindError
from mlx_patch.fingerprints import Fingerprints, fingerprint

EDITS = """
SCALE = {n}.0
TABLE = {{"late": [1, {n}]}}
NAMES = mx = None

class Settings:
    factor = {n}.5
    def __init__(self): self.own = {n}
    def damped(self, x): return x * {n}

settings = Settings()

def inner(x): return x * {n}
def damped(x): return inner(x)
def scaled(x, by={n}): return x * by
def made(by):
    def one(x): return x * by
    return one
closed = made({n})
def marked(x): return x * marked.by
marked.by = {n}
def unrelated(x): return x
"""


@pytest.fixture
def study(tmp_path, monkeypatch):
    """Writes a package of the user's and imports it: `study(2)`; its numbers are what they are told to be."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    names = ("my_edits", "my_package", "my_package.deep", "my_package.deep.parts")

    def write(n):
        for name in names:
            path = tmp_path / name.replace(".", "/")
            if name in ("my_package", "my_package.deep"):
                path.mkdir(exist_ok=True)
                path = path / "__init__"
            path.with_suffix(".py").write_text(textwrap.dedent(EDITS).format(n=n))
            sys.modules.pop(name, None)
        importlib.invalidate_caches()
        for name in names:
            importlib.import_module(name)
        return importlib.import_module("my_edits")

    yield write
    for name in names:
        sys.modules.pop(name, None)


def made(body, **space):
    """The function `f` of a module of the user's, which has imported what it needs."""
    head = "import functools, math, os, sys\nimport mlx.core as mx\nimport numpy as np\n"
    exec(head + textwrap.dedent(body), space)
    return space["f"]


# Functions of x that read a number of the module `my_edits`, or of the package `my_package`.
READS = {
    "a function of a module": "import my_edits\ndef f(x): return my_edits.damped(x)",
    "a number of a module": "import my_edits\ndef f(x): return my_edits.SCALE * x",
    "an item of a module": "import my_edits\ndef f(x): return my_edits.TABLE['late'][1] * x",
    "an attribute of a class of a module": "import my_edits\ndef f(x): return my_edits.Settings.factor * x",
    "a method of a class of a module": "import my_edits\ndef f(x): return my_edits.Settings().damped(x)",
    "an attribute of an object of a module": "import my_edits\ndef f(x): return my_edits.settings.own * x",
    "a closure of a module": "import my_edits\ndef f(x): return my_edits.closed(x)",
    "an attribute of a function of a module": "import my_edits\ndef f(x): return my_edits.marked(x)",
    "a default of a module": "import my_edits\ndef f(x): return my_edits.scaled(x)",
    "a module by another name": "import my_edits as e\ndef f(x): return e.damped(x)",
    "a module of a package": "import my_package.deep.parts\ndef f(x): return my_package.deep.parts.damped(x)",
    "a module of a package by another name": "import my_package.deep.parts as p\ndef f(x): return p.damped(x)",
    "a function of a package": "import my_package\ndef f(x): return my_package.deep.damped(x)",
    "a function by its name": "from my_edits import damped\ndef f(x): return damped(x)",
    "a function by another name": "from my_edits import damped as d\ndef f(x): return d(x)",
    "a module, by getattr": "import my_edits\ndef f(x): return getattr(my_edits, 'damp' + 'ed')(x)",
    "a module, by vars": "import my_edits\ndef f(x): return vars(my_edits)['damped'](x)",
    "a module, by its dict": "import my_edits\ndef f(x): return my_edits.__dict__['damped'](x)",
    "a module, by a local name": "import my_edits\ndef f(x):\n    e = my_edits\n    return e.damped(x)",
    "a module in a list": "import my_edits\nEVERY = [my_edits]\ndef f(x): return EVERY[0].damped(x)",
    "a module that is handed on": "import my_edits\ndef g(m, x): return m.damped(x)\ndef f(x): return g(my_edits, x)",
    "a module as a default": "import my_edits\ndef f(x, m=my_edits): return m.damped(x)",
    "a module as a keyword's default": "import my_edits\ndef f(x, *, m=my_edits): return m.damped(x)",
    "a module in a closure": "import my_edits\ndef g(m):\n    def h(x): return m.damped(x)\n    return h\nf = g(my_edits)",
    "a module in a closure, handed on": "import my_edits\ndef g(m):\n    return lambda x: getattr(m, 'damped')(x)\nf = g(my_edits)",
    "a module as an attribute of the function": "import my_edits\ndef f(x): return f.m.damped(x)\nf.m = my_edits",
    "a module of an object": "import my_edits\nclass C:\n    m = my_edits\n    def __call__(self, x): return self.m.damped(x)\nf = C()",
    "a module imported inside": "def f(x):\n    import my_edits\n    return my_edits.damped(x)",
    "a module imported inside by another name": "def f(x):\n    import my_edits as e\n    return e.damped(x)",
    "a part of a package imported inside": "def f(x):\n    import my_package.deep.parts\n    return my_package.deep.parts.damped(x)",
    "a part of a package imported inside by another name": "def f(x):\n    import my_package.deep.parts as p\n    return p.damped(x)",
    "a function imported inside": "def f(x):\n    from my_edits import damped\n    return damped(x)",
    "a function imported inside by another name": "def f(x):\n    from my_edits import unrelated, damped as d\n    return d(x)",
    "a module taken from a package inside": "def f(x):\n    from my_package.deep import parts\n    return parts.damped(x)",
    "an import inside, read in a part": "def f(x):\n    import my_edits\n    return [my_edits.damped(v) for v in [x]][0]",
    "an import inside, handed on": "def f(x):\n    import my_edits\n    return getattr(my_edits, 'damped')(x)",
    "an import inside a part": "def f(x):\n    def g():\n        import my_edits\n        return my_edits.damped(x)\n    return g()",
    "an import where something may be missing": "def f(x):\n    try:\n        import no_such_thing\n    except ImportError:\n        import my_edits as no_such_thing\n    return no_such_thing.damped(x)",
    "a module in a part": "import my_edits\ndef f(x): return [my_edits.damped(v) for v in [x]][0]",
    "a module in a lambda": "import my_edits\ndef f(x): return (lambda v: my_edits.damped(v))(x)",
    "a module in a class body": "import my_edits\ndef f(x):\n    class C:\n        g = my_edits.damped\n    return C.g(x)",
    "a function of a function of a module": "import my_edits\ndef g(x): return my_edits.damped(x)\ndef f(x): return g(x)",
    "a partial": "import my_edits\nf = functools.partial(my_edits.scaled)",
    "a method of an object of a module": "import my_edits\nf = my_edits.settings.damped",
    "a decorated function": "import my_edits\n@functools.wraps(math.sin)\ndef f(x): return my_edits.damped(x)",
    "a function that says it is numpy's": "import my_edits\n@functools.wraps(np.mean)\ndef f(x): return my_edits.damped(x)",
    "what mlx compiled": "import my_edits\nf = mx.compile(lambda x: my_edits.damped(x))",
    "a cached function": "import my_edits\nf = functools.cache(lambda x: my_edits.damped(x))",
}


@pytest.mark.parametrize("body", READS.values(), ids=READS)
def test_a_function_counts_by_what_it_reads(study, body):
    found = []
    for n in (1, 1, 2):
        study(n)
        f = made(body)
        f(1)
        found.append(fingerprint(f))
    assert found[0] == found[1] != found[2]


def test_what_a_function_does_not_read_of_a_module_does_not_count(study):
    body = "import my_edits\ndef f(x): return my_edits.unrelated(x)"
    found = []
    for n in (1, 2):
        study(n)
        found.append(fingerprint(made(body)))
    assert found[0] == found[1]


def test_a_name_of_a_library_that_was_changed_counts(monkeypatch):
    f = made("def f(x): return np.mean(x)")
    before = fingerprint(f)
    monkeypatch.setattr(np, "mean", lambda x: x * 0)
    assert fingerprint(f) != before


def test_a_library_counts_by_its_version(monkeypatch):
    from mlx_patch.fingerprints import _library

    for body in (
        "def f(x): return np.mean(x)",
        "def f(x, m=np): return m.mean(x)",
        "def f(x): return np.linalg.norm(x)",
    ):
        before = fingerprint(made(body))
        with monkeypatch.context() as patch:
            patch.setattr(_library, "_version_of", lambda top: "another")
            assert fingerprint(made(body)) != before


class Counted:
    def __init__(self, by):
        self.by = by

    def __call__(self, x):
        return x * self.by


class Called:
    __call__ = functools.partial(pow, 2)


def told(function, **attributes):
    vars(function).update(attributes)
    return function


def by(n):
    """A lambda that does not show what it multiplies by."""
    return lambda x: x * n


class Name(str):
    pass


class Number(float):
    pass


class Sums(dict):
    def __missing__(self, key):
        return 1


class Products(dict):
    def __missing__(self, key):
        return 2


Sums.__qualname__ = Products.__qualname__ = "Same"


@dataclass
class Hidden:
    shown: int
    by: int = field(compare=False)

    def __call__(self, x):
        return x * self.by


class Level(enum.Enum):
    LOW = 1

    @property
    def by(self):
        return 1


class OtherLevel(enum.Enum):
    LOW = 1

    @property
    def by(self):
        return 2


OtherLevel.__qualname__ = "Level"


class Layer(nn.Module):
    def __init__(self, n):
        super().__init__()
        self._by = n
        self.by = [n, None]

    def __call__(self, x):
        return x * self._by


def module(**own):
    space = types.ModuleType("of_mine")
    vars(space).update(own)
    return space


def with_metaclass(n):
    meta = type("Meta", (type,), {"by": n, "__call__": lambda cls, x: x * cls.by})
    return meta("C", (), {})


def with_call(n):
    return type("C", (), {"__call__": staticmethod(Counted(n))})()


# Two values that do two things, though a part of each looks like that of the other.
PAIRS = {
    "an attribute of a function": lambda n: told(by(0), by=n),
    "an attribute of an object": Counted,
    "an attribute of an object in a closure": lambda n: lambda x, c=Counted(n): c(x),
    "a method of an object": lambda n: Counted(n).__call__,
    "a call that is an object": with_call,
    "a metaclass": with_metaclass,
    "a field that is not compared": lambda n: Hidden(1, n),
    "an attribute beside fields": lambda n: told(Hidden(1, 1), more=n),
    "a text of a class of one's own": lambda n: Name(n),
    "a number of a class of one's own": lambda n: Number(n),
    "a class of one's own of dicts": lambda n: (Sums, Products)[n](a=1),
    "an attribute of a list": lambda n: told(type("Own", (list,), {})([1]), by=n),
    "a default of a dict": lambda n: collections.defaultdict(by(n), {"a": 1}),
    "a mask": lambda n: np.ma.array([1, 2], mask=[n, 0]),
    "a method of an enum": lambda n: (Level.LOW, OtherLevel.LOW)[n],
    "what an error was told": lambda n: ValueError(n),
    "an attribute of a layer": Layer,
    "a function in a layer": lambda n: nn.Sequential(nn.ReLU(), by(n)),
    "an attribute of a layer in a layer": lambda n: nn.Sequential(nn.ReLU(), Layer(n)),
    "a list in a layer": lambda n: told(nn.ReLU(), by=[by(n)]),
    "a module of one's own": lambda n: module(by=n),
    "a module's function": lambda n: module(f=by(n)),
    "a module in a module": lambda n: module(inner=module(by=n)),
    "an attribute on the way": lambda n: module(__getattr__=by(n)),
    "a slot": lambda n: slotted(n),
    "a closure of a closure": lambda n: (lambda f: lambda x: f(x))(by(n)),
    "an argument of a partial": lambda n: functools.partial(pow, n),
    "a keyword of a partial": lambda n: functools.partial(pow, exp=n),
    "a partial in a partial": lambda n: functools.partial(functools.partial(pow, n), 1),
    "a bound method of an array": lambda n: mx.array([n]).sum,
    "an array in a list in a closure": lambda n: lambda x, a=[mx.array([n])]: a[0] * x,
    "half an array": lambda n: mx.array(n, mx.bfloat16),
    "a function of a class": lambda n: type("C", (), {"f": staticmethod(by(n))}),
    "a class method": lambda n: type("C", (), {"f": classmethod(by(n))}),
    "a property": lambda n: type("C", (), {"f": property(by(n))}),
    "a value of a class": lambda n: type("C", (), {"by": n})(),
    "a base of a class": lambda n: type("C", (type("B", (), {"by": n}),), {})(),
    "a tuple with names": lambda n: collections.namedtuple("Pair", "a b")(1, n),
    "an option of a layer of a library": lambda n: nn.Dropout(0.5 * n),
}


def slotted(n):
    cls = type("S", (), {"__slots__": ("by",)})
    value = cls()
    value.by = n
    return value


@pytest.mark.parametrize("make", PAIRS.values(), ids=PAIRS)
def test_what_can_be_read_of_a_value_counts(make):
    assert fingerprint(make(0)) == fingerprint(make(0)) != fingerprint(make(1))
    read = [made("def f(x): return VALUE", VALUE=make(n)) for n in (0, 0, 1)]
    found = [Fingerprints().of(f) for f in read]
    assert found[0] == found[1] != found[2]


def test_a_pattern_of_the_library_s_own_still_counts():
    one, other = (made("def f(x): return np.mean(x) + mx.sin(x)") for _ in range(2))
    assert fingerprint(one) == fingerprint(other)
    assert fingerprint(one) != fingerprint(made("def f(x): return np.mean(x) + mx.cos(x)"))
    assert fingerprint(one) != fingerprint(made("def f(x): return np.median(x) + mx.sin(x)"))


# Functions that read what is outside of them.
UNKNOWABLE = {
    "a file": ("def f(x): return x * float(open('a').read())", "uses 'open', which reads or runs"),
    "a file by another name": ("look = open\ndef f(x): return look('a')", "open, which reads or runs"),
    "a file through io": ("import io\ndef f(x): return io.open('a')", "open, which reads or runs"),
    "a file of numpy": ("def f(x): return np.load('a.npy') * x", "load, which reads a file"),
    "a text of numpy": ("def f(x): return np.loadtxt('a')", "loadtxt, which reads a file"),
    "bytes of numpy": ("def f(x): return np.fromfile('a')", "fromfile, which reads a file"),
    "a map of numpy": ("def f(x): return np.memmap('a')", "memmap, which reads a file"),
    "a file of mlx": ("def f(x): return mx.load('a.safetensors')", "load, which reads a file"),
    "a file by a function of a library": ("from mlx.core import load\ndef f(x): return load('a')", "load, which reads a file"),
    "a cache": ("import mlx_patch as mp\ndef f(x): return mp.ActivationCache.load('a')", "calls ActivationCache.load"),
    "a store": ("import mlx_patch as mp\ndef f(x): return mp.ActivationStore('a')[0]", "ActivationStore, which reads a"),
    "a model": ("import mlx_lm\ndef f(x): return mlx_lm.load('a')", "load, which reads a file"),
    "a pickle": ("import pickle\ndef f(x): return pickle.load(x)", "load, which reads a file"),
    "the text of a path": ("import pathlib\ndef f(x): return pathlib.Path('a').read_text()", "calls 'read_text'"),
    "the text of a path that is given": ("def f(x, p): return p.read_bytes()", "calls 'read_bytes'"),
    "a path that is opened": ("def f(x, p): return p.open()", "calls 'open'"),
    "the environment": ("def f(x): return float(os.environ['A']) * x", "which belongs to os"),
    "the environment by name": ("from os import environ as e\ndef f(x): return float(e['A']) * x", "which belongs to os"),
    "the environment by getenv": ("def f(x): return float(os.getenv('A', '1')) * x", "getenv, which belongs to os"),
    "the files of a folder": ("def f(x): return len(os.listdir('.')) * x", "listdir, which belongs to posix"),
    "whether a file is there": ("def f(x): return os.path.exists('a') * x", "exists, which belongs to genericpath"),
    "the interpreter": ("def f(x): return len(sys.modules) * x", "is of this process alone"),
    "a module by its name": ("import importlib\ndef f(x): return importlib.import_module('my_edits').damped(x)", "import_module, which belongs to importlib"),
    "an import by its name": ("def f(x): return __import__('my_edits').damped(x)", "uses '__import__', which reads or runs"),
    "an evaluated text": ("def f(x): return eval('x * SCALE')", "uses 'eval', which reads or runs"),
    "a text that is run": ("def f(x):\n    exec('y = 1')\n    return x", "uses 'exec', which reads or runs"),
    "globals by name": ("SCALE = 1\ndef f(x): return globals()['SCA' + 'LE'] * x", "uses 'globals', which reads or runs"),
    "globals of a function": ("def f(x): return f.__globals__['SCALE'] * x", "looks through '__globals__'"),
    "the frame": ("def f(x): return sys._getframe().f_locals", "looks through 'f_locals'|_getframe, which belongs to sys"),
    "the clock": ("import time\ndef f(x): return time.time() * x", "time, which belongs to time"),
    "the date": ("import datetime\ndef f(x): return datetime.datetime.now().second * x", "calls 'now'"),
    "random numbers": ("import random\ndef f(x): return random.random() * x", "which belongs to .*random"),
    "random numbers of one's own": ("import random\nR = random.Random(0)\ndef f(x): return R.random()", "which belongs to random"),
    "random numbers of numpy": ("def f(x): return np.random.normal() * x", "draws from numpy's random state"),
    "random numbers of numpy by name": ("from numpy.random import rand\ndef f(x): return rand()", "draws from numpy's random state"),
    "random numbers without a seed": ("def f(x): return np.random.default_rng().normal()", "makes np.random.default_rng without a seed"),
    "a generator": ("G = np.random.default_rng(0)\ndef f(x): return G.normal() * x", "Generator"),
    "random numbers of mlx": ("def f(x): return x + mx.random.normal(x.shape)", "draws from MLX's random state. Give each"),
    "random numbers of mlx by name": ("from mlx.core.random import normal as n\ndef f(x): return n((1,))", "draws from MLX's random state"),
    "a key for one of two": ("def f(x): return mx.random.normal((1,), key=mx.random.key(0)) + mx.random.uniform()", "draws from MLX's random state"),
    "a seed of mlx's state": ("def f(x):\n    mx.random.seed(0)\n    return x", "draws from MLX's random state"),
    "a socket": ("import urllib.request\ndef f(x): return urllib.request.urlopen('a')", "urlopen, which belongs to urllib"),
    "a process": ("import subprocess\ndef f(x): return subprocess.run(['a'])", "run, which belongs to subprocess"),
    "an identity of this process": ("import uuid\ndef f(x): return uuid.uuid4()", "uuid4, which belongs to uuid"),
    "a part of it": ("def f(x): return [open(n) for n in x]", "uses 'open', which reads or runs"),
    "what a function of it calls": ("def g(x): return open(x)\ndef f(x): return g(x)", "'g': g, which uses 'open'|uses 'open'"),
    "what it imports": ("def f(x):\n    import time\n    return time.time() * x", "time, which belongs to time"),
    "what it imports by name": ("def f(x):\n    from random import random\n    return random() * x", "belongs to .*random"),
    "a module that is handed on": ("def f(x): return getattr(os, 'environ')", "os, which belongs to os"),
    "a method of an object": ("class C:\n    def __call__(self, x): return open(x)\nf = C()", "uses 'open', which reads or runs"),
    "a partial": ("f = functools.partial(open, 'a')", "open, which reads or runs"),
    "a text that is open": ("import io\nF = io.StringIO('1')\ndef f(x): return F", "is of this process alone"),
    "an iterator": ("import itertools\nC = itertools.count()\ndef f(x): return next(C) * x", "a itertools.count"),
    "a generator of a function": ("G = (n for n in range(3))\ndef f(x): return next(G)", "a builtins.generator"),
    "a local of a thread": ("import threading\nL = threading.local()\ndef f(x): return L.by", "which belongs to _thread"),
    "a variable of a context": ("import contextvars\nV = contextvars.ContextVar('v')\ndef f(x): return V.get()", "belongs to _contextvars"),
}  # fmt: skip


@pytest.mark.parametrize(("body", "why"), UNKNOWABLE.values(), ids=UNKNOWABLE)
def test_what_cannot_be_known_is_refused(body, why):
    with pytest.raises(
        KindError, match=rf"`edit` must consist of what another process can know again\. Got edit.*({why})"
    ):
        fingerprint(made(body), "edit")


def test_a_file_that_is_open_is_refused():
    with (
        open(os.devnull) as file,
        pytest.raises(KindError, match=r"a _io.TextIOWrapper, which is of this process alone"),
    ):
        fingerprint(made("def f(x): return FILE", FILE=file))


# Functions that read what can be known, and must not be refused.
KNOWN = {
    "mlx": "def f(x): return mx.softmax(x, axis=-1) * mx.fast.rms_norm(x, None, 1e-5)",
    "numpy": "def f(x): return np.mean(np.asarray(x)) + np.linalg.norm(x) + np.pi + np.float32(1)",
    "numbers": "import math, cmath, statistics\ndef f(x): return math.sqrt(2) * math.pi + statistics.mean([1])",
    "texts": "import re, json, textwrap\ndef f(x): return re.sub('a', 'b', json.dumps(json.loads('1')))",
    "tools": "import itertools, operator, collections\ndef f(x): return operator.add(*itertools.chain([1], [2]))",
    "names of paths": "def f(x): return os.path.join('a', 'b') + os.sep",
    "layers": "import mlx.nn as nn\ndef f(x): return nn.gelu(x) + nn.softmax(x)",
    "keys": "def f(x):\n    k, j = mx.random.split(mx.random.key(0))\n    return mx.random.normal(x.shape, key=k) + mx.random.uniform(key=j)",
    "seeds": "def f(x): return np.random.default_rng(0).normal() + np.random.Generator(np.random.PCG64(1)).normal()",
    "the library": "import mlx_patch as mp\nfrom mlx_patch.interventions import Scale\ndef f(x): return mp.Scale(2.0), Scale(1.0)",
    "printing": "def f(x):\n    print(x)\n    return x",
    "dates that are given": "import datetime\ndef f(x): return datetime.date(2020, 1, 1).year * x",
    "a list that it fills": "SEEN = []\ndef f(x):\n    SEEN.append(x)\n    return x",
    "itself": "def f(x): return f(x - 1) if x else 0",
    "parts of one another": "def g(x): return f(x)\ndef f(x): return g(x)",
    "a warning": "import warnings\ndef f(x):\n    warnings.warn('a')\n    return x",
    "an option of Python": "def f(x): return x if sys.version_info > (3, 1) else sys.maxsize",
    "types": "from typing import Any, cast\ndef f(x): return cast(Any, x)",
}


@pytest.mark.parametrize("body", KNOWN.values(), ids=KNOWN)
def test_what_can_be_known_is_taken(body):
    assert fingerprint(made(body)) == fingerprint(made(body))
    assert fingerprint(Apply(made(body))) == fingerprint(Apply(made(body)))


def test_a_checkpoint_sees_a_function_that_was_changed_in_its_module(tiny, tokens, study, tmp_path):
    def go(edit):
        cell = edit.at("mlp_out", layer=0)
        return sweep(tiny(), tokens, over=[cell], metric=mp.metrics.LogitDiff(10, 20), checkpoint=path).values.item()

    path = tmp_path / "night.npz"
    body = "import my_edits\ndef f(x, site): return my_edits.damped(x)"
    study(2)
    first = go(Apply(made(body)))
    study(2)
    assert go(Apply(made(body))) == first
    study(3)
    with pytest.raises(FileError, match=r"`checkpoint` must be of this sweep.*another intervention \(number 1 of 1"):
        go(Apply(made(body)))
    path.unlink()
    assert go(Apply(made(body))) != first


def test_a_checkpoint_is_refused_for_what_cannot_be_known_before_anything_runs(tiny, tokens, tmp_path):
    cell = Apply(made("def f(x, site): return x * len(os.environ)")).at("mlp_out", layer=0)
    message = r"Got intervention: .*which belongs to os: .* Leave `checkpoint` out"
    with pytest.raises(KindError, match=message):
        sweep(tiny(), tokens, over=[cell], metric=mp.metrics.LogProb(3), checkpoint=tmp_path / "a.npz")
    assert list(tmp_path.iterdir()) == []


def test_a_store_sees_what_chooses_its_positions(tiny, word_tokenizer, tmp_path):
    model = HookedModel(tiny().model, word_tokenizer)
    prompts = ["w11 w48 w85", "w26 w63"]

    def go(place):
        chosen = mp.pos.where(lambda pos, token, text: pos == place)
        return ActivationStore.capture(model, prompts, tmp_path / "store", pos=chosen)

    assert len(go(0)) == len(go(0)) == 2
    with pytest.raises(FileError, match=r"which is of another choice of positions"):
        go(1)
