"""`Local` and `Elementwise`: interventions that make a part of an activation from that part alone."""

from typing_extensions import override

from mlx_patch.interventions._base import Intervention


class Local(Intervention):
    """An intervention whose result for a position of a row depends on that position of that row alone."""

    @property
    @override
    def by_row(self) -> bool:
        return True

    @property
    @override
    def by_position(self) -> bool:
        return True


class Elementwise(Local):
    """An intervention whose result for an entry depends on that entry alone, in any row, position or piece."""

    @property
    @override
    def in_pieces(self) -> bool:
        return True

    @property
    @override
    def elementwise(self) -> bool:
        return True
