"""`Receiver` and `Path`: what reads the stream, and an edit that acts on that reader alone.

A path knows nothing of `Edit`, which makes paths.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from typing_extensions import override

from mlx_patch import arguments
from mlx_patch.errors import KindError, SelectionError, shown


@dataclass(frozen=True)
class ReceiverKind:
    """What the receivers of one name have in common.

    Attributes:
        site: The site whose new value the receiver passes on.
        reads: Which stream it reads: what enters the block's mixer, what enters its MLP, or what leaves the last block.
        has_heads: Whether it may be one head.
    """

    site: str
    reads: Literal["mixer", "mlp", "end"]
    has_heads: bool = False


_KINDS: Mapping[str, ReceiverKind] = {
    "q": ReceiverKind("q", "mixer", has_heads=True),
    "k": ReceiverKind("k", "mixer", has_heads=True),
    "v": ReceiverKind("v", "mixer", has_heads=True),
    "mixer": ReceiverKind("mixer_out", "mixer"),
    "router": ReceiverKind("router_logits", "mlp"),
    "mlp": ReceiverKind("mlp_out", "mlp"),
    "logits": ReceiverKind("resid_post", "end"),
}


@dataclass(frozen=True, repr=False)
class Receiver:
    """What reads the stream at the end of a path.

    Args:
        name: "q", "k" or "v" of an attention; "mlp", "mixer" or "router" of a block; or "logits".
        layer: The block, from 0; negative ones count from the last. Several receive together. None for "logits".
        head: Of "q", "k" and "v"; of the last two real KV heads. None is all.
    Raises:
        UnknownNameError: There is no such receiver.
        SelectionError: It has no layer, or has heads or a layer that it cannot have.
    Source:
        Goldowsky-Dill et al. 2023, https://arxiv.org/abs/2304.05969, section 2.
    Example:
        >>> str(Receiver("q", layer=11, head=3)), str(Receiver("logits"))
        ('q.11.3', 'logits')
    """

    name: str
    layer: Any = None
    head: Any = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", arguments.choice("receiver", self.name, _KINDS, "a receiver"))
        object.__setattr__(self, "layer", arguments.chosen_numbers("layer", self.layer))
        object.__setattr__(self, "head", arguments.chosen_numbers("head", self.head))
        if self.kind.reads == "end" and self.layer is not None:
            raise SelectionError(f"`layer` must be None for {self.name!r}. Got {self.layer}. Leave it out.")
        if self.kind.reads != "end" and self.layer is None:
            raise SelectionError(f"`layer` must be the block of {self.name!r}. Got None. Write layer=11, say.")
        if self.head is not None and not self.kind.has_heads:
            raise SelectionError(f"`head` must be None for {self.name!r}. Got {self.head}. Leave it out.")

    @property
    def kind(self) -> ReceiverKind:
        """What it has in common with others of its name."""
        return _KINDS[self.name]

    @override
    def __str__(self) -> str:
        choices = [choice for choice in (self.layer, self.head) if choice is not None]
        return ".".join([self.name, *("+".join(map(str, choice)) for choice in choices)])

    @override
    def __repr__(self) -> str:
        return f"Receiver({self._arguments()})"

    def _arguments(self) -> str:
        choices = [repr(self.name)]
        for name in ("layer", "head"):
            choice = getattr(self, name)
            if choice is not None:
                choices.append(f"{name}={_written(choice)}")
        return ", ".join(choices)


@dataclass(frozen=True, repr=False)
class Path:
    """An edit that acts on some receivers alone: each is given the stream that the edit makes, nothing else is.

    `Edit.via` makes it. A path through several receivers, one after the other, has a path as its sender.

    Attributes:
        sender: The edit whose change is sent, or the path that ends where this one begins.
        receivers: What reads the changed stream.
    """

    sender: Any
    receivers: tuple[Receiver, ...]

    def __post_init__(self) -> None:
        if not isinstance(self.sender, Path) and not hasattr(self.sender, "parts"):  # an Edit, which imports this
            raise KindError(f"`sender` must be an Edit or a Path. Got {shown(self.sender)}. Write `edit.via(...)`.")
        object.__setattr__(self, "receivers", receivers_of(self.receivers, None, None))

    def via(self, receiver: "str | Receiver | Iterable[Receiver]", layer: Any = None, head: Any = None) -> "Path":
        """The path that goes on from these receivers to others. Arguments and errors are those of `Edit.via`."""
        return Path(self, receivers_of(receiver, layer, head))

    @property
    def edit(self) -> Any:
        """The edit at its beginning."""
        sender = self.sender
        while isinstance(sender, Path):
            sender = sender.sender
        return sender

    def with_edit(self, edit: Any) -> "Path":
        """The same path, with another edit at its beginning."""
        if isinstance(self.sender, Path):
            return replace(self, sender=self.sender.with_edit(edit))
        return replace(self, sender=edit)

    @override
    def __repr__(self) -> str:
        if len(self.receivers) == 1:
            return f"{self.sender!r}.via({self.receivers[0]._arguments()})"
        return f"{self.sender!r}.via({list(self.receivers)!r})"


CellEdit = Any
"""An `Edit` or a `Path`: what a cell of a sweep consists of."""


def receivers_of(receiver: "str | Receiver | Iterable[Receiver]", layer: Any, head: Any) -> tuple[Receiver, ...]:
    """The receivers that the arguments of `via` name.

    Raises:
        UnknownNameError, SelectionError: As `Receiver` says.
        KindError: Something is no receiver, or there is none.
    """
    if isinstance(receiver, str):
        return (Receiver(receiver, layer, head),)
    if layer is not None or head is not None:
        raise SelectionError(
            f"`layer` and `head` must be left out beside a Receiver. Got {shown(layer)} and {shown(head)}."
        )
    receivers = receiver
    if isinstance(receiver, Receiver):
        receivers = (receiver,)
    if not isinstance(receivers, list | tuple) or not receivers:
        raise KindError(f"`receiver` must be a name or Receivers. Got {shown(receiver)}. Write 'q', layer=11, say.")
    for member in receivers:
        if not isinstance(member, Receiver):
            raise KindError(
                f"`receiver` must be a name or Receivers. Got {shown(member)}. Write mp.Receiver('logits')."
            )
    if len(set(receivers)) < len(receivers):
        raise SelectionError(f"`receiver` must name each receiver once. Got {list(receivers)}. Leave one out.")
    return tuple(receivers)


def _written(choice: tuple[int, ...]) -> str:
    if len(choice) == 1:
        return str(choice[0])
    return str(choice)
