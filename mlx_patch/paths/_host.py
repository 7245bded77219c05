"""`Host`: the unpatched run of some prompts, of which everything is frozen but what a path changes."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import mlx.core as mx

from mlx_patch.architectures import Layout, Point
from mlx_patch.errors import SelectionError
from mlx_patch.interventions import Edit
from mlx_patch.model import RunResult, run
from mlx_patch.paths._writers import EMBEDDING, StreamReader, StreamWriter, writers_of_model
from mlx_patch.sites import Site

_TOKENS = 2048
"""How many tokens a run has together, so that memory stays bounded."""


@dataclass(frozen=True, eq=False)
class Host:
    """The host's activations.

    Attributes:
        layout: The model's layout.
        tokens: The prompts. Shape `(batch, pos)`.
        standing: The edits that every run has.
        freeze: "all", or "attention": then MLPs are recomputed.
        reads: The positions whose logits are read; None is all.
        writers: Every writer of the model, the embedding first.
        activations: What each writer adds, and what receivers' sites are.
        sender_activations: What senders' sites are, where they are the input or the output of a module.
        host_run: The run, for others: the logits that are read, unevaluated, and the stream at its end. None
            where standing edits may act on the logits, or all logits are read.
    """

    layout: Layout
    tokens: mx.array
    standing: tuple[Edit, ...]
    freeze: str
    reads: tuple[int, ...] | None
    writers: tuple[StreamWriter, ...]
    activations: dict[Site, mx.array]
    sender_activations: dict[Site, mx.array]
    host_run: RunResult | None

    @property
    def batch(self) -> int:
        """How many prompts there are."""
        return self.tokens.shape[0]

    @property
    def length(self) -> int:
        """The positions of each prompt."""
        return self.tokens.shape[1]

    def jobs_at_once(self, length: int) -> int:
        """How many jobs share a run, with so many positions each."""
        if self.standing:  # they may read the batch, or draw for its shape
            return 1
        return max(1, _TOKENS // (self.batch * length))

    def heads(self, reader: StreamReader) -> tuple[int, ...] | None:
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

    def freezes(self, writer: StreamWriter) -> bool:
        """Whether a writer that sends nothing is held at the host's value on the way to a receiver."""
        return self.freeze == "all" or not writer.is_mlp

    @property
    def is_by_position(self) -> bool:
        """Whether what is computed between senders and receivers has each position by itself."""
        if self.standing:  # they may read several
            return False
        if self.freeze == "all":
            return True
        return not self.layout.family.shared and all(map(has_plain_mlp, self.layout.points))

    def index(self, positions: tuple[int, ...]) -> slice | mx.array:
        """What picks some positions of an array; nothing is copied for all of them."""
        if len(positions) == self.length:
            return slice(None)
        return mx.array(positions)

    def positions_of(self, reader: StreamReader, first: int) -> tuple[int, ...]:
        """The positions at which a receiver is given values, where a sender changes none before the first.

        Of the stream at the end only those whose logits are read matter.
        """
        changed = tuple(range(first, self.length))
        if not reader.is_end or self.reads is None:
            return changed
        return tuple(pos for pos in self.reads if pos >= first) or changed[-1:]


def run_host(
    layout: Layout,
    tokens: mx.array,
    standing: Sequence[Edit],
    freeze: str,
    reads: tuple[int, ...] | None,
    senders: Iterable[Edit],
    receivers: Iterable[Site],
) -> Host:
    """Run the host, up to what paths need of it."""
    writers = (EMBEDDING, *writers_of_model(layout))
    sender_sites = [site for edit in senders for site in layout.select(edit.site, edit.layer)]
    sender_sites = [site for site in sender_sites if _is_at_a_module(layout, site)]
    sites = dict.fromkeys([*(writer.site for writer in writers), *receivers, *sender_sites])
    end_sites = _end_sites(layout, sites, standing, reads)
    captured = tuple(dict.fromkeys([*sites, *end_sites]))
    keeps = bool(end_sites)
    result = run(layout, tokens, standing, sites=captured, logits_at=reads, unembed=False, keep_logits=keeps)
    activations = result.activations
    sender_activations = {site: activations[site] for site in sender_sites}
    host_run = None
    if end_sites:
        at_end = {site: activations[site] for site in end_sites}
        host_run = replace(result, activations=at_end)
    return Host(layout, tokens, tuple(standing), freeze, reads, writers, activations, sender_activations, host_run)


def _end_sites(
    layout: Layout, sites: Iterable[Site], standing: Sequence[Edit], reads: tuple[int, ...] | None
) -> tuple[Site, ...]:
    """The stream at the end of the model, of which others than paths need to know; none where that is not known."""
    end = Site("resid_post", len(layout.blocks) - 1)
    if standing or reads is None or end not in sites or layout.family.final_norm is None:
        return ()
    return end, Site("final_norm")


def _is_at_a_module(layout: Layout, site: Site) -> bool:
    """Whether a site inside a writer is read where a module is called, at no cost."""
    return site.layer is not None and layout.points[site.layer][site.name].recipe is None


def has_plain_mlp(points: Mapping[str, Point]) -> bool:
    """Whether a block's MLP is a module of its own behind a norm, which sees one position at a time.

    Channel mixers that look back are in families whose blocks share more than the stream. Law 12 tells.
    """
    if "mlp_out" not in points:
        return True
    point = points.get("resid_mid")
    return point is not None and point.side == "input" and point.carried == "mlp_out"
