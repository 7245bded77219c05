"""`Variation`: what a sweep varies, as one value; and the keywords of `sweep` that other verbs hand on."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

import mlx.core as mx

from mlx_patch.execution.progress import ProgressChoice
from mlx_patch.interventions import Edit
from mlx_patch.sites import Site

CellChoice = Edit | Sequence[Edit] | Mapping[str, Any]
"""A cell given by itself: edits, or what `Intervention.at` is given besides the site."""


@dataclass(frozen=True)
class Variation:
    """What a sweep varies, as the caller wrote it. The attributes are the arguments of `sweep`."""

    at: str | Site | Sequence[str | Site] | None
    over: str | Sequence[str] | Sequence[CellChoice]
    layers: Any
    positions: Any
    heads: Any
    neurons: Any
    alphas: Any


class RunChoices(TypedDict, total=False):
    """The keywords of `sweep` that say how it runs."""

    executor: str
    progress: ProgressChoice
    memory: int | None
    checkpoint: str | os.PathLike[str] | None
    group: mx.distributed.Group | None


class SweepChoices(RunChoices, total=False):
    """The keywords of `sweep` that `sweep_pair` hands on: what varies, and how it runs."""

    over: Any
    layers: Any
    heads: Any
    neurons: Any
    alphas: Any


class CrossChoices(RunChoices, total=False):
    """The keywords of `sweep` that patching across models hands on."""

    layers: Any
    positions: Any
    heads: Any
    neurons: Any
    alphas: Any
