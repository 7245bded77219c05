"""What a function reads counts, wherever it reads it from; what cannot be known is refused."""

import collections
import enum
import functools
import importlib
import os
import re
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


def sections(text):
    """Programs by their headings: a line `# heading`, or `# heading => what the refusal says`."""
    found = {}
    for part in re.split(r"^# ", text, flags=re.MULTILINE)[1:]:
        heading, body = part.split("\n", 1)
        name, _, why = heading.partition(" => ")
        found[name] = (body, why) if why else body
    return found


# Functions of x that read a number of the module `my_edits`, or of the package `my_package`.
READS = sections(
    r"""
# a function of a module
import my_edits
def f(x): return my_edits.damped(x)

# a number of a module
import my_edits
def f(x): return my_edits.SCALE * x

# an item of a module
import my_edits
def f(x): return my_edits.TABLE['late'][1] * x

# an attribute of a class of a module
import my_edits
def f(x): return my_edits.Settings.factor * x

# a method of a class of a module
import my_edits
def f(x): return my_edits.Settings().damped(x)

# an attribute of an object of a module
import my_edits
def f(x): return my_edits.settings.own * x

# a closure of a module
import my_edits
def f(x): return my_edits.closed(x)

# an attribute of a function of a module
import my_edits
def f(x): return my_edits.marked(x)

# a default of a module
import my_edits
def f(x): return my_edits.scaled(x)

# a module by another name
import my_edits as e
def f(x): return e.damped(x)

# a module of a package
import my_package.deep.parts
def f(x): return my_package.deep.parts.damped(x)

# a module of a package by another name
import my_package.deep.parts as p
def f(x): return p.damped(x)

# a function of a package
import my_package
def f(x): return my_package.deep.damped(x)

# a function by its name
from my_edits import damped
def f(x): return damped(x)

# a function by another name
from my_edits import damped as d
def f(x): return d(x)

# a module, by getattr
import my_edits
def f(x): return getattr(my_edits, 'damp' + 'ed')(x)

# a module, by vars
import my_edits
def f(x): return vars(my_edits)['damped'](x)

# a module, by its dict
import my_edits
def f(x): return my_edits.__dict__['damped'](x)

# a module, by a local name
import my_edits
def f(x):
    e = my_edits
    return e.damped(x)

# a module in a list
import my_edits
EVERY = [my_edits]
def f(x): return EVERY[0].damped(x)

# a module that is handed on
import my_edits
def g(m, x): return m.damped(x)
def f(x): return g(my_edits, x)

# a module as a default
import my_edits
def f(x, m=my_edits): return m.damped(x)

# a module as a keyword's default
import my_edits
def f(x, *, m=my_edits): return m.damped(x)

# a module in a closure
import my_edits
def g(m):
    def h(x): return m.damped(x)
    return h
f = g(my_edits)

# a module in a closure, handed on
import my_edits
def g(m):
    return lambda x: getattr(m, 'damped')(x)
f = g(my_edits)

# a module as an attribute of the function
import my_edits
def f(x): return f.m.damped(x)
f.m = my_edits

# a module of an object
import my_edits
class C:
    m = my_edits
    def __call__(self, x): return self.m.damped(x)
f = C()

# a module imported inside
def f(x):
    import my_edits
    return my_edits.damped(x)

# a module imported inside by another name
def f(x):
    import my_edits as e
    return e.damped(x)

# a part of a package imported inside
def f(x):
    import my_package.deep.parts
    return my_package.deep.parts.damped(x)

# a part of a package imported inside by another name
def f(x):
    import my_package.deep.parts as p
    return p.damped(x)

# a function imported inside
def f(x):
    from my_edits import damped
    return damped(x)

# a function imported inside by another name
def f(x):
    from my_edits import unrelated, damped as d
    return d(x)

# a module taken from a package inside
def f(x):
    from my_package.deep import parts
    return parts.damped(x)

# an import inside, read in a part
def f(x):
    import my_edits
    return [my_edits.damped(v) for v in [x]][0]

# an import inside, handed on
def f(x):
    import my_edits
    return getattr(my_edits, 'damped')(x)

# an import inside a part
def f(x):
    def g():
        import my_edits
        return my_edits.damped(x)
    return g()

# an import where something may be missing
def f(x):
    try:
        import no_such_thing
    except ImportError:
        import my_edits as no_such_thing
    return no_such_thing.damped(x)

# a module in a part
import my_edits
def f(x): return [my_edits.damped(v) for v in [x]][0]

# a module in a lambda
import my_edits
def f(x): return (lambda v: my_edits.damped(v))(x)

# a module in a class body
import my_edits
def f(x):
    class C:
        g = my_edits.damped
    return C.g(x)

# a function of a function of a module
import my_edits
def g(x): return my_edits.damped(x)
def f(x): return g(x)

# a partial
import my_edits
f = functools.partial(my_edits.scaled)

# a method of an object of a module
import my_edits
f = my_edits.settings.damped

# a decorated function
import my_edits
@functools.wraps(math.sin)
def f(x): return my_edits.damped(x)

# a function that says it is numpy's
import my_edits
@functools.wraps(np.mean)
def f(x): return my_edits.damped(x)

# what mlx compiled
import my_edits
f = mx.compile(lambda x: my_edits.damped(x))

# a cached function
import my_edits
f = functools.cache(lambda x: my_edits.damped(x))
"""
)


