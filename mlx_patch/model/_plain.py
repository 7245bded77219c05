"""Calls of the model itself, which mlx_patch does not set up: what is refused in them, and what is warned of."""

from collections.abc import Callable
from typing import Any
from warnings import warn

from mlx_patch.architectures import Layout
from mlx_patch.engine import ForwardPass, offset_of, refuse_misfit
from mlx_patch.errors import UncachedWarning
from mlx_patch.model._room import refuse_unlearned


def check_call(layout: Layout, tokens: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Check a call of the model with its own arguments.

    Raises:
        ValueRefusedError: It goes beyond the positions that the model has learned.
    Warns:
        UncachedWarning: The model is itself only over a prompt cache, and is given none.
    """
    cache = kwargs.get("cache", args[0] if args else None)
    if layout.n_positions:
        refuse_unlearned(layout, offset_of(cache) + tokens.shape[-1])
    if cache is None:
        _warn_uncached(layout, stacklevel=4)


def check_pass(layout: Layout) -> Callable[[ForwardPass], None]:
    """What checks each forward pass of a model, as `check_call` does, once it begins; and each new prompt cache."""
    last: Any = None

    def check(now: ForwardPass) -> None:
        nonlocal last
        if now.prompt_cache is not None and now.prompt_cache is not last:
            refuse_misfit(layout.model, now.prompt_cache, None)
        last = now.prompt_cache
        refuse_unlearned(layout, now.offset + now.length)
        if not now.cached:
            _warn_uncached(layout, stacklevel=6)

    return check


def _warn_uncached(layout: Layout, stacklevel: int) -> None:
    if layout.family.cached:
        warn(
            f"{layout.family.name} was called without a prompt cache: layers that share keys and values then use keys "
            "of their own, and the logits are not those of `model.run(tokens)`, which makes a prompt cache. "
            "Write `model.run(tokens)`, or pass `cache=mlx_lm.models.cache.make_prompt_cache(model.model)`.",
            UncachedWarning,
            stacklevel,
        )
