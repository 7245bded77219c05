"""`Host`: the unpatched run of some prompts, of which everything is frozen but what a path changes."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import mlx.core as mx

from mlx_patch.architectures import Layout
from mlx_patch.errors import SelectionError
from mlx_patch.interventions import Edit
from mlx_patch.model import run
from mlx_patch.paths._writers import Reader, Writer, writers_of_model
from mlx_patch.sites import Site


@dataclass(frozen=True, eq=False)
class Host:
    """The host's activations.

    Attributes:
        layout: The model's layout.
        tokens: The prompts. Shape `(batch, pos)`.
        standing: The edits that every run has.
        freeze: "all", or "attention": then MLPs are recomputed.
        writers: Every writer of the model, and the embedding where a path begins there.
        activations: What each writer adds, and what receivers' sites are.
    """

    layout: Layout
    tokens: mx.array
    standing: tuple[Edit, ...]
    freeze: str
    writers: tuple[Writer, ...]
    activations: dict[Site, mx.array]

    @property
    def batch(self) -> int:
        """How many prompts there are."""
        return self.tokens.shape[0]

    @property
    def length(self) -> int:
        """The positions of each prompt."""
        return self.tokens.shape[1]

    def heads(self, reader: Reader) -> tuple[int, ...] | None:
        """The heads that receive, counted from 0; None is all.

        Raises:
            SelectionError: A head is not there, or is there twice.
        """
        if reader.head is None:
            return None
        n_heads = self.activations[reader.site].shape[2]
        for head in reader.head:
            if not -n_heads <= head < n_heads:
                raise SelectionError(f"`head` of {reader.name} must lie in {-n_heads} to {n_heads - 1}. Got {head}.")
        heads = tuple(sorted({head % n_heads for head in reader.head}))
        if len(heads) < len(reader.head):
            raise SelectionError(f"`head` of {reader.name} must not name a head twice. Got {list(reader.head)}.")
        return heads

    def freezes(self, writer: Writer) -> bool:
        """Whether a writer that sends nothing is held at the host's value on the way to a receiver."""
        return self.freeze == "all" or not writer.is_mlp


def run_host(
    layout: Layout,
    tokens: mx.array,
    standing: Sequence[Edit],
    freeze: str,
    senders: Iterable[Writer],
    receivers: Iterable[Site],
) -> Host:
    """Run the host, up to what paths need of it."""
    embeddings = {writer for writer in senders if writer.turn < 0}
    writers = (*embeddings, *writers_of_model(layout))
    sites = dict.fromkeys([*(writer.site for writer in writers), *receivers])
    result = run(layout, tokens, standing, sites=tuple(sites), unembed=False)
    return Host(layout, tokens, tuple(standing), freeze, writers, result.activations)
