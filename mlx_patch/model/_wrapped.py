"""Arguments that must be a wrapped model."""

from typing import Any

import mlx.nn as nn

from mlx_patch.errors import KindError
from mlx_patch.model._hooked import HookedModel


def require_hooked(argument: str, model: Any, also: str = "") -> HookedModel:
    """The model that a caller gave.

    Args:
        argument: Its name, for the message.
        model: What came.
        also: What else the argument takes.
    Raises:
        KindError: It is not wrapped.
    """
    if isinstance(model, HookedModel):
        return model
    raise KindError(f"`{argument}` must be a HookedModel{also}. Got {_kind(model)}. {_remedy(argument, model)}")


def _kind(model: Any) -> str:
    kind = type(model)
    return f"{kind.__name__} of {kind.__module__}" if isinstance(model, nn.Module) else kind.__name__


def _remedy(argument: str, model: Any) -> str:
    if isinstance(model, nn.Module):
        return f"Wrap it: mp.HookedModel({argument}, tokenizer)."
    return "Load one with mp.HookedModel.load(path), or wrap one of mlx_lm's: mp.HookedModel(model, tokenizer)."
