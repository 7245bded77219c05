"""`FeatureAxis`: the features of a dictionary that cells edit."""

from collections.abc import Sequence
from typing import Any, final

from typing_extensions import override

from mlx_patch.interventions import Intervention
from mlx_patch.sweeps.axes._axis import SweepAxis, SweepScope
from mlx_patch.sweeps.axes._choices import AxisChoice, is_group, parse_index


@final
class FeatureAxis(SweepAxis):
    """Features, and groups of them that are edited together; those that the intervention has, where none are chosen."""

    name = "feature"
    keyword = "features"
    order = 8
    ordered = False
    if_missing = "Write features=[1207, 44], or choose them in mp.Features."
    if_fixed = "Choose them in mp.Features, or add 'feature' to `over`."

    @override
    def changed(self, intervention: Intervention, choice: Any) -> Intervention:
        return intervention.with_features(choice)

    @override
    def full_range(self, scope: SweepScope) -> Sequence[Any]:
        by_intervention = {intervention.chosen_features for intervention in scope.interventions}
        if len(by_intervention) == 1:
            [features] = by_intervention
            if features is not None:
                return features
        return super().full_range(scope)

    @override
    def parse_choice(self, value: Any) -> AxisChoice:
        if is_group(value):
            return tuple(parse_index(self.title, number) for number in value)
        return parse_index(self.title, value)
