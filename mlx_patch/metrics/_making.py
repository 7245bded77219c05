"""Conversion of functions, classes and values to metrics."""

import copy
import inspect
from collections.abc import Callable

from mlx_patch.errors import KindError, shown

from ._base import Metric
from ._function import FunctionMetric
from ._top import TopK


def from_object(obj: object) -> Metric:
    """The metric itself, or one that calls a function of logits.

    Raises:
        KindError: It is neither.
    """
    if isinstance(obj, Metric):
        return obj
    if isinstance(obj, TopK):
        raise KindError("`metric` must give one number per example. Got TopK, which gives labels. Call it on logits.")
    if isinstance(obj, type):
        raise KindError(f"`metric` must be a value. Got the class {obj.__name__}. Write `{obj.__name__}(...)`.")
    if not callable(obj):
        raise KindError(
            f"`metric` must be a Metric, a function of logits, or a registered name. Got {type(obj).__name__}: "
            f"{shown(obj)}."
        )
    if not _accepts(obj, 1):
        raise KindError(
            f"`metric` must be a function of logits alone. Got {_function_name(obj)}{inspect.signature(obj)}. "
            "Give its other parameters defaults, or bind them with functools.partial."
        )
    return FunctionMetric(obj)


def maker(name: str, obj: object) -> Callable[[], Metric]:
    """A function that makes the metric that an object stands for, labelled with a name.

    Raises:
        KindError: The object stands for no metric, or needs arguments to make one.
    """
    if isinstance(obj, type):
        return _class_maker(name, obj)
    if callable(obj) and not _accepts(obj, 1) and _accepts(obj, 0):
        return lambda: _labelled(name, obj())
    metric = _labelled(name, from_object(obj))
    return lambda: metric


def _class_maker(name: str, cls: type) -> Callable[[], Metric]:
    if not issubclass(cls, Metric) or not _accepts(cls, 0):
        raise KindError(
            f"A class registered as {name!r} must be a Metric that needs no arguments. Got {cls.__qualname__}. Give "
            "its fields defaults, or register an instance."
        )
    return lambda: _labelled(name, cls())


def _labelled(name: str, metric: object) -> Metric:
    """A copy of the metric with another name."""
    if not isinstance(metric, Metric):
        raise KindError(
            f"A registered function without arguments must return a Metric. Got {shown(metric)} from {name!r}."
        )
    labelled = copy.copy(metric)
    object.__setattr__(labelled, "name", name)
    return labelled


def _accepts(function: Callable[..., object], n: int) -> bool:
    """Whether a call with n positional arguments fits; True where Python cannot tell."""
    try:
        signature = inspect.signature(function)
    except ValueError:
        return True
    try:
        signature.bind(*range(n))
    except TypeError:
        return False
    return True


def _function_name(function: Callable[..., object]) -> str:
    return getattr(function, "__qualname__", repr(function))
