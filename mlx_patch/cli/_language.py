"""The language of the command line: the expressions of Python's calls, without Python.

An expression is numbers, texts, lists, the names of a table, and calls of these. Two things are written shorter than in
Python: `3-7` is a range with both ends, and `3+4` is a group of places that are patched together.
"""

import ast
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from mlx_patch.errors import PatchError, UnknownNameError, ValueRefusedError, brief, did_you_mean, shown

_PREFIXES = ("mp.metrics.", "mp.pos.", "mp.", "pos.")
"""What Python writes before a name, which may be left out."""

_ATTRIBUTES = ("at", "via", "during", "first", "final")
"""Attributes of values that an expression may use."""


_LONGEST_RANGE = 10**6
"""More places than any model has along an axis."""


@dataclass(frozen=True)
class Maker:
    """A function that an expression may call. A name alone is a call without arguments."""

    function: Callable[..., Any]


@dataclass(frozen=True)
class Language:
    """Names, and the option whose texts use them.

    Attributes:
        option: The option, for messages: `--metric`.
        noun: What it takes, for messages: "a metric".
        names: By name, a value, or a `Maker` of one.
    """

    option: str
    noun: str
    names: Mapping[str, Any]

    def read(self, text: str) -> Any:
        """The value of an expression.

        Raises:
            ValueRefusedError: It is no expression of this language.
            UnknownNameError: A name is not known.
            PatchError: As what it calls.
        """
        try:
            tree = ast.parse(text.strip(), mode="eval").body
        except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
            raise self._refused(text) from error
        return _Reading(self, text).value(tree)

    def _refused(self, text: str) -> ValueRefusedError:
        return ValueRefusedError(f"`{self.option}` must be {self.noun}. Got {brief(text)}. See `--help`.")


@dataclass(frozen=True)
class _Reading:
    """One text that is being read."""

    language: Language
    text: str

    def value(self, node: ast.AST) -> Any:
        """The value of a part of the expression, made."""
        value = self._part(node)
        if isinstance(value, Maker):
            return self._call(value, (), {})
        return value

    def _part(self, node: ast.AST) -> Any:
        match node:
            case ast.Constant(value=int() | float() | str() | None as constant):
                return constant
            case ast.List(elts=elements):
                return [self.value(element) for element in elements]
            case ast.Tuple(elts=elements):
                return tuple(self.value(element) for element in elements)
            case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as number)):
                return -number
            case ast.Name() | ast.Attribute():
                return self._name_or_attribute(node)
            case ast.Call(func=function, args=arguments, keywords=keywords):
                return self._call_of(function, arguments, keywords)
            case ast.BinOp(left=first, op=operator, right=second):
                return self._joined(self.value(first), operator, self.value(second))
        raise self.refused

    @property
    def refused(self) -> ValueRefusedError:
        """The error for an expression that is none of this language."""
        return self.language._refused(self.text)

    def _name_or_attribute(self, node: ast.Name | ast.Attribute) -> Any:
        name = _without_prefix(ast.unparse(node))
        names = self.language.names
        if name in names:
            return names[name]
        if isinstance(node, ast.Attribute) and node.attr in _ATTRIBUTES:
            value = self.value(node.value)
            if hasattr(value, node.attr):
                attribute = getattr(value, node.attr)
                if callable(attribute) and node.attr in ("at", "via", "during"):
                    return Maker(attribute)
                return attribute
        raise UnknownNameError(
            f"`{self.language.option}` must be {self.language.noun}. Got {shown(name)}. {did_you_mean(name, names)}"
        )

    def _call_of(self, function: ast.expr, arguments: list[ast.expr], keywords: list[ast.keyword]) -> Any:
        called = self._part(function)
        if not isinstance(called, Maker):
            raise self.refused
        named = {keyword.arg: self.value(keyword.value) for keyword in keywords if keyword.arg}
        if len(named) < len(keywords):
            raise self.refused
        return self._call(called, tuple(self.value(argument) for argument in arguments), named)

    def _call(self, maker: Maker, arguments: tuple[Any, ...], named: Mapping[str, Any]) -> Any:
        try:
            return maker.function(*arguments, **named)
        except PatchError:
            raise
        except (TypeError, ValueError) as error:  # too few arguments, or others than it has
            reason = str(error).replace("__init__()", self.text).replace("<lambda>()", self.text)
            raise ValueRefusedError(
                f"`{self.language.option}` must be {self.language.noun}. Got {brief(self.text)}: {reason}. "
                "See `--help`."
            ) from error

    def _joined(self, first: Any, operator: ast.operator, second: Any) -> Any:
        if _is_places(first) and _is_places(second):
            return self._places(first, operator, second)
        try:
            match operator:
                case ast.BitOr():
                    return first | second
                case ast.Add():
                    return first + second
                case ast.Sub():
                    return first - second
        except PatchError:
            raise
        except TypeError as error:
            raise self.refused from error
        raise self.refused

    def _places(self, first: Any, operator: ast.operator, second: Any) -> Any:
        """`3-7`, a range with both ends; `3+4`, a group."""
        if isinstance(operator, ast.Add):
            return (*_as_group(first), *_as_group(second))
        is_range = isinstance(operator, ast.Sub) and isinstance(first, int) and isinstance(second, int)
        if not is_range or first > second or (first < 0) != (second < 0) or second - first > _LONGEST_RANGE:
            raise self.refused
        return range(first, second + 1)


def _without_prefix(name: str) -> str:
    for prefix in _PREFIXES:
        if name.startswith(prefix):
            return name.removeprefix(prefix)
    return name


def _is_places(value: object) -> bool:
    if isinstance(value, tuple):
        return all(_is_places(member) for member in value)
    return isinstance(value, int | range) and not isinstance(value, bool)


def _as_group(places: Any) -> tuple[int, ...]:
    if isinstance(places, int):
        return (places,)
    return tuple(places)


def read_choices(language: Language, text: str | None) -> list[Any] | None:
    """The places of a text such as `3-7,9`: a list, with tuples for groups; None where there is no text.

    Example:
        >>> read_choices(Language("--layers", "layers", {}), "3-5,9,0+1")
        [3, 4, 5, 9, (0, 1)]
    """
    if text is None:
        return None
    value = language.read(text)
    if isinstance(value, tuple) and _has_comma(text):
        members = value
    else:
        members = (value,)
    choices: list[Any] = []
    for member in members:
        if isinstance(member, range):
            choices.extend(member)
        else:
            choices.append(member)
    return choices


def _has_comma(text: str) -> bool:
    """Whether a text is several choices, and not one group."""
    return isinstance(ast.parse(text.strip(), mode="eval").body, ast.Tuple)
