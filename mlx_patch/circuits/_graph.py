"""`Graph`: every writer and reader of a model, in the order of its forward pass, and the edges between them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from mlx_patch.circuits._nodes import Reader, Writer
from mlx_patch.sites import Site


@dataclass(frozen=True)
class BlockParts:
    """The parts of one block.

    Attributes:
        layer: Its number.
        has_mixer: Whether it has attention or another mixer.
        has_mlp: Whether it has an MLP or experts.
        n_heads: How many heads write by themselves; 0 where the mixer writes as a whole.
        n_kv_heads: How many KV heads read by themselves, and so all query heads; 0 where the mixer reads as a whole.
        parallel: Whether its MLP does not read what its mixer adds.
    """

    layer: int
    has_mixer: bool
    has_mlp: bool
    n_heads: int
    n_kv_heads: int
    parallel: bool

    @property
    def mixer_writers(self) -> tuple[Writer, ...]:
        """The heads, or the whole mixer."""
        if not self.has_mixer:
            return ()
        if not self.n_heads:
            return (Writer("mixer", self.layer),)
        return tuple(Writer("head", self.layer, head) for head in range(self.n_heads))

    @property
    def mlp_writers(self) -> tuple[Writer, ...]:
        """The MLP, if there is one."""
        if not self.has_mlp:
            return ()
        return (Writer("mlp", self.layer),)

    @property
    def mixer_readers(self) -> tuple[Reader, ...]:
        """All queries, all keys, all values; or the whole mixer."""
        if not self.has_mixer:
            return ()
        if not self.n_kv_heads:
            return (Reader("mixer", self.layer),)
        queries = [Reader("q", self.layer, head) for head in range(self.n_heads)]
        keys = [Reader("k", self.layer, head) for head in range(self.n_kv_heads)]
        values = [Reader("v", self.layer, head) for head in range(self.n_kv_heads)]
        return (*queries, *keys, *values)

    @property
    def mlp_readers(self) -> tuple[Reader, ...]:
        """The MLP, if there is one."""
        if not self.has_mlp:
            return ()
        return (Reader("mlp", self.layer),)

    @property
    def mlp_reads(self) -> Site:
        """The site of the stream that its MLP reads."""
        if self.parallel:
            return Site("resid_pre", self.layer)
        return Site("resid_mid", self.layer)


@dataclass(frozen=True)
class Graph:
    """The writers and readers of a model.

    Attributes:
        blocks: The parts of each block, in order.
        d_model: The width of the stream.
        tiled: Whether query head i reads KV head i modulo their number; otherwise neighbours share one.
    Example:
        >>> graph = Graph((BlockParts(0, True, True, n_heads=2, n_kv_heads=1, parallel=False),), d_model=8)
        >>> [str(writer) for writer in graph.writers], graph.n_edges
        (['input', 'a0.h0', 'a0.h1', 'm0'], 11)
    """

    blocks: tuple[BlockParts, ...]
    d_model: int
    tiled: bool = False

    @cached_property
    def writers(self) -> tuple[Writer, ...]:
        """The embedding; then of each block its heads and its MLP."""
        writers = [Writer("input")]
        for block in self.blocks:
            writers += [*block.mixer_writers, *block.mlp_writers]
        return tuple(writers)

    @cached_property
    def readers(self) -> tuple[Reader, ...]:
        """Of each block its queries, keys, values and its MLP; then the logits."""
        readers: list[Reader] = []
        for block in self.blocks:
            readers += [*block.mixer_readers, *block.mlp_readers]
        return (*readers, Reader("logits"))

    @cached_property
    def n_read(self) -> tuple[int, ...]:
        """For each reader, how many writers it reads: the first ones."""
        counts: list[int] = []
        n_written = 1
        for block in self.blocks:
            counts += [n_written] * len(block.mixer_readers)
            n_behind_mixer = n_written + len(block.mixer_writers)
            n_read_by_mlp = n_behind_mixer
            if block.parallel:
                n_read_by_mlp = n_written
            counts += [n_read_by_mlp] * len(block.mlp_readers)
            n_written = n_behind_mixer + len(block.mlp_writers)
        return (*counts, n_written)

    @cached_property
    def has_edge(self) -> np.ndarray:
        """Whether a writer comes before a reader. Bool, shape `(writer, reader)`."""
        return np.arange(len(self.writers))[:, None] < np.array(self.n_read)

    @property
    def places(self) -> list[tuple[int, int]]:
        """The indices of writer and reader of each edge, in the order of the writers."""
        return [(int(writer), int(reader)) for writer, reader in np.argwhere(self.has_edge)]

    def first_reader(self, layer: int) -> int:
        """The index of the first reader of a block."""
        return sum(len(block.mixer_readers) + len(block.mlp_readers) for block in self.blocks[:layer])

    @property
    def n_edges(self) -> int:
        """The number of edges."""
        return int(np.count_nonzero(self.has_edge))

    @property
    def n_nodes(self) -> int:
        """The number of writers."""
        return len(self.writers)

    @cached_property
    def readers_of(self) -> tuple[tuple[int, ...], ...]:
        """For each writer, the indices of the readers that it computes what it writes from."""
        by_layer = {block.layer: block for block in self.blocks}
        indices = []
        for writer in self.writers:
            read_by: Sequence[Reader] = ()
            if writer.layer is not None:
                read_by = tuple(self._read_by(writer, by_layer[writer.layer]))
            indices.append(tuple(self.readers.index(reader) for reader in read_by))
        return tuple(indices)

    def _read_by(self, writer: Writer, block: BlockParts) -> Iterator[Reader]:
        if writer.kind == "mlp":
            yield from block.mlp_readers
        elif writer.head is None or not block.n_kv_heads:
            yield from block.mixer_readers
        else:
            kv_head = self.kv_head_of(block, writer.head)
            yield Reader("q", block.layer, writer.head)
            yield Reader("k", block.layer, kv_head)
            yield Reader("v", block.layer, kv_head)

    def kv_head_of(self, block: BlockParts, head: int) -> int:
        """The KV head that a query head reads."""
        if self.tiled:
            return head % block.n_kv_heads
        return head * block.n_kv_heads // block.n_heads

    def edge_name(self, writer: int, reader: int) -> str:
        """`a0.h1->a2.h3<q>` of the indices of writer and reader."""
        return f"{self.writers[writer]}->{self.readers[reader]}"
