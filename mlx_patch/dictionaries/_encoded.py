"""`Encoded`: the features of another run, as a source of values; and interventions that read such sources."""

from collections.abc import Callable
from copy import copy
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import mlx.core as mx
from typing_extensions import override

from mlx_patch.interventions import ActivationSource, Chain, Intervention
from mlx_patch.interventions.sources import SourceView

Encode = Callable[[mx.array], mx.array]
"""From an activation to some features. Shape `(batch, pos, ...)` to `(batch, pos, feature)`."""


@dataclass(frozen=True, eq=False, repr=False)
class Encoded(SourceView):
    """The features of activations, read by site and position as the activations are.

    Args:
        source: The activations.
        encode: What gives their features.
    """

    encode: Encode

    def __getitem__(self, key: Any, /) -> mx.array:
        return self.encode(self.source[key])

    def __contains__(self, key: object, /) -> bool:
        return key in self.source

    @override
    def __repr__(self) -> str:
        return f"features of {self.source!r}"


def with_encoded(intervention: Intervention, encode: Encode) -> Intervention:
    """The intervention with the features of its caches in place of the caches. Arrays stay: they hold features.

    Args:
        intervention: Any one. Fields of a dataclass are looked at; what else it holds stays.
        encode: What gives the features of an activation.
    """
    if isinstance(intervention, Chain):
        return Chain(tuple(with_encoded(step, encode) for step in intervention.steps))
    if not is_dataclass(intervention):
        return intervention
    encoded = copy(intervention)
    for field in fields(intervention):
        value = getattr(intervention, field.name)
        if isinstance(value, ActivationSource) and not isinstance(value, mx.array):
            object.__setattr__(encoded, field.name, Encoded(value, encode))
    return encoded
