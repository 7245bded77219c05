"""Checks of calls that mlx_patch does not set up: those of the model itself, and those inside `editing`."""

from collections.abc import Callable
from typing import Any
from warnings import warn

import mlx.core as mx

from mlx_patch.architectures import Layout
from mlx_patch.engine import ForwardPass, offset_of, refuse_misfit
from mlx_patch.errors import KindError, ShapeError, UncachedWarning
from mlx_patch.model._room import refuse_unlearned


def check_call(layout: Layout, tokens: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Check a call of the model with its own arguments.

    Raises:
        ValueRefusedError: It goes beyond the positions that the model has learned.
    Warns:
        UncachedWarning: The model is itself only over a prompt cache, and is given none.
    """
    if not mx.issubdtype(tokens.dtype, mx.integer):
        raise KindError(f"`tokens` must be integers. Got {tokens.dtype}. Use `model.tokenize(text)`.")
    if tokens.ndim != 2 or not tokens.size:
        raise ShapeError(f"`tokens` must have the shape (batch, pos), and not be empty. Got {tokens.shape}.")
    cache = kwargs.get("cache")
    if args and "cache" not in kwargs:
        cache = args[0]
    if layout.n_positions:
        refuse_unlearned(layout, offset_of(cache) + tokens.shape[-1])
    if cache is None:
        _warn_uncached(layout, stacklevel=4)


def check_pass(layout: Layout) -> Callable[[ForwardPass], None]:
    """A function that checks each forward pass as it begins, as `check_call` does, and each new prompt cache."""
    last_cache: Any = None

    def check(forward_pass: ForwardPass) -> None:
        nonlocal last_cache
        prompt_cache = forward_pass.prompt_cache
        if prompt_cache is not None and prompt_cache is not last_cache:
            refuse_misfit(layout.model, prompt_cache, None)
        last_cache = prompt_cache
        refuse_unlearned(layout, forward_pass.offset + forward_pass.length)
        if not forward_pass.cached:
            _warn_uncached(layout, stacklevel=6)

    return check


def _warn_uncached(layout: Layout, stacklevel: int) -> None:
    if layout.family.cached:
        warn(
            f"{layout.family.name} was called without a prompt cache, so layers that share keys and values use keys of "
            "their own. The logits differ from those of `model.run(tokens)`, which makes a prompt cache. Write "
            "`model.run(tokens)`, or pass `cache=mlx_lm.models.cache.make_prompt_cache(model.model)`.",
            UncachedWarning,
            stacklevel,
        )
