"""`CircuitRun`: the run in which the edges of a circuit carry its own values, and all others the source's.

Block by block, the stream of each reader is made anew: the sum of what was written so far in this very run and, for
each edge that is not in the circuit, the source's value minus this run's. Readers that read the same edges read the
same stream, so their block runs once for all of them. Of heads behind which a norm stands, a reader reads the norm of
all of them together, with the source's values for those whose edge is not in the circuit.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from mlx_patch.attribution import PromptRun, putting
from mlx_patch.circuits._blocks import adds_linearly
from mlx_patch.circuits._circuit import Circuit
from mlx_patch.circuits._graph import BlockParts
from mlx_patch.circuits._heads_off import HeadsOff, changes_of_heads, changes_of_readers
from mlx_patch.circuits._host_run import pieces_of_copies, values_of_segments
from mlx_patch.circuits._two_runs import TwoRuns
from mlx_patch.engine import differentiable
from mlx_patch.sites import Site


@dataclass(frozen=True, eq=False)
class _Change:
    """What edges that are off bring more than this run's own values.

    Attributes:
        arrays: Changes of the stream. Shape `(change, batch, pos, d_model)`.
        weights: How often each reader reads each of them. Shape `(change, reader)`. None where each is of one writer,
            and a reader reads those whose edge is off.
        first: The first of these writers.
    """

    arrays: mx.array
    weights: np.ndarray | None
    first: int = 0

    def weights_of(self, is_off: np.ndarray, readers: np.ndarray) -> np.ndarray:
        """How often some readers read each of them. Float32, shape `(change, reader)`."""
        if self.weights is not None:
            return self.weights[:, readers]
        return is_off[self.first : self.first + len(self.arrays), readers].astype(np.float32)


@dataclass(frozen=True, eq=False)
class _Streams:
    """The streams that some readers read.

    Attributes:
        arrays: Those that differ. Shape `(stream, batch, pos, d_model)`.
        index_of_reader: Which of them each reader reads.
    """

    arrays: mx.array
    index_of_reader: Sequence[int]


@dataclass(frozen=True, eq=False)
class CircuitState:
    """A run of a circuit, where it enters a block. Edges into readers from there on do not change it.

    Attributes:
        block: The block's index in the graph; their number behind the last one.
        stream: What was written. Float32, shape `(batch, pos, d_model)`.
        changes: What edges that are off bring more.
        heads: Heads behind which a norm stands.
        n_written: How many writers have written.
        first_reader: The index of the next reader.
    """

    block: int
    stream: mx.array
    changes: tuple[_Change, ...]
    heads: tuple[HeadsOff, ...]
    n_written: int
    first_reader: int


class CircuitRun:
    """One run of a circuit.

    Args:
        runs: Host and source.
        circuit: The edges that carry this run's own values.
        start: Where the run begins; None is the embedding.
        keeps_states: Whether to keep the state at each block, from which runs of other circuits can begin. That takes
            one array as wide as the stream for each head.

    Attributes:
        states: The states at each block, and behind the last one, of a run that keeps them.
    """

    states: list[CircuitState]

    def __init__(self, runs: TwoRuns, circuit: Circuit, start: CircuitState | None = None, keeps_states: bool = False):
        self._runs, self._graph = runs, circuit.graph
        self._is_off = ~circuit.has_edge
        self._prompt_run = runs.host.prompt_run
        self._keeps_states, self.states = keeps_states, []
        if start is None:
            embed = runs.host.activations[Site("embed")]
            change = self._change(Site("embed"), embed, 0)
            start = CircuitState(0, embed.astype(mx.float32), (change,), (), 1, 0)
        self._block, self._stream = start.block, start.stream
        self._changes, self._heads = [*start.changes], [*start.heads]
        self._n_written, self._first_reader = start.n_written, start.first_reader

    def logits(self, prompt_run: PromptRun) -> mx.array:
        """The logits that a readout reads, unevaluated. Shape `(batch, pos, d_vocab)`.

        Args:
            prompt_run: The prompts, with the readout.
        """
        with differentiable(prompt_run.layout.model):
            for block in self._graph.blocks[self._block :]:
                self._keep_state()
                self._run_block(block)
                self._block += 1
        self._keep_state()
        last = Site("resid_post", len(self._graph.blocks) - 1)
        return prompt_run.logits(None, [(last, putting(self._read_by(1).arrays[0]))])

    def _keep_state(self) -> None:
        if self._keeps_states:
            changes, heads = tuple(self._changes), tuple(self._heads)
            self.states.append(
                CircuitState(self._block, self._stream, changes, heads, self._n_written, self._first_reader)
            )

    def _run_block(self, block: BlockParts) -> None:
        written: list[mx.array] = []
        if block.has_mixer:
            written.append(self._run_mixer(block))
        if not block.parallel:
            self._write(written)
            written = []
        if block.has_mlp:
            end = Site("mlp_out", block.layer)
            streams = self._read_by(1)
            [mlp_out] = values_of_segments(self._prompt_run, {block.mlp_reads: streams.arrays[0]}, [end], end)
            self._changes.append(self._change(end, mlp_out, self._n_written))
            self._n_written += 1
            written.append(mlp_out)
        self._write(written)
        mx.eval(self._stream, [change.arrays for change in self._changes])

    def _write(self, written: Sequence[mx.array]) -> None:
        for array in written:
            self._stream = self._stream + array.astype(mx.float32)

    def _run_mixer(self, block: BlockParts) -> mx.array:
        """What a block's mixer adds."""
        streams = self._read_by(len(block.mixer_readers))
        own_stream, end = Site("resid_pre", block.layer), Site("mixer_out", block.layer)
        values = {own_stream: streams.arrays[0]}
        if block.n_kv_heads:
            values = {own_stream: self._stream, **self._projected(block, streams)}
        if not block.n_heads:
            [mixer_out] = values_of_segments(self._prompt_run, values, [end], end)
            self._changes.append(self._change(end, mixer_out, self._n_written))
            self._n_written += 1
            return mixer_out
        site = Site("z", block.layer)
        z, mixer_out = values_of_segments(self._prompt_run, values, [site, end], end)
        self._heads_written(HeadsOff(block.layer, self._n_written, z, self._runs.source[site], mixer_out))
        return mixer_out

    def _heads_written(self, heads: HeadsOff) -> None:
        self._n_written = heads.end
        if not adds_linearly(self._prompt_run.layout, heads.layer):
            self._heads.append(heads)
            return
        # Readers before these heads do not count: what they have no edge from is not off.
        is_read = self._graph.has_edge[heads.first]
        is_off = self._is_off[heads.first : heads.end] & is_read
        if self._keeps_states:
            patterns, weights = np.eye(len(is_off), dtype=bool), None
        else:
            patterns, weights = _patterns(is_off)
        if patterns.size:
            arrays = changes_of_heads(self._prompt_run, heads, patterns)
            self._changes.append(_Change(arrays, weights, heads.first))

    def _projected(self, block: BlockParts, streams: _Streams) -> Mapping[Site, mx.array]:
        """Queries, keys and values, each head's from the stream that it reads. Shape of each: as of its site.

        Args:
            block: The block.
            streams: What its heads read.
        """
        sites = [Site(name, block.layer) for name in ("q", "k", "v")]
        entrance = Site("resid_pre", block.layer)
        pieces: dict[str, list[mx.array]] = {"q": [], "k": [], "v": []}
        for chosen in pieces_of_copies(self._prompt_run, streams.arrays.shape[0]):
            rows = streams.arrays[chosen]
            values = {entrance: rows.flatten(0, 1)}
            arrays = values_of_segments(self._prompt_run, values, sites, Site("z", block.layer))
            for site, array in zip(sites, arrays, strict=True):
                pieces[site.name].append(array.reshape(*rows.shape[:2], *array.shape[1:]))
        by_stream = {name: mx.concatenate(arrays) for name, arrays in pieces.items()}
        by_head: dict[str, list[mx.array]] = {"q": [], "k": [], "v": []}
        for reader, index in zip(block.mixer_readers, streams.index_of_reader, strict=True):
            by_head[reader.kind].append(by_stream[reader.kind][index][:, :, reader.head])
        return {site: mx.stack(by_head[site.name], axis=2) for site in sites}

    def _read_by(self, count: int) -> _Streams:
        """The streams that the next readers read."""
        readers = np.arange(self._first_reader, self._first_reader + count)
        self._first_reader += count
        n_read = self._graph.n_read[readers[0]]
        is_off, examples, indices = np.unique(
            self._is_off[:n_read, readers], axis=1, return_index=True, return_inverse=True
        )
        arrays = mx.repeat(self._stream[None], len(examples), axis=0)
        for change in self._changes:
            weights = change.weights_of(self._is_off, readers[examples])
            if weights.any():
                flat = mx.array(weights.T) @ change.arrays.flatten(1)
                arrays = arrays + flat.reshape(arrays.shape)
        heads = [heads for heads in self._heads if heads.end <= n_read and is_off[heads.first : heads.end].any()]
        if heads:
            arrays = arrays + changes_of_readers(self._prompt_run, heads, is_off)
        return _Streams(arrays, indices.ravel().tolist())

    def _change(self, site: Site, value: mx.array, writer: int) -> _Change:
        change = self._runs.source[site].astype(mx.float32) - value.astype(mx.float32)
        return _Change(change[None], None, writer)


