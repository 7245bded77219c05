"""Plain functions of logits as metrics."""

from collections.abc import Callable
from dataclasses import dataclass

import mlx.core as mx
from typing_extensions import override

from ._base import Metric


@dataclass(frozen=True, repr=False)
class FunctionMetric(Metric):
    """A metric that calls a function, and checks what it returns.

    Args:
        function: Takes logits of shape `(batch, pos, d_vocab)`; returns floating numbers of shape `(batch,)`.
    Example:
        >>> FunctionMetric(lambda logits: logits[:, -1, 0], name="first")(mx.array([[[7.0, 1.0]]])).tolist()
        [7.0]
    """

    function: Callable[[mx.array], object]

    @override
    def __post_init__(self) -> None:
        function_name = getattr(self.function, "__name__", type(self.function).__name__)
        object.__setattr__(self, "name", self.name or function_name)
        object.__setattr__(self, "__doc__", self.function.__doc__)
        object.__setattr__(self, "__wrapped__", self.function)  # doctest and help() find the function
        super().__post_init__()

    @override
    def measure(self, logits: mx.array) -> object:
        return self.function(logits)

    @override
    def __repr__(self) -> str:
        return f"<metric {self.name}>"
