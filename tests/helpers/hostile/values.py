"""Values that a caller should not give: of every kind, and made from the valid one."""

import fractions
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np


class Int(int):
    """An int of a class of its own."""


class Str(str):
    """A text of a class of its own."""


class Anything:
    """An object with nothing to say, and a `repr` that fails."""

    def __repr__(self) -> str:
        raise RuntimeError("no repr")


@dataclass(frozen=True)
class Hostile:
    """A value to give in place of a valid one.

    Attributes:
        name: What it is.
        make: The value, made of the valid one.
        refused: Whether it means nothing anywhere, so that a call which takes it is wrong.
        same: Whether it means what the valid one means, so that a call which takes it gives the same.
    """

    name: str
    make: Callable[[Any], Any]
    refused: bool = False
    same: bool = False


def nested(depth: int) -> list:
    inner: list = []
    for _ in range(depth):
        inner = [inner]
    return inner


def recursive() -> list:
    inner: list = []
    inner.append(inner)
    return inner


def used_up() -> Iterable:
    iterator = iter([1, 2])
    list(iterator)
    return iterator


def fixed(value: Any) -> Callable[[Any], Any]:
    return lambda valid: value


PLAIN = {
    "None": None,
    "True": True,
    "False": False,
    "0": 0,
    "-1": -1,
    "1": 1,
    "4096": 4096,
    "2**31": 2**31,
    "2**70": 2**70,
    "-2**70": -(2**70),
    "0.5": 0.5,
    "1.0": 1.0,
    "nan": math.nan,
    "inf": math.inf,
    "1e300": 1e300,
    "a fraction": fractions.Fraction(1, 3),
    "empty text": "",
    "nul": "\0",
    "text": "no such thing",
    "surrogate": "\ud83d",
    "long text": "a" * 5000,
    "newline": "a\nb",
    "()": (),
    "[[]]": [[]],
    "ragged": [[1, 2], [3]],
    "mixed": [1, "a", None],
    "text list": ["a", "b"],
    "list of None": [None],
    "list of -1": [-1],
    "twice": [1, 1],
    "list of floats": [0.5, 1.5],
    "list of 2**70": [2**70],
    "list of True": [True],
    "dict": {"a": 1},
    "{}": {},
    "chat of nothing": [{}],
    "chat of None": [{"role": None, "content": None}],
    "chat of 5": [{"role": "user", "content": 5}],
    "slice of floats": slice(0.5, 1.5),
    "slice of step 0": slice(0, 2, 0),
    "slice of texts": slice("a", "b"),
    "slice": slice(None),
    "empty slice": slice(3, 3),
    "range": range(2),
    "empty range": range(0),
    "huge range": range(2**40),
    "ellipsis": ...,
    "class": int,
    "exception": ValueError("x"),
    "path": Path("/no/such/folder/file"),
    "root": Path("/"),
}
"""Values that may mean something in some places."""

NOWHERE: dict[str, Callable[[], Any]] = {
    "complex": lambda: 1 + 2j,
    "bytes": lambda: b"ab",
    "no bytes": lambda: b"",
    "bytearray": lambda: bytearray(b"ab"),
    "object": Anything,
    "lambda of 3": lambda: lambda a, b, c: None,
    "masked": lambda: np.ma.masked_array([1, 2], mask=[True, False]),
    "masked floats": lambda: np.ma.masked_array(np.ones((2, 3)), mask=np.eye(2, 3, dtype=bool)),
    "objects": lambda: np.array([object(), None], dtype=object),
    "complex array": lambda: np.array([1 + 2j]),
    "mx complex": lambda: mx.array([1 + 2j]),
    "dates": lambda: np.array(["2020-01-01"], dtype="datetime64[D]"),
    "records": lambda: np.zeros(2, dtype=[("a", int), ("b", float)]),
    "recursive": recursive,
    "deep": lambda: nested(60),
    "deeper than the stack": lambda: nested(5000),
    "memory": lambda: memoryview(b"ab"),
}
"""Values that mean nothing anywhere."""

ARRAYS: dict[str, Callable[[], Any]] = {
    "texts array": lambda: np.array(["a", "b"]),
    "0-d": lambda: np.array(1),
    "0-d float": lambda: np.array(0.5),
    "empty array": lambda: np.zeros(0),
    "empty ints": lambda: np.zeros(0, int),
    "int array": lambda: np.array([0, 1]),
    "bool array": lambda: np.array([True, False]),
    "float array": lambda: np.array([0.5, 1.5]),
    "float16": lambda: np.ones((2, 3), np.float16),
    "nan array": lambda: np.array([np.nan, 1.0]),
    "inf array": lambda: np.full((1, 6, 64), np.inf),
    "5-d": lambda: np.zeros((1, 1, 1, 1, 1)),
    "uint64": lambda: np.array([2**63 + 5], np.uint64),
    "mx 0-d": lambda: mx.array(1),
    "mx ints": lambda: mx.array([0, 1]),
    "mx floats": lambda: mx.array([0.5, 1.0]),
    "mx bools": lambda: mx.array([True, False]),
    "mx nan": lambda: mx.array([float("nan")]),
    "mx empty": lambda: mx.zeros((0, 3)),
    "mx half": lambda: mx.zeros((1, 6, 64), mx.bfloat16),
    "mx inf": lambda: mx.full((1, 6, 64), math.inf),
    "np.int64": lambda: np.int64(1),
    "np.float32": lambda: np.float32(0.5),
    "np.bool": lambda: np.bool_(True),
    "np.str": lambda: np.str_("resid_post"),
    "set": lambda: {1, 2},
    "frozenset": frozenset,
    "used up": used_up,
    "generator": lambda: (number for number in [0, 1]),
    "endless text list": lambda: ["a"] * 1000,
    "zip": lambda: zip([0, 1], [0, 1], strict=True),
}

