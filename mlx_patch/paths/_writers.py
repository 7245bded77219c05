"""What writes to the stream and what reads it, in the order in which a forward pass comes to them."""

from collections.abc import Iterator
from dataclasses import dataclass

from mlx_patch.architectures import Layout
from mlx_patch.errors import MissingSiteError, ValueRefusedError
from mlx_patch.interventions import Edit, Receiver
from mlx_patch.sites import Site

_MIXER = ("q", "k", "v", "rot_q", "rot_k", "attn_scores", "pattern", "z", "mixer_out", "attn_out")
_MLP = ("router_logits", "expert_weights", "mlp_post", "mlp_out")


@dataclass(frozen=True)
class StreamWriter:
    """What adds to the stream: the embedding, the mixer of a block, or its MLP.

    Attributes:
        site: What it adds.
        turn: When: -1 for the embedding, then two turns a block.
    """

    site: Site
    turn: int

    @property
    def is_mlp(self) -> bool:
        """Whether it is an MLP."""
        return self.turn % 2 == 1 and self.turn > 0


EMBEDDING = StreamWriter(Site("embed"), -1)


@dataclass(frozen=True)
class StreamReader:
    """A site of a receiver: it depends on the stream at one place.

    Attributes:
        site: The site whose new value the receiver passes on.
        head: The heads that receive; None is all.
        turn: It reads what writers of earlier turns have written.
        name: The receiver, in words.
        is_end: Whether it is the stream that the logits are made of.
    """

    site: Site
    head: tuple[int, ...] | None
    turn: int
    name: str
    is_end: bool = False


def writers_of_model(layout: Layout) -> tuple[StreamWriter, ...]:
    """Every writer of a model, but for its embedding."""
    writers: list[StreamWriter] = []
    for layer, points in enumerate(layout.points):
        block_writers = []
        if mixer := _mixer_site(layout, layer):
            block_writers.append(StreamWriter(mixer, 2 * layer))
        if "mlp_out" in points:
            block_writers.append(StreamWriter(Site("mlp_out", layer), 2 * layer + 1))
        if not block_writers:
            raise MissingSiteError(
                f"`via` must be left out for {layout.family.name}: block {layer} has no site for what it adds to the "
                f"stream, because {layout.why_not('mlp_out')}. Patch without paths."
            )
        writers += block_writers
    return tuple(writers)


def _mixer_site(layout: Layout, layer: int) -> Site | None:
    for name in ("mixer_out", "attn_out"):
        if name in layout.points[layer]:
            return Site(name, layer)
    return None


def writers_of_edit(layout: Layout, edit: Edit) -> tuple[StreamWriter, ...]:
    """The writers that an edit changes from inside.

    Raises:
        ValueRefusedError: It edits the stream itself, or a raw path.
        MissingSiteError, SelectionError: A site or a layer is not there.
    """
    sites = layout.select(edit.site, edit.layer)
    return tuple(dict.fromkeys(_writer_of_site(layout, site) for site in sites))


def _writer_of_site(layout: Layout, site: Site) -> StreamWriter:
    if site.name == "embed":
        return EMBEDDING
    if site.layer is not None and site.name in _MLP:
        return StreamWriter(Site("mlp_out", site.layer), 2 * site.layer + 1)
    if site.layer is not None and site.name in _MIXER:
        mixer = _mixer_site(layout, site.layer)
        if mixer is not None:
            return StreamWriter(mixer, 2 * site.layer)
    raise ValueRefusedError(
        f"`at` must be a site inside what writes to the stream, if there is a `via`. Got {site}. Choose embed, z, "
        "attn_out, mixer_out, mlp_post or mlp_out, or patch it without a path."
    )


def readers_of(layout: Layout, receiver: Receiver) -> Iterator[StreamReader]:
    """The sites of a receiver, one a block.

    Raises:
        MissingSiteError, SelectionError: A site or a layer is not there.
    """
    kind = receiver.kind
    n_layers = len(layout.blocks)
    if kind.reads == "end":
        [site] = layout.select(kind.site, (n_layers - 1,))
        yield StreamReader(site, None, 2 * n_layers, receiver.name, is_end=True)
        return
    for site in layout.select(kind.site, receiver.layer):
        layer = site.layer or 0
        turn = 2 * layer
        if kind.reads == "mlp" and "resid_mid" in layout.points[layer]:
            turn += 1
        yield StreamReader(site, receiver.head, turn, f"{receiver.name} of layer {layer}")
