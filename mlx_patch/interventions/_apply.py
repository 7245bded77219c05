"""`Apply`: a function of your own."""

from collections.abc import Callable
from dataclasses import dataclass

import mlx.core as mx
from typing_extensions import override

from mlx_patch.errors import KindError
from mlx_patch.interventions._base import Intervention
from mlx_patch.interventions._hook_point import call_hook
from mlx_patch.interventions._where import Where
from mlx_patch.sites import Site

EditFunction = Callable[[mx.array, Site], mx.array]


@dataclass(frozen=True, repr=False)
class Apply(Intervention):
    """`fn(activation, site)`, of the picked part.

    It is given a handle of its own, so that `activation[:, 0] = 0` in it changes nothing else; it returns the new
    activation, as TransformerLens's hooks do. What it returns is checked, and cast to the activation's dtype.

    A function with a parameter `hook`, as TransformerLens wants it, is given one: `hook.name` is the full name,
    `hook.layer()` the block. It equals the `Site`.

    Args:
        fn: From an array with the axes of the site, and the site, to an array of that shape or one that broadcasts
            to it. It must not evaluate: a run is lazy.
        name: What to call it; None is the function's own name.
    Raises:
        KindError: `fn` cannot be called, or (when it runs) does not return an array.
    Example:
        >>> Apply(lambda activation, site: mx.sin(activation), name="sine").at("mlp_out", layer=2)
        Apply(sine).at('mlp_out', layer=2)
    """

    fn: EditFunction
    name: str | None = None

    def __post_init__(self) -> None:
        if not callable(self.fn):
            raise KindError(f"`fn` must be a function of an activation and its site. Got {type(self.fn).__name__}.")
        if not isinstance(self.name, str | None):
            raise KindError(f"`name` must be a str or None. Got {type(self.name).__name__}.")

    @property
    @override
    def by_position(self) -> bool:
        return True

    @override
    def __call__(self, own: mx.array, where: Where) -> mx.array:
        return call_hook(self.fn, own, where.site)

    @override
    def __repr__(self) -> str:
        return f"Apply({self.name or getattr(self.fn, '__name__', repr(self.fn))})"
