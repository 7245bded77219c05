"""`Variation`: what a sweep varies, as one value; and the keywords of `sweep` that other verbs hand on."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

import mlx.core as mx
from typing_extensions import TypeIs

from mlx_patch.errors import KindError, ValueRefusedError
from mlx_patch.execution.progress import ProgressChoice
from mlx_patch.interventions import Edit, Path
from mlx_patch.sites import Site
from mlx_patch.sweeps.axes import SweepAxis, sweep_axes

CellChoice = Edit | Path | Sequence[Edit | Path] | Mapping[str, Any]
"""A cell given by itself: edits, or what `Intervention.at` is given besides the site."""


AxisName = str | SweepAxis
"""An axis as `over` has it: its name, or the axis with the choices along it."""


OverChoice = AxisName | Sequence[AxisName] | Sequence[CellChoice]
"""The argument `over` of a sweep: axes, or cells."""


@dataclass(frozen=True)
class Variation:
    """What a sweep varies, as its caller says it.

    Attributes:
        at: The argument `at` of `sweep`.
        over: The argument `over`.
        choices: By the name of an axis, the keyword that chooses along it.
    """

    at: str | Site | Sequence[str | Site] | None
    over: OverChoice
    choices: Mapping[str, Any]

    def axes(self) -> dict[str, SweepAxis]:
        """Every axis with the choices along it, by name: those that have a keyword, and those that `over` has.

        Raises:
            ValueRefusedError: A keyword and an axis in `over` choose along the same axis.
        """
        members = _members(self.over)
        named = {member for member in members if isinstance(member, str)}
        axes = {}
        for name, kind in sweep_axes().items():
            if kind.keyword or name in named:
                axes[name] = kind(self.choices.get(name))
        for axis in members:
            if isinstance(axis, SweepAxis):
                self._refuse_keyword_beside(axis)
                axes[axis.name] = axis
        return axes

    def _refuse_keyword_beside(self, axis: SweepAxis) -> None:
        if self.choices.get(axis.name) is not None:
            raise ValueRefusedError(
                f"`{axis.keyword}` must be left out where `over` has the choices. Got both: {axis!r}. "
                f"Write over={axis.name!r}."
            )


def choices_of(
    layers: Any,
    positions: Any,
    heads: Any,
    neurons: Any,
    alphas: Any,
    seeds: Any = None,
    via: Any = None,
    features: Any = None,
) -> dict[str, Any]:
    """The keywords of `sweep` that choose along axes, by the name of the axis."""
    return {
        "layer": layers,
        "pos": positions,
        "head": heads,
        "neuron": neurons,
        "alpha": alphas,
        "seed": seeds,
        "via": via,
        "feature": features,
    }


def are_axes(over: object) -> TypeIs[AxisName | Sequence[AxisName]]:
    """Whether `over` has axes, and does not list cells.

    Raises:
        KindError: They are neither.
    """
    if not isinstance(over, str | SweepAxis | list | tuple):
        raise KindError(
            f"`over` must be names of axes, or a list of cells. Got {type(over).__name__}. Write over=('layer',), say."
        )
    members = _members(over)
    return bool(members) and all(isinstance(member, str | SweepAxis) for member in members)


def axis_names(over: AxisName | Sequence[AxisName]) -> tuple[str, ...]:
    """The names of the axes that `over` has, in order."""
    return tuple(member if isinstance(member, str) else member.name for member in _members(over))


def _members(over: Any) -> Sequence[Any]:
    """What is listed in `over`, or the one axis that it is."""
    if isinstance(over, list | tuple):
        return over
    return (over,)


class RunChoices(TypedDict, total=False):
    """The keywords of `sweep` that say how it runs."""

    executor: str
    progress: ProgressChoice
    memory: int | None
    checkpoint: str | os.PathLike[str] | None
    group: mx.distributed.Group | None


class AxisChoices(RunChoices, total=False):
    """Those, and the keywords that choose along axes, but for positions."""

    layers: Any
    heads: Any
    neurons: Any
    alphas: Any
    seeds: Any
    via: Any
    features: Any
    freeze: str


class SweepChoices(AxisChoices, total=False):
    """The keywords of `sweep` that `sweep_pair` hands on: what varies, and how it runs."""

    over: Any


class CrossChoices(AxisChoices, total=False):
    """The keywords of `sweep` that patching across models hands on."""

    positions: Any