@pytest.mark.parametrize("body", READS.values(), ids=READS)
def test_a_function_counts_by_what_it_reads(study, body):
    found = []
    for n in (1, 1, 2):
        study(n)
        f = made(body)
        f(1)
        found.append(fingerprint(f))
    assert found[0] == found[1] != found[2]


def test_what_a_function_does_not_read_does_not_count(study):
    """What it does not read of a module that it uses."""
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


def closing(held):
    """A lambda that holds something."""
    return lambda x: (held, x)


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


def slotted(n):
    cls = type("S", (), {"__slots__": ("by",)})
    value = cls()
    value.by = n
    return value


# Two values that do two things, though a part of each looks like that of the other.
PAIRS = {
    "an attribute of a function": lambda n: told(by(0), by=n),
    "an attribute of an object": Counted,
    "an attribute of an object in a closure": lambda n: closing(Counted(n)),
    "a method of an object": lambda n: Counted(n).__call__,
    "a call that is an object": with_call,
    "a metaclass": with_metaclass,
    "a field that is not compared": lambda n: Hidden(1, n),
    "an attribute beside fields": lambda n: told(Hidden(1, 1), more=n),
    "a text of a class of one's own": Name,
    "a number of a class of one's own": Number,
    "a class of one's own of dicts": lambda n: (Sums, Products)[n](a=1),
    "an attribute of a list": lambda n: told(type("Own", (list,), {})([1]), by=n),
    "a default of a dict": lambda n: collections.defaultdict(by(n), {"a": 1}),
    "a mask": lambda n: np.ma.array([1, 2], mask=[n, 0]),
    "a method of an enum": lambda n: (Level.LOW, OtherLevel.LOW)[n],
    "what an error was told": ValueError,
    "an attribute of a layer": Layer,
    "a function in a layer": lambda n: nn.Sequential(nn.ReLU(), by(n)),
    "an attribute of a layer in a layer": lambda n: nn.Sequential(nn.ReLU(), Layer(n)),
    "a list in a layer": lambda n: told(nn.ReLU(), by=[by(n)]),
    "a module of one's own": lambda n: module(by=n),
    "a module's function": lambda n: module(f=by(n)),
    "a module in a module": lambda n: module(inner=module(by=n)),
    "an attribute on the way": lambda n: module(__getattr__=by(n)),
    "a slot": slotted,
    "an option of a pattern": lambda n: re.compile("a", (re.IGNORECASE, re.DOTALL)[n]),
    "a closure of a closure": lambda n: closing(closing(by(n))),
    "an argument of a partial": lambda n: functools.partial(pow, n),
    "a keyword of a partial": lambda n: functools.partial(pow, exp=n),
    "a partial in a partial": lambda n: functools.partial(functools.partial(pow, n), 1),
    "a bound method of an array": lambda n: mx.array([n]).sum,
    "an array in a list in a closure": lambda n: closing([mx.array([n])]),
    "half an array": lambda n: mx.array(n, mx.bfloat16),
    "a function of a class": lambda n: type("C", (), {"f": staticmethod(by(n))}),
    "a class method": lambda n: type("C", (), {"f": classmethod(by(n))}),
    "a property": lambda n: type("C", (), {"f": property(by(n))}),
    "a value of a class": lambda n: type("C", (), {"by": n})(),
    "a base of a class": lambda n: type("C", (type("B", (), {"by": n}),), {})(),
    "a tuple with names": lambda n: collections.namedtuple("Pair", "a b")(1, n),
    "an option of a layer of a library": lambda n: nn.Dropout(0.5 * n),
}


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
UNKNOWABLE = sections(
    r"""
# a file => uses 'open', which reads or runs
def f(x): return x * float(open('a').read())

# a file by another name => open, which reads or runs
look = open
def f(x): return look('a')

# a file through io => open, which reads or runs
import io
def f(x): return io.open('a')

# a file of numpy => load, which reads a file
def f(x): return np.load('a.npy') * x

# a text of numpy => loadtxt, which reads a file
def f(x): return np.loadtxt('a')

# bytes of numpy => fromfile, which reads a file
def f(x): return np.fromfile('a')

# a map of numpy => memmap, which reads a file
def f(x): return np.memmap('a')

# a file of mlx => load, which reads a file
def f(x): return mx.load('a.safetensors')

# a file by a function of a library => load, which reads a file
from mlx.core import load
def f(x): return load('a')

# a cache => calls ActivationCache.load
import mlx_patch as mp
def f(x): return mp.ActivationCache.load('a')

# a store => ActivationStore, which reads a
import mlx_patch as mp
def f(x): return mp.ActivationStore('a')[0]

# a model => load, which reads a file
import mlx_lm
def f(x): return mlx_lm.load('a')

# a pickle => load, which reads a file
import pickle
def f(x): return pickle.load(x)

# the text of a path => calls 'read_text'
import pathlib
def f(x): return pathlib.Path('a').read_text()

# the text of a path that is given => calls 'read_bytes'
def f(x, p): return p.read_bytes()

# a path that is opened => calls 'open'
def f(x, p): return p.open()

# the environment => which belongs to os
def f(x): return float(os.environ['A']) * x

# the environment by name => which belongs to os
from os import environ as e
def f(x): return float(e['A']) * x

# the environment by getenv => getenv, which belongs to os
def f(x): return float(os.getenv('A', '1')) * x

# the files of a folder => listdir, which belongs to posix
def f(x): return len(os.listdir('.')) * x

# whether a file is there => exists, which belongs to genericpath
def f(x): return os.path.exists('a') * x

# the interpreter => belongs to this process alone
def f(x): return len(sys.modules) * x

# a module by its name => import_module, which belongs to importlib
import importlib
def f(x): return importlib.import_module('my_edits').damped(x)

# an import by its name => uses '__import__', which reads or runs
def f(x): return __import__('my_edits').damped(x)

# an evaluated text => uses 'eval', which reads or runs
def f(x): return eval('x * SCALE')

# a text that is run => uses 'exec', which reads or runs
def f(x):
    exec('y = 1')
    return x

# globals by name => uses 'globals', which reads or runs
SCALE = 1
def f(x): return globals()['SCA' + 'LE'] * x

# globals of a function => looks through '__globals__'
def f(x): return f.__globals__['SCALE'] * x

# the frame => looks through 'f_locals'|_getframe, which belongs to sys
def f(x): return sys._getframe().f_locals

# the clock => time, which belongs to time
import time
def f(x): return time.time() * x

# the date => calls 'now'
import datetime
def f(x): return datetime.datetime.now().second * x

# random numbers => which belongs to .*random
import random
def f(x): return random.random() * x

# random numbers of one's own => which belongs to random
import random
R = random.Random(0)
def f(x): return R.random()

# random numbers of numpy => draws from numpy's random state
def f(x): return np.random.normal() * x

# random numbers of numpy by name => draws from numpy's random state
from numpy.random import rand
def f(x): return rand()

# random numbers without a seed => makes np.random.default_rng without a seed
def f(x): return np.random.default_rng().normal()

# a generator => Generator
G = np.random.default_rng(0)
def f(x): return G.normal() * x

# random numbers of mlx => draws from MLX's random state. Give each
def f(x): return x + mx.random.normal(x.shape)

# random numbers of mlx by name => draws from MLX's random state
from mlx.core.random import normal as n
def f(x): return n((1,))

# a key for one of two => draws from MLX's random state
def f(x): return mx.random.normal((1,), key=mx.random.key(0)) + mx.random.uniform()

# a seed of mlx's state => draws from MLX's random state
def f(x):
    mx.random.seed(0)
    return x

# a socket => urlopen, which belongs to urllib
import urllib.request
def f(x): return urllib.request.urlopen('a')

# a process => run, which belongs to subprocess
import subprocess
def f(x): return subprocess.run(['a'])

# an identity of this process => uuid4, which belongs to uuid
import uuid
def f(x): return uuid.uuid4()

# a part of it => uses 'open', which reads or runs
def f(x): return [open(n) for n in x]

# what a function of it calls => 'g': g, which uses 'open'|uses 'open'
def g(x): return open(x)
def f(x): return g(x)

# what it imports => time, which belongs to time
def f(x):
    import time
    return time.time() * x

# what it imports by name => belongs to .*random
def f(x):
    from random import random
    return random() * x

# a module that is handed on => os, which belongs to os
def f(x): return getattr(os, 'environ')

# a method of an object => uses 'open', which reads or runs
class C:
    def __call__(self, x): return open(x)
f = C()

# a partial => open, which reads or runs
f = functools.partial(open, 'a')

# a text that is open => belongs to this process alone
import io
F = io.StringIO('1')
def f(x): return F

# an iterator => a itertools.count
import itertools
C = itertools.count()
def f(x): return next(C) * x

# a generator of a function => a builtins.generator
G = (n for n in range(3))
def f(x): return next(G)

# a local of a thread => which belongs to _thread
import threading
L = threading.local()
def f(x): return L.by

# a variable of a context => belongs to _contextvars
import contextvars
V = contextvars.ContextVar('v')
def f(x): return V.get()
"""
)


