"""Views: the place of a site's array inside the array that a module reads or writes.

A view reads the site's array out of the raw one, and writes an edited one back. It is a value: head counts and
multipliers are named by their path in the block, and looked up there.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from math import prod
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from typing_extensions import override

from mlx_patch.architectures._exact import keep_bits
from mlx_patch.errors import ArchitectureError, shown


def attribute_at(module: nn.Module, path: str) -> Any:
    """The value at a dotted path under a module: `self_attn.n_heads`, `layers.3.mlp`; the module itself for "".

    Raises:
        ArchitectureError: Nothing does: the table is another architecture's.
    """
    try:
        if not path:
            return module
        return reduce(_child, path.split("."), module)
    except (AttributeError, IndexError, ValueError):  # a list of modules has no names
        raise ArchitectureError(
            f"`family` must be a table of this architecture. Got one that looks for {shown(path)}, which is not in "
            f"{type(module).__name__} of {type(module).__module__}. Leave it out to use the registered one."
        ) from None


def by_heads(raw: mx.array, *heads: int) -> mx.array:
    """The last axis split by heads: `(..., n)` seen as `(..., *heads, d_head)`.

    Raises:
        ArchitectureError: The number of heads does not divide the axis, so the table is wrong.
    """
    if raw.shape[-1] % prod(heads):
        raise ArchitectureError(
            f"`family` must name a number of heads that divides the projection's width, {raw.shape[-1]}. Got "
            f"{prod(heads)}. Correct the table."
        )
    return raw.reshape(*raw.shape[:-1], *heads, -1)


def _child(parent: Any, name: str) -> Any:
    if isinstance(parent, list | tuple):
        return parent[int(name)]
    return getattr(parent, name)


class View(ABC):
    """The place of a site's array inside a raw one."""

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
        heads: Where the block keeps their number, or the number.
    """

    heads: str | int

    @override
    def read(self, raw: mx.array, block: nn.Module) -> mx.array:
        heads = self.heads if isinstance(self.heads, int) else attribute_at(block, self.heads)
        return by_heads(raw, heads)

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
        counts = [attribute_at(block, path) for path in self.heads]
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
        before, behind = heads[..., :start, :], heads[..., end:, :]
        return mx.concatenate([before, new, behind], axis=-2).reshape(raw.shape)


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
        return by_heads(raw, attribute_at(block, self.heads), self.parts)

    @override
    def read(self, raw: mx.array, block: nn.Module) -> mx.array:
        return self._split(raw, block)[..., self.part, :]

    @override
    def write(self, raw: mx.array, new: mx.array, block: nn.Module) -> mx.array:
        split = self._split(raw, block)
        columns = [split[..., index, :] for index in range(self.parts)]
        columns[self.part] = new
        return mx.stack(columns, axis=-2).reshape(raw.shape)


@dataclass(frozen=True)
class Grouped(View):
    """One part of several within each KV head: its queries, then its key, then its value.

    Attributes:
        heads: Where the block keeps the number of query heads.
        kv_heads: Where it keeps the number of KV heads.
        part: 0 is queries, 1 keys, 2 values.
    """

    heads: str
    kv_heads: str
    part: int

    def _split(self, raw: mx.array, block: nn.Module) -> list[mx.array]:
        groups = attribute_at(block, self.kv_heads)
        queries = attribute_at(block, self.heads) // groups
        by_group = raw.reshape(*raw.shape[:-1], groups, queries + 2, -1)
        return list(mx.split(by_group, [queries, queries + 1], axis=-2))

    @override
    def read(self, raw: mx.array, block: nn.Module) -> mx.array:
        array = self._split(raw, block)[self.part]
        return array.reshape(*raw.shape[:-1], -1, array.shape[-1])

    @override
    def write(self, raw: mx.array, new: mx.array, block: nn.Module) -> mx.array:
        arrays = self._split(raw, block)
        arrays[self.part] = new.reshape(arrays[self.part].shape)
        return mx.concatenate(arrays, axis=-2).reshape(raw.shape)


@dataclass(frozen=True)
class WithinHead(View):
    """The features of each head from one on: `(batch, pos, head * (start + d_head))` as `(batch, pos, head, d_head)`.

    Attributes:
        heads: Where the block keeps the number of heads.
        start: Where the block keeps how many features of each head come before.
    """

    heads: str
    start: str

    def _split(self, raw: mx.array, block: nn.Module) -> tuple[mx.array, mx.array]:
        by_head = raw.reshape(*raw.shape[:-1], attribute_at(block, self.heads), -1)
        before, site = mx.split(by_head, [attribute_at(block, self.start)], axis=-1)
        return before, site

    @override
    def read(self, raw: mx.array, block: nn.Module) -> mx.array:
        _, site = self._split(raw, block)
        return site

    @override
    def write(self, raw: mx.array, new: mx.array, block: nn.Module) -> mx.array:
        before, _ = self._split(raw, block)
        return mx.concatenate([before, new], axis=-1).reshape(raw.shape)


@dataclass(frozen=True)
class Times(View):
    """The raw array is multiplied by a number of the block before it is added to the stream.

    An edit is divided by the number. What an edit leaves as it was stays bit for bit: dividing the product again
    would round.

    Attributes:
        factor: Where the block keeps the number, or what makes it from the block.
    """

    factor: str | Callable[[nn.Module], float]

    def _factor(self, block: nn.Module) -> float:
        if callable(self.factor):
            return self.factor(block)
        return attribute_at(block, self.factor)

    @override
    def read(self, raw: mx.array, block: nn.Module) -> mx.array:
        return raw * self._factor(block)

    @override
    def write(self, raw: mx.array, new: mx.array, block: nn.Module) -> mx.array:
        is_unchanged = new == self.read(raw, block)
        return keep_bits(raw, new / self._factor(block), is_unchanged)


@dataclass(frozen=True)
class SideBySide(View):
    """Several streams, `(stream, batch, pos, d_model)`, seen as one `(batch, pos, stream * d_model)`."""

    @override
    def read(self, raw: mx.array, block: nn.Module) -> mx.array:
        return raw.transpose(1, 2, 0, 3).flatten(-2)

    @override
    def write(self, raw: mx.array, new: mx.array, block: nn.Module) -> mx.array:
        return new.reshape(*new.shape[:-1], raw.shape[0], -1).transpose(2, 0, 1, 3)


@dataclass(frozen=True)
class Behind(View):
    """All axes behind batch and pos as one: `(batch, pos, a, b)` seen as `(batch, pos, a * b)`, or by head.

    Attributes:
        heads: Where the block keeps the number of heads; None is no heads.
    """

    heads: str | None = None

    @override
    def read(self, raw: mx.array, block: nn.Module) -> mx.array:
        heads = () if self.heads is None else (attribute_at(block, self.heads),)
        batch, length = raw.shape[:2]
        return raw.reshape(batch, length, *heads, -1)

    @override
    def write(self, raw: mx.array, new: mx.array, block: nn.Module) -> mx.array:
        return new.reshape(raw.shape)


@dataclass(frozen=True)
class HeadsFirst(View):
    """`(batch, head, pos, d_head)` seen as `(batch, pos, head, d_head)`."""

    @override
    def read(self, raw: mx.array, block: nn.Module) -> mx.array:
        return raw.swapaxes(1, 2)

    @override
    def write(self, raw: mx.array, new: mx.array, block: nn.Module) -> mx.array:
        return new.swapaxes(1, 2)
