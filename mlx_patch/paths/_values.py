"""`ReceivedValues`: what a receiver's site becomes; and the edits that put it there."""

from dataclasses import dataclass, replace
from typing import Any

import mlx.core as mx
from typing_extensions import override

from mlx_patch.errors import MissingSiteError
from mlx_patch.interventions import Add, Edit, Replace
from mlx_patch.sites import Site, site_of


@dataclass(frozen=True, eq=False, repr=False)
class ReceivedValues:
    """What a receiver's site is once a path's change has reached it.

    Attributes:
        site: The site.
        values: Of some heads, or of all there is. Shape `(batch, pos, ...)`.
        head: The heads, from 0; None is all.
        n_heads: How many heads the site has; 0 if it has none.
        tokens: The prompts. Shape `(batch, pos)`.
        positions: The absolute positions that it holds, in order.
    """

    site: Site
    values: mx.array
    head: tuple[int, ...] | None
    n_heads: int
    tokens: mx.array
    positions: tuple[int, ...]

    @property
    def n_positions(self) -> int:
        """The positions of each prompt."""
        return self.tokens.shape[1]

    def __contains__(self, key: object, /) -> bool:
        return key == self.site

    def __getitem__(self, key: Any, /) -> mx.array:
        """The values with the axes of the site: zeros at heads that do not receive, which no edit reads."""
        if site_of(key, None) != self.site:
            raise MissingSiteError(f"`site` must be {self.site}, where this path ends. Got {key}. Ask for it there.")
        if self.head is None:
            return self.values
        batch, length, _, d_head = self.values.shape
        by_head = mx.zeros((batch, length, self.n_heads, d_head), self.values.dtype)
        by_head[:, :, mx.array(self.head)] = self.values
        return by_head

    @override
    def __repr__(self) -> str:
        return f"what reaches {self.site}"


@dataclass(frozen=True, repr=False, eq=False, init=False)
class ReplaceAtEnd(Replace):
    """`Replace` of the stream behind all blocks: no run is shorter for it, so it needs no past of the unpatched run."""

    @property
    @override
    def by_position(self) -> bool:
        return False


def replacing_edit(source: ReceivedValues, is_end: bool) -> Edit:
    """The edit that puts values in."""
    if is_end:
        return _edit(ReplaceAtEnd(source), source)
    return _edit(Replace(source), source)


def added_edit(source: ReceivedValues, unchanged: mx.array) -> Edit:
    """The edit that adds by how much values differ from the host's. Shape of `unchanged`: `(batch, pos, ...)`."""
    difference = source.values - unchanged[:, mx.array(source.positions)]
    return _edit(Add(replace(source, values=difference)), source)


def _edit(intervention: Replace | Add, source: ReceivedValues) -> Edit:
    pos = None
    if len(source.positions) < source.n_positions:
        pos = source.positions
    return intervention.at(source.site, pos=pos, head=source.head)
