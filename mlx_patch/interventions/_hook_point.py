"""`HookPoint`: a site in the form that functions written for TransformerLens expect."""

from collections.abc import Callable
from functools import lru_cache
from inspect import Parameter, signature
from typing import Any

import mlx.core as mx
from typing_extensions import override

from mlx_patch.sites import Site


class Layer(int):
    """The number of a block, which can also be called: TransformerLens writes `hook.layer()`.

    Example:
        >>> Layer(3), Layer(3)(), Layer(3) == 3
        (3, 3, True)
    """

    def __call__(self) -> int:
        """The number."""
        return int(self)


class HookPoint(Site):
    """A site whose `name` is TransformerLens's, the full one, and whose `layer` may be called.

    It equals its site and stands for it everywhere, `cache[hook]` and `cache[hook.name]` too. `hook.plain` is the site,
    with the short name.

    Example:
        >>> hook = HookPoint(Site("mlp_out", 3))
        >>> hook.name, hook.layer(), hook.layer, hook == Site("mlp_out", 3), hook.plain.name
        ('blocks.3.hook_mlp_out', 3, 3, True, 'mlp_out')
    """

    def __init__(self, site: Site) -> None:
        object.__setattr__(self, "_site", site.plain)
        object.__setattr__(self, "name", str(site))
        object.__setattr__(self, "layer", None if site.layer is None else Layer(site.layer))

    @property
    @override
    def plain(self) -> Site:
        return self.__dict__["_site"]

    @property
    @override
    def is_raw(self) -> bool:
        return self.plain.is_raw

    @property
    @override
    def axes(self) -> tuple[str, ...]:
        return self.plain.axes

    @override
    def __str__(self) -> str:
        return str(self.plain)

    @override
    def __repr__(self) -> str:
        return repr(self.plain)

    @override
    def __eq__(self, other: object) -> bool:
        return isinstance(other, Site) and self.plain == other.plain

    @override
    def __hash__(self) -> int:
        return hash(self.plain)

    @override
    def __reduce__(self) -> tuple[Any, ...]:
        return HookPoint, (self.plain,)


def call_hook(function: Callable[..., Any], activation: mx.array, site: Site) -> Any:
    """Call a function with an activation and its site, or as `fn(activation, hook=point)` if it has a `hook` parameter.

    TransformerLens passes hooks by that name, so a function that has it was written for a `HookPoint`, and a function
    without it for a `Site`.
    """
    if _expects_hook(function):
        return function(activation, hook=HookPoint(site))
    return function(activation, site)


def _expects_hook(function: Callable[..., Any]) -> bool:
    try:
        return _has_hook_parameter(function)
    except (TypeError, ValueError):  # it has no signature, or cannot be hashed
        return False


@lru_cache(maxsize=64)
def _has_hook_parameter(function: Callable[..., Any]) -> bool:
    parameter = signature(function).parameters.get("hook")
    return parameter is not None and parameter.kind in (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)
