"""`LayerMap`: which layer of one model stands for which of another."""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from typing_extensions import override

from mlx_patch.errors import KindError, SelectionError, ValueRefusedError


@dataclass(frozen=True)
class LayerMap:
    """Which layer of the donor is put in at which of the target.

    Args:
        pairs: `(target layer, donor layer)`, from 0, which rise in both; a donor layer may serve several.

    Raises:
        KindError: Something is no pair of ints.
        ValueRefusedError: They do not rise, or there are none.
    Example:
        >>> print(LayerMap.proportional(4, 2))
        target | 0 | 1 | 2 | 3
        donor  | 0 | 0 | 1 | 1
    """

    pairs: tuple[tuple[int, int], ...]

    def __init__(self, pairs: Iterable[tuple[int, int]]) -> None:
        own: tuple[Any, ...] = tuple(tuple(pair) if isinstance(pair, tuple | list) else (pair,) for pair in pairs)
        for pair in own:
            if len(pair) != 2 or any(isinstance(n, bool) or not isinstance(n, int) or n < 0 for n in pair):
                raise KindError(f"`pairs` must be (target layer, donor layer), from 0. Got {pair}.")
        if not own:
            raise ValueRefusedError("`pairs` must hold a pair of layers. Got none.")
        for before, after in pairwise(own):
            if before[0] >= after[0] or before[1] > after[1]:
                raise ValueRefusedError(f"`pairs` must rise, each target layer once. Got {before}, then {after}.")
        object.__setattr__(self, "pairs", own)

    @classmethod
    def proportional(cls, target_layers: int, donor_layers: int) -> "LayerMap":
        """Every layer of the target, with the donor's at the same share of its depth: the last is the last's."""
        if target_layers < 1 or donor_layers < 1:
            raise ValueRefusedError(f"`layers` must be 1 or more. Got {target_layers} and {donor_layers}.")
        return cls((n, max(0, -(-(n + 1) * donor_layers // target_layers) - 1)) for n in range(target_layers))

    @property
    def targets(self) -> tuple[int, ...]:
        """The layers of the target, in order."""
        return tuple(target for target, _ in self.pairs)

    def donor_of(self, target: int) -> int:
        """The donor's layer for one of the target's.

        Raises:
            SelectionError: There is none.
        """
        found = dict(self.pairs)
        if target not in found:
            raise SelectionError(f"`layer` must be one that the map has: {list(self.targets)}. Got {target}.")
        return found[target]

    def require(self, target_layers: int, donor_layers: int) -> None:
        """Refuse layers that one of the models does not have.

        Raises:
            SelectionError: There is such a layer.
        """
        last = self.pairs[-1]
        if last[0] >= target_layers or last[1] >= donor_layers:
            raise SelectionError(
                f"`layer_map` must lie within {target_layers} and {donor_layers} layers, from 0. Got {last}."
            )

    @override
    def __str__(self) -> str:
        columns = [(str(a), str(b)) for a, b in self.pairs]
        padded = [[cell.rjust(max(map(len, column))) for cell in column] for column in columns]
        rows = [" | ".join([name, *(column[i] for column in padded)]) for i, name in enumerate(("target", "donor "))]
        return "\n".join(rows)
