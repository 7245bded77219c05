"""`Scaled`: what a derivative of a sweep is taken of."""

from dataclasses import dataclass

import mlx.core as mx
from typing_extensions import override

from mlx_patch.interventions import Intervention


@dataclass(frozen=True, repr=False, eq=False)
class Scaled(Intervention):
    """The change of another intervention, times a number; where the change is not finite, none."""

    intervention: Intervention
    factor: float

    @property
    @override
    def by_position(self):
        return self.intervention.by_position

    @property
    @override
    def by_row(self):
        return self.intervention.by_row

    @override
    def __call__(self, own, where):
        change = self.intervention(own, where) - own
        return own + mx.where(mx.isfinite(change), self.factor * change, 0)

    @override
    def check(self, sites):
        self.intervention.check(sites)
