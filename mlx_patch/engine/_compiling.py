"""Whether `mx.compile` is switched on; MLX has no function for it."""

from collections.abc import Callable

import mlx.core as mx


def is_compiling() -> bool:
    """Whether `mx.compile` compiles; `mx.disable_compile` or the environment may have switched it off."""
    calls: list[int] = []

    def counted(x: mx.array) -> mx.array:
        calls.append(1)
        return x

    function: Callable[[mx.array], mx.array] = mx.compile(counted)
    function(mx.zeros(()))
    function(mx.zeros(()))
    return len(calls) == 1
