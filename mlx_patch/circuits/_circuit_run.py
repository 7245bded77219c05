"""`CircuitRun`: the run in which the edges of a circuit carry its own values, and all others the source's.

Block by block, the stream of each reader is made anew: the sum of what was written so far in this very run and, for
each edge that is not in the circuit, the source's value minus this run's. Of heads behind which a norm stands, it is
the norm of all of them together, with the source's values for those whose edge is not in the circuit.
"""

from collections.abc import Mapping, Sequence

import mlx.core as mx
import numpy as np

from mlx_patch.attribution import PromptRun, putting
from mlx_patch.circuits._blocks import adds_linearly
from mlx_patch.circuits._circuit import Circuit
from mlx_patch.circuits._graph import BlockParts
from mlx_patch.circuits._host_run import HostRun, Segment, in_turn, one_at_a_time, pieces_of_copies, values_of_segments
from mlx_patch.circuits._nodes import Reader
from mlx_patch.circuits._normed_heads import NormedHeads, changes_of_normed_heads
from mlx_patch.circuits._two_runs import TwoRuns
from mlx_patch.engine import differentiable
from mlx_patch.sites import Site


class CircuitRun:
    """One run of a circuit.

    Args:
        runs: Host and source.
        circuit: The edges that carry this run's own values.
    """

    def __init__(self, runs: TwoRuns, circuit: Circuit):
        self._runs, self._circuit = runs, circuit
        self._prompt_run = runs.host.prompt_run
        embed = runs.host.activations[Site("embed")]
        self._stream = embed.astype(mx.float32)
        self._changes = [self._change(Site("embed"), embed)]
        self._normed: list[NormedHeads] = []
        self._first = 0

    def logits(self, prompt_run: PromptRun) -> mx.array:
        """The logits that a readout reads, unevaluated. Shape `(batch, pos, d_vocab)`.

        Args:
            prompt_run: The prompts, with the readout.
        """
        with differentiable(prompt_run.layout.model):
            for block in self._circuit.graph.blocks:
                self._run_block(block)
        last = Site("resid_post", len(self._circuit.graph.blocks) - 1)
        return prompt_run.logits(None, [(last, putting(self._read_by(1)[:, :, 0]))])

    def _run_block(self, block: BlockParts) -> None:
        added: list[mx.array] = []
        changes: list[mx.array] = []
        if block.has_mixer:
            mixer_out, mixer_changes = self._run_mixer(block)
            added.append(mixer_out)
            changes.append(mixer_changes)
        if not block.parallel:
            self._write(added, changes)
            added, changes = [], []
        if block.has_mlp:
            end = Site("mlp_out", block.layer)
            stream = self._read_by(1)[:, :, 0]
            [mlp_out] = values_of_segments(self._prompt_run, {block.mlp_reads: stream}, [end], end)
            self._first += 1
            added.append(mlp_out)
            changes.append(self._change(end, mlp_out))
        self._write(added, changes)
        mx.eval(self._stream, self._changes)

    def _write(self, added: Sequence[mx.array], changes: Sequence[mx.array]) -> None:
        for array in added:
            self._stream = self._stream + array.astype(mx.float32)
        self._changes = [mx.concatenate([*self._changes, *changes], axis=2)]

    def _run_mixer(self, block: BlockParts) -> tuple[mx.array, mx.array]:
        """What a block's mixer adds, and the change of each of its writers: the source's value minus this run's."""
        readers = block.mixer_readers
        streams = self._read_by(len(readers))
        self._first += len(readers)
        own_stream = Site("resid_pre", block.layer)
        values = {own_stream: streams[:, :, 0]}
        if block.n_kv_heads:
            values = {own_stream: self._stream, **self._projected(block, streams)}
        end = Site("mixer_out", block.layer)
        if not block.n_heads:
            [mixer_out] = values_of_segments(self._prompt_run, values, [end], end)
            return mixer_out, self._change(end, mixer_out)
        site = Site("z", block.layer)
        z, mixer_out = values_of_segments(self._prompt_run, values, [site, end], end)
        source = self._runs.source[site]
        if not adds_linearly(self._prompt_run.layout, block.layer):
            n_written = self._changes[0].shape[2]
            self._normed.append(NormedHeads(block.layer, n_written, z, source, mixer_out))
            nothing = mx.zeros((*mixer_out.shape[:2], block.n_heads, mixer_out.shape[-1]))
            return mixer_out, nothing
        own_run = HostRun(self._prompt_run, {site: z, end: mixer_out})
        segment = Segment(site, end, one_at_a_time(source - z))
        return mixer_out, next(in_turn(own_run.shares([segment])))

    def _projected(self, block: BlockParts, streams: mx.array) -> Mapping[Site, mx.array]:
        """Queries, keys and values, each head's from the stream that it reads. Shape of each: as of its site.

        Args:
            block: The block.
            streams: What each head reads. Shape `(batch, pos, reader, d_model)`.
        """
        batch = streams.shape[0]
        sites = [Site(name, block.layer) for name in ("q", "k", "v")]
        by_kind: dict[str, list[mx.array]] = {"q": [], "k": [], "v": []}
        for chosen in pieces_of_copies(self._prompt_run, streams.shape[2]):
            readers: Sequence[Reader] = block.mixer_readers[chosen]
            rows = streams[:, :, chosen].transpose(2, 0, 1, 3).flatten(0, 1)
            entrance = Site("resid_pre", block.layer)
            arrays = values_of_segments(self._prompt_run, {entrance: rows}, sites, Site("z", block.layer))
            by_name = dict(zip("qkv", arrays, strict=True))
            for number, reader in enumerate(readers):
                copy = by_name[reader.kind][number * batch : (number + 1) * batch]
                by_kind[reader.kind].append(copy[:, :, reader.head])
        return {Site(name, block.layer): mx.stack(by_kind[name], axis=2) for name in by_kind}

    def _read_by(self, count: int) -> mx.array:
        """The stream as each of the next readers reads it. Shape `(batch, pos, reader, d_model)`."""
        n_read = self._circuit.graph.n_read[self._first]
        is_off = ~self._circuit.has_edge[:n_read, self._first : self._first + count]
        [changes] = self._changes
        weights = mx.array(is_off.T.astype(np.float32))
        streams = self._stream[:, :, None] + weights @ changes[:, :, :n_read]
        normed = [heads for heads in self._normed if is_off[heads.first : heads.end].any() and heads.end <= n_read]
        if normed:
            streams = streams + changes_of_normed_heads(self._prompt_run, normed, is_off)
        return streams

    def _change(self, site: Site, value: mx.array) -> mx.array:
        change = self._runs.source[site].astype(mx.float32) - value.astype(mx.float32)
        return change[:, :, None]


def metric_of_circuit(runs: TwoRuns, circuit: Circuit) -> np.ndarray:
    """The metric of a circuit. Shape `(example,)`."""
    prompt_run = runs.host.prompt_run
    logits = CircuitRun(runs, circuit).logits(prompt_run)
    values = prompt_run.readout.measure(logits, prompt_run.length)[0]
    return np.array(values.astype(mx.float32))
