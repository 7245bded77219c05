"""Metrics by name: the decorator that registers one, the look-up, and what may stand for a metric."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar, overload

import mlx.core as mx
from typing_extensions import override

from mlx_patch import arguments
from mlx_patch.errors import KindError, UnknownNameError, ValueRefusedError, did_you_mean, shown

from ._base import Metric
from ._distributions import Entropy
from ._making import from_object, maker
from ._plugins import distribution, load_plugins, offer_of, offered_names

_MetricClass = TypeVar("_MetricClass", bound=type[Metric])


@dataclass(frozen=True)
class _Entry:
    """A registered name.

    Attributes:
        make: Makes the metric.
        source: Equal for equal metrics: a module and qualified name, or a `Metric` itself.
        module: The module of its function or class; empty if unknown.
    """

    make: Callable[[], Metric]
    source: object
    module: str = ""


_ENTRIES: dict[str, _Entry] = {}


@dataclass(frozen=True)
class _Register:
    """The decorator that `metric("...")` returns: it registers a metric."""

    name: str

    @overload
    def __call__(self, obj: _MetricClass) -> _MetricClass: ...  # pyright: ignore[reportOverlappingOverload]
    @overload
    def __call__(self, obj: Metric | Callable[[mx.array], object]) -> Metric: ...
    @overload
    def __call__(self, obj: Callable[[], Metric]) -> Metric: ...
    def __call__(self, obj: object) -> object:
        entry = _entry(self.name, obj)
        _refuse_taken(self.name, entry)
        _ENTRIES[self.name] = entry
        if isinstance(obj, type):
            return obj
        return entry.make()

    @override
    def __repr__(self) -> str:
        return f"metric({self.name!r})"


def metric(name: str) -> _Register:
    """A decorator that registers a metric under a name, by which `named`, sweeps and the command line find it.

    It takes a function of logits, a `Metric` class that can be made without arguments, a `Metric`, or a function of
    no arguments that makes one. A function comes back as a `Metric`, which is called as before; a class as itself.
    Running a notebook's cell again replaces what it registered.

    Args:
        name: A name that nothing else has.
    Raises:
        ValueRefusedError: The name is taken, or empty.
        KindError: It is none of these.
    Example:
        >>> @metric("doctest_top_logit")
        ... def top_logit(logits):
        ...     return logits[:, -1].max(axis=-1)
        >>> top_logit(mx.array([[[0.0, 2.0]]])).tolist(), named("doctest_top_logit") == top_logit
        ([2.0], True)
    """
    name = arguments.string("name", name, "Write `@metric('my_metric')`.")
    if not name.strip():
        raise ValueRefusedError(f"`name` must not be empty. Got {shown(name)}.")
    return _Register(name)


def named(name: str) -> Metric:
    """The metric registered under a name, or offered under it by an installed package.

    Raises:
        UnknownNameError: Nothing has the name; the message has the nearest ones.
        MissingExtraError: The package that offers it cannot be imported.
        ValueRefusedError: Several packages offer it.
        KindError: What the package offers is no metric.
    Example:
        >>> named("entropy")
        Entropy()
    """
    name = arguments.string("name", name)
    if name not in _ENTRIES:
        _ENTRIES.setdefault(name, _entry_of_plugin(name))
    return _ENTRIES[name].make()


def registered() -> tuple[str, ...]:
    """Every name that `named` knows, sorted. Installed packages are not imported.

    Example:
        >>> "entropy" in registered()
        True
    """
    return tuple(sorted({*_ENTRIES, *offered_names()}))


def as_metric(obj: object) -> Metric:
    """The metric of a `Metric`, a function of logits, or a registered name.

    Raises:
        KindError: It is none of these.
        UnknownNameError: Nothing has the name.
    Example:
        >>> as_metric("entropy"), as_metric(Entropy())
        (Entropy(), Entropy())
    """
    if isinstance(obj, str):
        return named(obj)
    return from_object(obj)


def _entry(name: str, obj: object) -> _Entry:
    source = obj
    if callable(obj):
        source = inspect.unwrap(obj)
    if isinstance(source, Metric):
        return _Entry(maker(name, obj), source)
    module = getattr(source, "__module__", "")
    qualified_name = getattr(source, "__qualname__", repr(source))
    return _Entry(maker(name, obj), (module, qualified_name), module)


def _entry_of_plugin(name: str) -> _Entry:
    point = None
    if isinstance(name, str):
        point = offer_of(name)
    if point is None:
        near = did_you_mean(str(name), registered())
        raise UnknownNameError(f"`name` must be a registered metric. Got {shown(name)}. {near}")
    offered = load_plugins(point)
    if name in _ENTRIES:  # importing it has registered it
        return _ENTRIES[name]
    try:
        return _entry(name, offered)
    except KindError as error:
        raise KindError(f"{error} It is {point.value} of the package {distribution(point)}.") from error


def _refuse_taken(name: str, entry: _Entry) -> None:
    registered = _ENTRIES.get(name)
    if registered is not None:
        if registered.source != entry.source:
            raise ValueRefusedError(f"`name` must not be taken already. Got {shown(name)}. Choose another.")
        return
    if not entry.module:
        return
    point = offer_of(name)
    if point is not None and _package(entry.module) != _package(point.module):
        raise ValueRefusedError(
            f"`name` must not be taken already. Got {shown(name)}, which the package {distribution(point)} "
            "offers. Choose "
            "another, or uninstall that package."
        )


def _package(module: str) -> str:
    return module.partition(".")[0]


metric("entropy")(Entropy)
