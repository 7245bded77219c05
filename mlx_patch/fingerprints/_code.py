"""Functions and classes: their kinds, and the members that their authors wrote."""

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
"""Names that Python adds to classes, or that only describe them."""


def full_name(definition: Any) -> str:
    """The module and qualified name of a function or class."""
    name = getattr(definition, "__qualname__", None) or definition.__name__
    module = getattr(definition, "__module__", None) or ""
    return f"{module}.{name}"


def is_builtin(value: object) -> bool:
    """Whether it is a function that is not written in Python, and has nothing but a name to tell it by."""
    kind = type(value)
    return kind.__name__ in _BUILTIN or (kind.__module__ == "nanobind" and kind.__name__ in _BUILTIN_OF_MLX)


def is_memoised(value: object) -> bool:
    """Whether it is a function wrapped by `functools.cache`."""
    return isinstance(value, functools._lru_cache_wrapper)


def unchecked(function: Any) -> Any:
    """The function without beartype's wrapper, whose code holds addresses."""
    while function.__code__.co_filename.startswith("<@beartype") and hasattr(function, "__wrapped__"):
        function = function.__wrapped__
    return function


def members(cls: type) -> dict[str, Any]:
    """The members written in a class: methods, properties and values, without those that Python adds."""
    return {name: member for name, member in vars(cls).items() if _is_written(cls, name, member)}


def _is_written(cls: type, name: str, member: Any) -> bool:
    if name in _ADDED:
        return False
    if isinstance(member, GetSetDescriptorType | MemberDescriptorType) or type(member).__name__ == "_tuplegetter":
        return False
    if issubclass(cls, Enum) and (isinstance(member, cls) or name.startswith("_")):
        return False
    code = getattr(member, "__code__", None)
    is_made_by_dataclass = isinstance(code, CodeType) and code.co_qualname.startswith("__create_fn__")
    return not is_made_by_dataclass


def holds_more_than_it_shows(value: object) -> bool:
    """Whether an object has state outside Python that its attributes do not show: an open file."""
    try:
        value.__reduce_ex__(4)
    except (TypeError, NotImplementedError, AttributeError):
        return True
    return False
