"""The arguments of a model's call: tokens or embeddings, and a prompt cache, by position or by keyword."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from inspect import Parameter, signature
from typing import Any

import mlx.core as mx

from mlx_patch.tokens import refuse_traced

_BY_POSITION = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
_EMBEDDED = ("input_embeddings", "inputs_embeds")


@dataclass(frozen=True)
class CallArguments:
    """The input of one forward pass.

    Attributes:
        length: The number of positions.
        tokens: Their tokens, unless only embeddings are given. Shape `(batch, pos)`.
        prompt_cache: What holds the positions before.
    """

    length: int
    tokens: mx.array | None
    prompt_cache: Any


def call_arguments(model: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> CallArguments | None:
    """The arguments of a model's call; None without tokens and embeddings, a call that the model refuses itself.

    Raises:
        KindError: The call is inside `mx.compile` or `mx.vmap`.
    """
    names = _names(model)
    arguments = {**dict(zip(names, args, strict=False)), **kwargs}
    tokens = _tokens(names, args, arguments)
    embeddings = _embeddings(arguments)
    read = tokens if embeddings is None else embeddings
    if read is None:
        return None
    refuse_traced("tokens", read)
    return CallArguments(read.shape[1], tokens, arguments.get("cache"))


def _tokens(names: tuple[str, ...], args: tuple[Any, ...], arguments: dict[str, Any]) -> mx.array | None:
    """The first argument, whatever the model calls it."""
    tokens = None
    if args:
        tokens = args[0]
    elif names:
        tokens = arguments.get(names[0])
    return None if tokens is None else mx.array(tokens)


def _embeddings(arguments: dict[str, Any]) -> Any:
    for name in _EMBEDDED:
        if arguments.get(name) is not None:
            return arguments[name]
    return None


@lru_cache(maxsize=256)
def _names(model: Callable[..., Any]) -> tuple[str, ...]:
    """The names of its positional parameters, without `self`."""
    parameters = signature(model).parameters.values()
    positional = tuple(parameter.name for parameter in parameters if parameter.kind in _BY_POSITION)
    return positional[1:]