def _patterns(is_off: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which heads are off together, and which of these patterns each reader reads.

    Where heads add up, each alone is a pattern too: these are taken where there are fewer of them.

    Args:
        is_off: Bool, shape `(head, reader)`.
    Returns:
        Patterns, bool, shape `(pattern, head)`; weights, float32, shape `(pattern, reader)`.
    """
    patterns, indices = np.unique(is_off.T, axis=0, return_inverse=True)
    weights = (indices.ravel() == np.arange(len(patterns))[:, None]).astype(np.float32)
    is_some = patterns.any(axis=1)
    if is_some.sum() > len(is_off):
        return np.eye(len(is_off), dtype=bool), is_off.astype(np.float32)
    return patterns[is_some], weights[is_some]


def metric_of_circuit(runs: TwoRuns, circuit: Circuit, start: CircuitState | None = None) -> np.ndarray:
    """The metric of a circuit. Shape `(example,)`."""
    return _measured(runs, CircuitRun(runs, circuit, start))


def metric_and_states(runs: TwoRuns, circuit: Circuit) -> tuple[np.ndarray, list[CircuitState]]:
    """The metric of a circuit, shape `(example,)`; and where runs of circuits with the same edges below can begin."""
    circuit_run = CircuitRun(runs, circuit, keeps_states=True)
    return _measured(runs, circuit_run), circuit_run.states


def _measured(runs: TwoRuns, circuit_run: CircuitRun) -> np.ndarray:
    prompt_run = runs.host.prompt_run
    logits = circuit_run.logits(prompt_run)
    values = prompt_run.readout.measure(logits, prompt_run.length)[0]
    return np.array(values.astype(mx.float32))
