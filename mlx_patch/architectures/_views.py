"""Views: how the array of a site stands inside the array that a module reads or writes.

A view reads the site's array out of the raw one, and writes an edited one back. It is a value: head counts and
multipliers are named by their path in the block, and looked up there.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import reduce
from math import prod
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from typing_extensions import override

from mlx_patch.errors import ArchitectureError


def attribute(module: nn.Module, path: str) -> Any:
    """What stands at a dotted path under a module: `self_attn.n_heads`, `layers.3.mlp`; the module itself for "".

    Raises:
        ArchitectureError: Nothing does: the table is another architecture's.
    """
    try:
        return reduce(_child, path.split("."), module) if path else module
    except (AttributeError, IndexError):
        raise ArchitectureError(
            f"`family` must be a table of this architecture. Got one that looks for {path!r}, which is not in "
            f"{type(module).__name__} of {type(module).__module__}. Leave it out for the registered one."
        ) from None


def by_heads(raw: mx.array, *heads: int) -> mx.array:
    """The last axis split by heads: `(..., n)` seen as `(..., *heads, d_head)`.

    Raises:
        ArchitectureError: It cannot be: the table says what is not so.
    """
    if raw.shape[-1] % prod(heads):
        raise ArchitectureError(
            f"`family` must name the heads that a projection of width {raw.shape[-1]} has. Got {prod(heads)}, "
            "which do not divide it. Correct the table."
        )
    return raw.reshape(*raw.shape[:-1], *heads, -1)


def _child(parent: Any, name: str) -> Any:
    return parent[int(name)] if isinstance(parent, list | tuple) else getattr(parent, name)


class View(ABC):
    """How a site's array stands inside a raw one."""

    @abstractmethod
    def read(self, raw: mx.array, block: nn.Module) -> mx.array:
        """The site's array."""

    @abstractmethod
    def write(self, raw: mx.array, new: mx.array, block: nn.Module) -> mx.array:
        """The raw array with the site's array in it replaced."""


@dataclass(frozen=True)
class Whole(View):
    """The raw array is the site's array."""

    @override
    def read(self, raw: mx.array, block: nn.Module) -> mx.array:
        return raw

    @override
    def write(self, raw: mx.array, new: mx.array, block: nn.Module) -> mx.array:
        return new


@dataclass(frozen=True)
class ByHead(View):
    """Heads side by side: `(batch, pos, head * d_head)` seen as `(batch, pos, head, d_head)`.

    Attributes:
        heads: Where the block keeps their number.
    """

    heads: str

    @override
    def read(self, raw: mx.array, block: nn.Module) -> mx.array:
        return by_heads(raw, attribute(block, self.heads))

    @override
    def write(self, raw: mx.array, new: mx.array, block: nn.Module) -> mx.array:
        return new.reshape(raw.shape)


@dataclass(frozen=True)
class Fused(View):
    """One part of several side by side, each with its own number of heads: all queries, all keys, all values.

    Attributes:
        heads: Where the block keeps the number of heads of each part, in order.
        part: Which part.
    """

    heads: tuple[str, ...]
    part: int

    def _bounds(self, block: nn.Module) -> tuple[int, int, int]:
        counts = [attribute(block, path) for path in self.heads]
        start = sum(counts[: self.part])
        return start, start + counts[self.part], sum(counts)

    @override
    def read(self, raw: mx.array, block: nn.Module) -> mx.array:
        start, end, total = self._bounds(block)
        return by_heads(raw, total)[..., start:end, :]

    @override
    def write(self, raw: mx.array, new: mx.array, block: nn.Module) -> mx.array:
        start, end, total = self._bounds(block)
        heads = by_heads(raw, total)
        return mx.concatenate([heads[..., :start, :], new, heads[..., end:, :]], axis=-2).reshape(raw.shape)


@dataclass(frozen=True)
class Interleaved(View):
    """One part of several within each head: query, key and value of head 0, then of head 1.

    Attributes:
        heads: Where the block keeps the number of heads.
        part: Which part.
        parts: How many there are.
    """

    heads: str
    part: int
    parts: int = 3

    def _split(self, raw: mx.array, block: nn.Module) -> mx.array:
        return by_heads(raw, attribute(block, self.heads), self.parts)

    @override
    def read(self, raw: mx.array, block: nn.Module) -> mx.array:
        return self._split(raw, block)[..., self.part, :]

    @override
    def write(self, raw: mx.array, new: mx.array, block: nn.Module) -> mx.array:
        parts = self._split(raw, block)
        columns = [new if i == self.part else parts[..., i, :] for i in range(self.parts)]
        return mx.stack(columns, axis=-2).reshape(raw.shape)


@dataclass(frozen=True)
class Times(View):
    """The raw array is multiplied by a number of the block before it is added to the stream.

    An edit is divided by the number. What an edit leaves as it was stays bit for bit: dividing the product again
    would round.

    Attributes:
        factor: Where the block keeps the number.
    """

    factor: str

    @override
    def read(self, raw: mx.array, block: nn.Module) -> mx.array:
        return raw * attribute(block, self.factor)

    @override
    def write(self, raw: mx.array, new: mx.array, block: nn.Module) -> mx.array:
        return mx.where(new == self.read(raw, block), raw, new / attribute(block, self.factor))


@dataclass(frozen=True)
class HeadsFirst(View):
    """`(batch, head, pos, d_head)` seen as `(batch, pos, head, d_head)`."""

    @override
    def read(self, raw: mx.array, block: nn.Module) -> mx.array:
        return raw.swapaxes(1, 2)

    @override
    def write(self, raw: mx.array, new: mx.array, block: nn.Module) -> mx.array:
        return new.swapaxes(1, 2)
