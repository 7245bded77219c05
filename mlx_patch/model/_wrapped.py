"""Arguments that must be a wrapped model."""

from typing import Any

import mlx.nn as nn

from mlx_patch.errors import KindError
from mlx_patch.model._hooked import HookedModel


def require_hooked(argument: str, model: Any, also: str = "") -> HookedModel:
    """The model, if it is wrapped.

    Args:
        argument: The argument's name, for the message.
        model: The value that a caller gave.
        also: Other kinds of values that the argument takes.
    Raises:
        KindError: It is not wrapped.
    """
    if isinstance(model, HookedModel):
        return model
    kind, remedy = _kind(model), _remedy(argument, model)
    raise KindError(f"`{argument}` must be a HookedModel{also}. Got {kind}. {remedy}")


def _kind(model: Any) -> str:
    kind = type(model)
    if isinstance(model, nn.Module):
        return f"{kind.__name__} of {kind.__module__}"
    return kind.__name__


def _remedy(argument: str, model: Any) -> str:
    if isinstance(model, nn.Module):
        return f"Wrap it: mp.HookedModel({argument}, tokenizer)."
    return "Load one with mp.HookedModel.load(path), or wrap one of mlx_lm's: mp.HookedModel(model, tokenizer)."
