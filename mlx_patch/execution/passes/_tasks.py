"""`PassTask` and `UnpatchedTask`: what a pass, and the unpatched run of a group of prompts, need to run."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import mlx.core as mx

from mlx_patch.architectures import Layout
from mlx_patch.execution.cells import Cell, KnownRun
from mlx_patch.execution.plan import Pass
from mlx_patch.execution.readouts import Readout
from mlx_patch.interventions import Edit
from mlx_patch.sites import Site

FINAL_NORM = Site("final_norm")


@dataclass(frozen=True)
class PassTask:
    """One pass of a sweep, with everything needed to run it.

    Attributes:
        layout: The model's layout.
        tokens: The prompts. Shape `(batch, pos)`.
        shape: Which cells run, from which position on, and where each enters.
        cells: These cells, in the order of `shape.cells`.
        readout: What the metrics read.
        piece: Positions that run at once, at most, where the prompt may be split.
        stages: An executor may add values that are computed on the way, with the token-layers before each. They show
            how far the pass is.
    """

    layout: Layout
    tokens: mx.array
    shape: Pass
    cells: Sequence[Cell]
    readout: Readout
    piece: int
    stages: list[tuple[int, mx.array]] = field(default_factory=list)


@dataclass(frozen=True)
class UnpatchedTask:
    """The unpatched run of a group of prompts, with everything needed to run it.

    Attributes:
        layout: The model's layout.
        tokens: The prompts. Shape `(batch, pos)`.
        readout: What the metrics read.
        starts: The positions at which passes begin, in order; where that is not 0, they need the past.
        sites: Where rows enter with the activation of the unpatched run.
        piece: Positions that run at once, at most, where the prompt may be split.
        cells: The cells of which it is seen whether they change nothing.
        standing: The edits that every run of the sweep has, this one too.
        host_run: The run with standing edits, if it was run before.
        read_tokens: The tokens that metrics read, if they need no others.
    """

    layout: Layout
    tokens: mx.array
    readout: Readout
    starts: Sequence[int]
    sites: Sequence[Site]
    piece: int
    cells: Sequence[Cell] = ()
    standing: Sequence[Edit] = ()
    host_run: KnownRun | None = None
    read_tokens: tuple[int, ...] = ()
