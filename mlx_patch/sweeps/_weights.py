"""What a model's modules and weights are, in a few hex digits, for little more than one reading of the weights."""

from hashlib import blake2b
from typing import cast

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten

_PLAIN = (type(None), bool, int, float, str)


def checksum(model: nn.Module) -> str:
    """32 hex digits that differ where two models compute differently: base and tuned, with and without adapters.

    Every module counts by class, mode and plain attributes, an adapter's scale among them. Every parameter counts by
    name, dtype, shape, and the sums of its bits along rows and along columns, as integers of 16 bits (8 where numbers
    have 8) that wrap at 32: to change a weight changes a row's sum and a column's, to exchange two rows as well. It is
    made to tell models apart, not to withstand somebody who wants two to look alike. What begins with an underscore
    is left out, as in `model.parameters()`: modules keep there what they have worked out.

    Example:
        >>> one, other = nn.Linear(4, 4), nn.Linear(4, 4)
        >>> checksum(one) == checksum(other), checksum(one) == checksum(other.update(one.parameters()))
        (False, True)
    """
    whole = blake2b(digest_size=16)
    for path, module in sorted(model.named_modules(), key=lambda pair: pair[0]):
        whole.update(repr((path, type(module).__qualname__, module.training, _plain(module))).encode())
    named = cast("list[tuple[str, mx.array]]", tree_flatten(model.parameters()))
    found = [(path, array, _sums(array)) for path, array in sorted(named, key=lambda pair: pair[0])]
    mx.eval([sums for _, _, sums in found])
    for path, array, sums in found:
        whole.update(repr((path, str(array.dtype), array.shape)).encode())
        for one in sums:
            whole.update(np.array(one).tobytes())
    return whole.hexdigest()


def _plain(module: nn.Module) -> list[tuple[str, object]]:
    return sorted((n, v) for n, v in vars(module).items() if type(v) in _PLAIN and not n.startswith("_"))


def _sums(array: mx.array) -> list[mx.array]:
    if not array.size:
        return []
    rows = array.reshape(-1, array.shape[-1] if array.ndim else 1)
    bits = rows.view(mx.uint8 if array.dtype.size == 1 else mx.uint16)
    return [mx.sum(bits, axis=axis).astype(mx.uint32) for axis in (0, 1)]
