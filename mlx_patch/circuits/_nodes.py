"""`Writer` and `Reader`: the two ends of an edge."""

from dataclasses import dataclass
from typing import Literal

from typing_extensions import override


@dataclass(frozen=True)
class Writer:
    """A part of the model that adds to the stream.

    Attributes:
        kind: "input" is the embedding, "head" a head's share of `attn_out`, "mixer" a mixer without heads.
        layer: Its block; None of the embedding.
        head: Its query head; None where it is no head.
    Example:
        >>> str(Writer("input")), str(Writer("head", 0, 1)), str(Writer("mlp", 2))
        ('input', 'a0.h1', 'm2')
    """

    kind: Literal["input", "head", "mixer", "mlp"]
    layer: int | None = None
    head: int | None = None

    @override
    def __str__(self) -> str:
        return _name_of(self.kind, self.layer, self.head)


@dataclass(frozen=True)
class Reader:
    """A part of the model that reads the stream.

    Attributes:
        kind: "q" of a query head, "k" or "v" of a KV head, "mixer" where a mixer is not read by head, "mlp" with its
            router, or "logits".
        layer: Its block; None of the logits.
        head: The query head of "q", the KV head of "k" and "v"; None elsewhere.
    Example:
        >>> str(Reader("q", 2, 3)), str(Reader("k", 2, 1)), str(Reader("mlp", 2)), str(Reader("logits"))
        ('a2.h3<q>', 'a2.kv1<k>', 'm2', 'logits')
    """

    kind: Literal["q", "k", "v", "mixer", "mlp", "logits"]
    layer: int | None = None
    head: int | None = None

    @override
    def __str__(self) -> str:
        if self.head is None:
            return _name_of(self.kind, self.layer, self.head)
        if self.kind == "q":
            return f"a{self.layer}.h{self.head}<q>"
        # A KV head has a number of its own, which is not that of a query head.
        return f"a{self.layer}.kv{self.head}<{self.kind}>"


def _name_of(kind: str, layer: int | None, head: int | None) -> str:
    """The name of a part, as circuits of other libraries spell it; whole mixers have none there."""
    if layer is None:
        return kind
    if head is not None:
        return f"a{layer}.h{head}"
    if kind == "mlp":
        return f"m{layer}"
    return f"{kind}{layer}"
