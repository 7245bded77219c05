"""`Elementwise`: interventions that make each number of an activation from that number alone."""

from typing_extensions import override

from mlx_patch.interventions._base import Intervention


class Elementwise(Intervention):
    """An intervention whose result for an entry depends on that entry alone, in any row, position or piece."""

    @property
    @override
    def by_row(self) -> bool:
        return True

    @property
    @override
    def by_position(self) -> bool:
        return True

    @property
    @override
    def in_pieces(self) -> bool:
        return True

    @property
    @override
    def elementwise(self) -> bool:
        return True