@pytest.mark.parametrize(("body", "why"), UNKNOWABLE.values(), ids=UNKNOWABLE)
def test_what_cannot_be_known_is_refused(body, why):
    with pytest.raises(
        KindError, match=rf"`edit` must consist of values that another process can recognise\. Got edit.*({why})"
    ):
        fingerprint(made(body), "edit")


def test_a_file_that_is_open_is_refused():
    with (
        open(os.devnull) as file,
        pytest.raises(KindError, match=r"a _io.TextIOWrapper, which belongs to this process alone"),
    ):
        fingerprint(made("def f(x): return FILE", FILE=file))


# Functions that read what can be known, and must not be refused.
KNOWN = sections(
    r"""
# mlx
def f(x): return mx.softmax(x, axis=-1) * mx.fast.rms_norm(x, None, 1e-5)

# numpy
def f(x): return np.mean(np.asarray(x)) + np.linalg.norm(x) + np.pi + np.float32(1)

# numbers
import math, cmath, statistics
def f(x): return math.sqrt(2) * math.pi + statistics.mean([1])

# texts
import re, json, textwrap
def f(x): return re.sub('a', 'b', json.dumps(json.loads('1')))

# tools
import itertools, operator, collections
def f(x): return operator.add(*itertools.chain([1], [2]))

# names of paths
def f(x): return os.path.join('a', 'b') + os.sep

# layers
import mlx.nn as nn
def f(x): return nn.gelu(x) + nn.softmax(x)

# keys
def f(x):
    k, j = mx.random.split(mx.random.key(0))
    return mx.random.normal(x.shape, key=k) + mx.random.uniform(key=j)

# seeds
def f(x): return np.random.default_rng(0).normal() + np.random.Generator(np.random.PCG64(1)).normal()

# the library
import mlx_patch as mp
from mlx_patch.interventions import Scale
def f(x): return mp.Scale(2.0), Scale(1.0)

# printing
def f(x):
    print(x)
    return x

# dates that are given
import datetime
def f(x): return datetime.date(2020, 1, 1).year * x

# a list that it fills
SEEN = []
def f(x):
    SEEN.append(x)
    return x

# itself
def f(x): return f(x - 1) if x else 0

# parts of one another
def g(x): return f(x)
def f(x): return g(x)

# a warning
import warnings
def f(x):
    warnings.warn('a')
    return x

# an option of Python
def f(x): return x if sys.version_info > (3, 1) else sys.maxsize

# types
from typing import Any, cast
def f(x): return cast(Any, x)
"""
)


@pytest.mark.parametrize("body", KNOWN.values(), ids=KNOWN)
def test_what_can_be_known_is_taken(body):
    assert fingerprint(made(body)) == fingerprint(made(body))
    assert fingerprint(Apply(made(body))) == fingerprint(Apply(made(body)))


def test_a_checkpoint_sees_a_function_changed_in_its_module(tiny, tokens, study, tmp_path):
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
    with pytest.raises(
        FileError, match=r"`checkpoint` must belong to this sweep.*another intervention \(number 1 of 1"
    ):
        go(Apply(made(body)))
    path.unlink()
    assert go(Apply(made(body))) != first


def test_a_checkpoint_is_refused_for_what_cannot_be_known(tiny, tokens, tmp_path):
    """Before anything runs."""
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
    with pytest.raises(FileError, match=r"which has another choice of positions"):
        go(1)
