"""`LayerMap`: which layer of one model stands for which of another."""

from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from math import ceil
from typing import Any

from typing_extensions import override

from mlx_patch import arguments
from mlx_patch.errors import KindError, SelectionError, ValueRefusedError, shown

_MOST = 10**5
"""Layers: more than any model has."""


@dataclass(frozen=True)
class LayerMap:
    """The donor's layer for each layer of the target.

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
        checked = tuple(map(_checked_pair, arguments.entries("pairs", pairs, "a list of (target layer, donor layer)")))
        if not checked:
            raise ValueRefusedError("`pairs` must hold a pair of layers. Got none.")
        for before, after in pairwise(checked):
            if before[0] >= after[0] or before[1] > after[1]:
                raise ValueRefusedError(
                    f"`pairs` must be in rising order, with each target layer once. Got {before}, then {after}."
                )
        object.__setattr__(self, "pairs", checked)

    @classmethod
    def proportional(cls, target_layers: int, donor_layers: int) -> "LayerMap":
        """A map of every target layer to the donor layer at the same relative depth; the last layers correspond."""
        target_layers = arguments.whole_number("target_layers", target_layers, 1, _MOST)
        donor_layers = arguments.whole_number("donor_layers", donor_layers, 1, _MOST)
        # After layer n the target has run (n + 1) / target_layers of its depth. The donor's layer is the first one
        # after which it has run as much. Integers alone, since float rounding would move a layer by one.
        pairs = []
        for layer in range(target_layers):
            n_donor_layers = ceil(Fraction((layer + 1) * donor_layers, target_layers))
            pairs.append((layer, n_donor_layers - 1))
        return cls(pairs)

    @property
    def targets(self) -> tuple[int, ...]:
        """The layers of the target, in order."""
        return tuple(target for target, _ in self.pairs)

    def donor_of(self, target: int) -> int:
        """The donor's layer for one of the target's.

        Raises:
            SelectionError: There is none.
        """
        target = arguments.whole_number("target", target, error=SelectionError)
        donor_layers = dict(self.pairs)
        if target not in donor_layers:
            raise SelectionError(f"`layer` must be one that the map has: {list(self.targets)}. Got {target}.")
        return donor_layers[target]

    def require(self, target_layers: int, donor_layers: int) -> None:
        """Refuse layers that one of the models does not have.

        Raises:
            SelectionError: There is such a layer.
        """
        target_layers = arguments.whole_number("target_layers", target_layers, 1)
        donor_layers = arguments.whole_number("donor_layers", donor_layers, 1)
        target, donor = self.pairs[-1]
        if target >= target_layers or donor >= donor_layers:
            raise SelectionError(
                f"`layer_map` must stay within {target_layers} target layers and {donor_layers} donor layers, counted "
                f"from 0. Got {(target, donor)}."
            )

    @override
    def __str__(self) -> str:
        target_cells, donor_cells = ["target"], ["donor "]
        for target, donor in self.pairs:
            width = max(len(str(target)), len(str(donor)))
            target_cells.append(str(target).rjust(width))
            donor_cells.append(str(donor).rjust(width))
        return f"{' | '.join(target_cells)}\n{' | '.join(donor_cells)}"


def _checked_pair(pair: Any) -> tuple[int, int]:
    entries = (pair,)
    if isinstance(pair, tuple | list):
        entries = tuple(pair)
    if len(entries) != 2 or not all(map(arguments.is_whole, entries)) or min(entries) < 0:
        raise KindError(f"`pairs` must be (target layer, donor layer), from 0. Got {shown(entries)}.")
    target, donor = (arguments.whole_number("pairs", entry) for entry in entries)
    return target, donor
