"""What a model is called with: tokens or what stands for them, and a prompt cache, by place or by name."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from inspect import Parameter, signature
from typing import Any

import mlx.core as mx

from mlx_patch.tokens import refuse_traced

_BY_PLACE = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
_EMBEDDED = ("input_embeddings", "inputs_embeds")


@dataclass(frozen=True)
class CallArguments:
    """What a forward pass reads.

    Attributes:
        length: The number of positions.
        tokens: Their tokens, unless only embeddings are given. Shape `(batch, pos)`.
        prompt_cache: What holds the positions before.
    """

    length: int
    tokens: mx.array | None
    prompt_cache: Any


def given_to(model: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> CallArguments | None:
    """What a model's own code is called with; None if that is neither tokens nor embeddings, which it refuses itself.

    Raises:
        KindError: It is called inside `mx.compile` or `mx.vmap`.
    """
    names = _names(model)
    arguments = {**dict(zip(names, args, strict=False)), **kwargs}
    first = args[0] if args else arguments.get(names[0] if names else "")
    tokens = None if first is None else mx.array(first)
    embedded = next((value for name in _EMBEDDED if (value := arguments.get(name)) is not None), None)
    read = tokens if embedded is None else embedded
    if read is None:
        return None
    refuse_traced("tokens", read)
    return CallArguments(read.shape[1], tokens, arguments.get("cache"))


@lru_cache(maxsize=256)
def _names(model: Callable[..., Any]) -> tuple[str, ...]:
    """The names of what it takes by place, without `self`."""
    parameters = signature(model).parameters.values()
    return tuple(parameter.name for parameter in parameters if parameter.kind in _BY_PLACE)[1:]
