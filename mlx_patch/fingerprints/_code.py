"""Functions and classes, as far as code tells them apart: what kind they are, and what is written in them."""

import functools
from enum import Enum
from types import CodeType, GetSetDescriptorType, MemberDescriptorType
from typing import Any

_BUILTIN = ("builtin_function_or_method", "method-wrapper", "wrapper_descriptor", "method_descriptor", "ufunc")
_BUILTIN_OF_MLX = ("nb_func", "nb_method", "nb_bound_method")
_ADDED = frozenset(
    "__dict__ __weakref__ __doc__ __module__ __qualname__ __annotations__ __slots__ __dataclass_fields__ "
    "__dataclass_params__ __match_args__ __abstractmethods__ __parameters__ __orig_bases__ __type_params__ "
    "__firstlineno__ __static_attributes__ __annotate__ __annotate_func__ __annotations_cache__ __hash__ _abc_impl "
    "__final__ __protocol_attrs__ __non_callable_proto_members__".split()
)
"""What Python adds to classes, and what only describes them."""


def full_name(named: Any) -> str:
    """Where something was defined, and what it is called."""
    name = getattr(named, "__qualname__", None) or named.__name__
    return f"{getattr(named, '__module__', None) or ''}.{name}"


def is_builtin(value: object) -> bool:
    """Whether it is a function that is not written in Python, so that its name is all there is."""
    kind = type(value)
    return kind.__name__ in _BUILTIN or (kind.__module__ == "nanobind" and kind.__name__ in _BUILTIN_OF_MLX)


def is_memoised(value: object) -> bool:
    """Whether it is what `functools.cache` makes of a function."""
    return isinstance(value, functools._lru_cache_wrapper)


def unchecked(function: Any) -> Any:
    """The function without the checks of its annotations that beartype puts around it, whose code names addresses."""
    while function.__code__.co_filename.startswith("<@beartype") and hasattr(function, "__wrapped__"):
        function = function.__wrapped__
    return function


def members(cls: type) -> dict[str, Any]:
    """What is written in a class: methods, properties and values, but not what Python adds to every class."""
    return {name: member for name, member in vars(cls).items() if _is_written(cls, name, member)}


def _is_written(cls: type, name: str, member: Any) -> bool:
    if isinstance(member, GetSetDescriptorType | MemberDescriptorType) or type(member).__name__ == "_tuplegetter":
        return False
    if name in _ADDED or (issubclass(cls, Enum) and (isinstance(member, cls) or name.startswith("_"))):
        return False
    code = getattr(member, "__code__", None)
    return not isinstance(code, CodeType) or not code.co_qualname.startswith(
        "__create_fn__"
    )  # which dataclass has made


def holds_more_than_it_shows(value: object) -> bool:
    """Whether an object has a state outside of Python, of which its attributes say nothing: an open file."""
    try:
        value.__reduce_ex__(4)
    except (TypeError, NotImplementedError, AttributeError):
        return True
    return False
