"""Which paths there cannot be, and on which models."""

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations

from mlx_patch import arguments
from mlx_patch.architectures import UNKNOWN, Layout
from mlx_patch.errors import ArchitectureError, SelectionError, ValueRefusedError, shown
from mlx_patch.interventions import CellEdit, Edit, Path
from mlx_patch.paths._writers import StreamReader, StreamWriter

FREEZES = ("all", "attention")
"""What is frozen between sender and receiver: every writer, or all but the MLPs, which are recomputed."""

_SHARED_KEYS = ("k", "v", "rot_k")
_INSIDE = {"q": "mixer_out", "k": "mixer_out", "v": "mixer_out", "router_logits": "mlp_out"}
"""The site that a receiver's site decides, if that is a receiver's as well."""


def checked_freeze(freeze: str) -> str:
    """A choice of what is frozen.

    Raises:
        UnknownNameError: It is none.
    """
    return arguments.choice("freeze", freeze, FREEZES, "'all' or 'attention'")


def refuse_model(layout: Layout) -> None:
    """Refuse a model whose stream is not decided by what its blocks' mixers and MLPs add.

    Raises:
        ArchitectureError: It is one; the message says why.
    """
    if reason := _why_no_paths(layout):
        raise ArchitectureError(
            f"`via` must be left out for {layout.family.name}: {reason}. Patch without paths, or use another model."
        )


def _why_no_paths(layout: Layout) -> str:
    family = layout.family
    if family.name == UNKNOWN:
        return "this architecture has no table that says what its blocks add to the stream"
    if layout.times > 1:
        return "its blocks run several times"
    if family.parts > 1:
        return f"a block is {family.parts} layers, which overlap"
    if layout.n_streams > 1:
        return f"it has {layout.n_streams} streams, which its blocks mix"
    if family.stream.kept is not None:
        return "later blocks read what enters a block besides the stream"
    if layout.with_module(family.stream.more):
        return f"its blocks add more than mixer and MLP: {family.stream.says}"
    if family.cached:
        return "it is itself only over a prompt cache"
    return ""


def refuse_mixture(cell: Sequence[CellEdit]) -> None:
    """Refuse a cell with paths and edits: a path is frozen by the host, which does not have the edits.

    Raises:
        ValueRefusedError: It is one.
    """
    edits = [member for member in cell if not isinstance(member, Path)]
    if edits and len(edits) < len(cell):
        raise ValueRefusedError(
            f"`over` must not have a cell of both paths and edits. Got {shown(edits[0])} beside a path. Put it "
            "into a cell "
            "of its own, or into `edits`, so that every run has it."
        )


def refuse_sender(layout: Layout, edit: Edit) -> None:
    """Refuse an edit that reaches more than the writer that it is in.

    Raises:
        ArchitectureError: Other blocks read the site besides the stream.
    """
    family = layout.family
    is_shared = bool(family.shared) and edit.site in _SHARED_KEYS
    if is_shared or (edit.site == "embed" and family.embed is not None):
        raise ArchitectureError(
            f"`at` must not be {edit.site!r} of {family.name}, if there is a `via`: other blocks read it besides the "
            "stream. Choose another site, or patch it without a path."
        )


def refuse_order(layout: Layout, edit: Edit, writer: StreamWriter, reader: StreamReader) -> None:
    """Refuse a receiver that does not read what its sender writes.

    Raises:
        SelectionError: It is one.
    """
    if writer.turn < reader.turn:
        return
    layer = reader.site.layer or 0
    reason = "reads the stream before its sender has written"
    if writer.site.layer == layer and not writer.is_mlp and reader.site.name in ("mlp_out", "router_logits"):
        reason = f"does not read what its block's mixer adds, because {layout.why_not('resid_mid')}"
    raise SelectionError(
        f"`via` must be a receiver that reads what the sender writes. Got {edit.site} of layer {writer.site.layer} to "
        f"{reader.name}, which {reason}. {_earlier(writer, reader)}"
    )


def _earlier(writer: StreamWriter, reader: StreamReader) -> str:
    """The layers of a sender of the same kind that the receiver reads, as a sentence."""
    n_earlier = (reader.turn + 1) // 2
    if writer.is_mlp:
        n_earlier = reader.turn // 2
    if n_earlier == 0:
        return "No such sender is before it."
    return f"Choose senders of earlier layers: layers=range({n_earlier}), say."


def refuse_recomputed_senders(freeze: str, senders: Sequence[tuple[Edit, StreamWriter]]) -> None:
    """Refuse an MLP that sends behind another sender, where MLPs are recomputed: it would do both.

    Raises:
        ValueRefusedError: There is one.
    """
    if freeze == "all":
        return
    first = min(writer.turn for _, writer in senders)
    for edit, writer in senders:
        if writer.is_mlp and writer.turn > first:
            raise ValueRefusedError(
                "`freeze` must be 'all' if an MLP sends together with an earlier sender. Got 'attention' with "
                f"{edit!r}. Send them one by one, or write freeze='all'."
            )


def refuse_overlap(
    senders_of_cell: Mapping[StreamReader, tuple[Edit, ...]], heads_of: Callable[[StreamReader], tuple[int, ...] | None]
) -> None:
    """Refuse receivers of a cell of which one has the other, or some of its heads, and other senders.

    Raises:
        SelectionError: There are such. The value of one would replace that of the other.
    """
    for first, second in combinations(senders_of_cell, 2):
        if senders_of_cell[first] != senders_of_cell[second] and _overlap(first, second, heads_of):
            raise SelectionError(
                f"`via` must not have receivers that overlap, with other senders for each. Got {first.name} and "
                f"{second.name} in one cell. Send all senders to both, or choose other heads."
            )


def _overlap(
    first: StreamReader, second: StreamReader, heads_of: Callable[[StreamReader], tuple[int, ...] | None]
) -> bool:
    if first.site == second.site:
        heads, second_heads = heads_of(first), heads_of(second)
        return heads is None or second_heads is None or not set(heads).isdisjoint(second_heads)
    if first.site.layer != second.site.layer:
        return False
    return _INSIDE.get(first.site.name) == second.site.name or _INSIDE.get(second.site.name) == first.site.name
