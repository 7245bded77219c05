"""`Scoring`: the scores of all edges, block by block as the gradients become known."""

from collections.abc import Mapping
from dataclasses import replace

import mlx.core as mx
import numpy as np

from mlx_patch.attribution import GradientRun, SiteGradient, run_with_gradients
from mlx_patch.circuits._blocks import read_by_mlp_alone, sites_of_readers
from mlx_patch.circuits._graph import Graph
from mlx_patch.circuits._host_run import HostRun, in_turn
from mlx_patch.circuits._reading import segments_of_readers
from mlx_patch.sites import Site


class Scoring:
    """The scores of all edges so far.

    Of the product of writers, readers, positions and `d_model` no more is there at once than one block's readers need.

    Args:
        host: The host's run.
        graph: The writers and readers.
        changes: What each writer adds in the source's run but not in the host's. Shape `(batch, pos, writer, d_model)`.
    """

    def __init__(self, host: HostRun, graph: Graph, changes: mx.array):
        self._host, self._graph, self._changes = host, graph, changes
        batch, length = changes.shape[:2]
        # In the order in which products come, so that none is turned around.
        self._scores = np.full((batch, length, len(graph.writers), len(graph.readers)), np.nan, np.float32)

    @property
    def values(self) -> np.ndarray:
        """Source minus host, in the metric's unit; NaN where there is no edge, or no gradient yet.

        Float32, read-only. Shape `(writer, reader, pos, batch)`.
        """
        values = self._scores.transpose(2, 3, 1, 0)
        values.flags.writeable = False
        return values

    def go_back(self) -> GradientRun:
        """Go back through the host's run, and score the edges into all readers."""
        layout = self._host.prompt_run.layout
        prompt_run = replace(self._host.prompt_run, uncarried=read_by_mlp_alone(layout))
        return run_with_gradients(prompt_run, sites_of_readers(layout), self._add)

    def _add(self, gradients: Mapping[Site, SiteGradient]) -> None:
        """Add the edges into all readers whose gradients are among these: those of whole blocks, and the logits."""
        slopes = {site: gradients[site].gradient[0] for site in gradients}
        layers = {site.layer for site in slopes if site.name != "resid_post"}
        blocks = [block for block in self._graph.blocks if block.layer in layers]
        segments = [segments_of_readers(slopes, block) for block in blocks]
        counts = [len(members) for members in segments]
        gradients_of_readers = in_turn(self._host.gradients([segment for members in segments for segment in members]))
        del segments  # with the slopes of all heads of all blocks
        for block, count in zip(blocks, counts, strict=True):
            streams = [next(gradients_of_readers) for _ in range(count)]
            if block.mlp_reads in slopes:
                streams.append(_of_one_reader(slopes[block.mlp_reads]))
            self._score(self._graph.first_reader(block.layer), mx.concatenate(streams, axis=2))
        last = Site("resid_post", len(self._graph.blocks) - 1)
        if last in slopes:
            self._score(len(self._graph.readers) - 1, _of_one_reader(slopes[last]))

    def _score(self, first: int, gradients: mx.array) -> None:
        """Score the edges into readers that follow each other.

        Args:
            first: The first of these readers.
            gradients: Of each reader. Shape `(batch, pos, reader, d_model)`.
        """
        end = first + gradients.shape[2]
        n_read = self._graph.n_read[first:end]
        products = np.array(self._changes[:, :, : max(n_read)] @ gradients.swapaxes(-1, -2))
        is_read = self._graph.has_edge[: max(n_read), first:end]
        np.copyto(self._scores[:, :, : max(n_read), first:end], products, where=is_read)


def _of_one_reader(slope: mx.array) -> mx.array:
    """The slope at a stream that one reader alone reads. Shape `(batch, pos, 1, d_model)`."""
    return slope.astype(mx.float32)[:, :, None]