HOSTILE: list[Hostile] = [
    *(Hostile(name, fixed(value)) for name, value in PLAIN.items()),
    *(Hostile(name, lambda valid, make=make: make()) for name, make in ARRAYS.items()),
    *(Hostile(name, lambda valid, make=make: make(), refused=True) for name, make in NOWHERE.items()),
]


def values_near(valid: Any) -> list[Hostile]:
    """Values made of the valid one: what means the same, and what is nearly it."""
    if isinstance(valid, bool):
        return [Hostile("np.bool of it", np.bool_, same=True)]
    if isinstance(valid, int):
        return _of_int(valid)
    if isinstance(valid, float):
        return [
            Hostile("np.float64 of it", np.float64, same=True),
            Hostile("True for a number", fixed(True), refused=True),
            Hostile("nan for a number", fixed(math.nan), refused=True),
            Hostile("text of a number", str, refused=True),
        ]
    if isinstance(valid, str):
        return [
            Hostile("Str of it", Str, same=True),
            Hostile("np.str of it", np.str_, same=True),
            Hostile("bytes of it", str.encode, refused=True),
            Hostile("upper case", str.upper),
            Hostile("with blanks", lambda text: f" {text} "),
        ]
    if isinstance(valid, list | tuple):
        return _of_list(valid)
    if isinstance(valid, np.ndarray) and valid.dtype.kind == "f":
        return [
            Hostile("masked of it", lambda array: np.ma.masked_array(array, mask=np.ones(array.shape)), refused=True),
            Hostile("complex of it", lambda array: array + 1j, refused=True),
            Hostile("objects of it", lambda array: array.astype(object), refused=True),
            Hostile("transposed", np.transpose),
            Hostile("one axis more", lambda array: array[None]),
        ]
    if isinstance(valid, mx.array):
        return [
            Hostile("masked of it", lambda array: np.ma.masked_array(np.array(array), mask=True), refused=True),
            Hostile("complex of it", lambda array: array.astype(mx.complex64), refused=True),
            Hostile("half of it", lambda array: array.astype(mx.float16)),
            Hostile("one axis more", lambda array: array[None]),
            Hostile("nan in it", lambda array: array.astype(mx.float32) * math.nan),
        ]
    return []


def _of_int(valid: int) -> list[Hostile]:
    return [
        Hostile("np.int64 of it", np.int64, same=True),
        Hostile(
            "np.uint8 of it", lambda number: np.uint8(number) if 0 <= number < 256 else np.int64(number), same=True
        ),
        Hostile("Int of it", Int, same=True),
        Hostile("float of it", float, refused=True),
        Hostile("0.5 for a whole number", fixed(0.5), refused=True),
        Hostile("True for a whole number", fixed(True), refused=True),
        Hostile("np.bool for a whole number", fixed(np.bool_(True)), refused=True),
        Hostile("text of a whole number", str),
        Hostile("bytes for a whole number", lambda number: bytes([abs(number) % 256]), refused=True),
    ]


def _of_list(valid: list | tuple) -> list[Hostile]:
    values = [
        Hostile("iterator of it", iter, same=True),
        Hostile("generator of it", lambda entries: (entry for entry in entries), same=True),
        Hostile("other sequence", lambda entries: list(entries) if isinstance(entries, tuple) else tuple(entries)),
        Hostile(
            "masked of its length",
            lambda entries: np.ma.masked_array(np.zeros(len(entries), int), mask=True),
            refused=True,
        ),
        Hostile("with None", lambda entries: [*entries, None]),
        Hostile("with an object", lambda entries: [*entries, Anything()]),
        Hostile("twice over", lambda entries: [*entries, *entries]),
        Hostile("nothing", lambda entries: type(entries)()),
        Hostile("a list of it", lambda entries: [entries]),
        Hostile("first twice", lambda entries: [entries[0], entries[0]]),
    ]
    if all(type(entry) is int for entry in valid):
        values += [
            Hostile("ints with True", lambda entries: [True, *entries[1:]], refused=True),
            Hostile("ints as floats", lambda entries: [float(entry) for entry in entries], refused=True),
            Hostile("ints as np.int64", lambda entries: [np.int64(entry) for entry in entries], same=True),
            Hostile("ints as bytes", lambda entries: bytes(abs(entry) % 256 for entry in entries), refused=True),
            Hostile("ints as objects", lambda entries: np.array(entries, object), refused=True),
            Hostile("ints of 2**70", lambda entries: [2**70, *entries[1:]], refused=True),
        ]
    if len(valid) == 1 and isinstance(valid[0], list) and isinstance(valid[0][0], int):
        values += [
            Hostile("prompt with True", lambda entries: [[True, *entries[0][1:]]], refused=True),
            Hostile("prompt of floats", lambda entries: [[float(entry) for entry in entries[0]]], refused=True),
            Hostile("prompt as bytes", lambda entries: bytes(entries[0]), refused=True),
            Hostile("prompts as bytes", lambda entries: [bytes(entries[0])], refused=True),
            Hostile("prompt with 2**70", lambda entries: [[2**70, *entries[0][1:]]], refused=True),
            Hostile("prompt masked", lambda entries: np.ma.masked_array(entries, mask=True), refused=True),
            Hostile("prompt of None", lambda entries: [[None, *entries[0][1:]]], refused=True),
        ]
    return values
