"""One forward pass of the model under hooks, over a prompt cache or without one."""

from collections.abc import Sequence
from typing import Any

import mlx.core as mx

from mlx_patch.architectures import Layout
from mlx_patch.engine import Frame, Hook, offset_of
from mlx_patch.model import refuse_no_room


def forward(layout: Layout, tokens: mx.array, hooks: Sequence[Hook], caches: list[Any] | None) -> mx.array:
    """The logits of some tokens, unevaluated. Shape `(batch, pos, d_vocab)`, or fewer positions if a hook slices.

    Raises:
        ValueRefusedError: One layer of it does not fit into the memory of this machine.
    """
    refuse_no_room(layout, tokens, offset_of(caches))
    with Frame(layout.model, hooks):
        if caches is None:
            return layout.model(tokens)
        return layout.model(tokens, cache=caches)
