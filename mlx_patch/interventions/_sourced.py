"""`Sourced` and `Patching`: interventions that read a source, entry by entry."""

from abc import abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass

import mlx.core as mx
from typing_extensions import override

from mlx_patch.interventions._base import Intervention
from mlx_patch.interventions.sources import (
    Source,
    SourceLike,
    aligned,
    as_source,
    check_source,
    covered,
    serves_every_row,
)
from mlx_patch.positions import Alignment
from mlx_patch.sites import Site


class Sourced(Intervention):
    """An intervention whose result for an entry depends on that entry and on the source's entry there."""

    @property
    @abstractmethod
    def _named_source(self) -> tuple[str, Source]:
        """The name of the argument that has the source, and the source."""

    @property
    @override
    def by_row(self) -> bool:
        _, source = self._named_source
        return serves_every_row(source)

    @property
    @override
    def by_position(self) -> bool:
        return True

    @override
    def check(self, sites: Iterable[Site]) -> None:
        name, source = self._named_source
        check_source(name, source, sites)


@dataclass(frozen=True, repr=False, eq=False, init=False)
class Patching(Sourced):
    """An intervention that takes an activation to a source's values, all the way or part of it.

    Args:
        source: An `ActivationCache`, or an array.
        positions: Which position of the source's prompt stands for which of the run's; None where they are the same.
    Raises:
        KindError: The source is none, or an array that is to be aligned.
        SelectionError, ShapeError: The source is not of the alignment's source prompt.
    """

    source: Source

    def __init__(self, source: SourceLike, positions: Alignment | None = None) -> None:
        checked_source = as_source("source", source)
        object.__setattr__(self, "source", aligned("source", checked_source, positions))

    @property
    @override
    def _named_source(self) -> tuple[str, Source]:
        return "source", self.source

    @property
    @override
    def in_pieces(self) -> bool:
        return not isinstance(self.source, mx.array)  # an array may have the length of the prompt

    @property
    @override
    def covers(self) -> tuple[int, ...] | None:
        return covered(self.source)

    @property
    @override
    def elementwise(self) -> bool:
        return not isinstance(self.source, mx.array)
