"""`Executor`: a way to run the cells of a sweep, as a value. Each final subclass has a file of this folder."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import mlx.core as mx

from mlx_patch.architectures import Layout
from mlx_patch.execution.cells import Cell
from mlx_patch.execution.passes import UnpatchedRun
from mlx_patch.execution.plan import CellStart, Pass
from mlx_patch.execution.readouts import Readout
from mlx_patch.sites import Site

PassValues = tuple[mx.array, Callable[[], int]]
"""Metrics of the cells of a pass, unevaluated, `(cell, metric, batch)`; and its token-layers, once evaluated."""


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


class Executor(ABC):
    """A way to run the cells of a sweep. A final subclass with a `name` can be chosen as `sweep(executor=name)`.

    All executors return the same numbers. They differ in how much they compute twice.

    Attributes:
        name: The value of `executor=` that chooses it.
        description: What it does, for a plan.
        preference: Its turn when "auto" looks for the first executor that can serve; None leaves it out.
        one_cell_a_pass: Whether each cell runs by itself, over the whole prompt.
        whole_rows: Whether each row runs through all blocks, as some measurements need.
    """

    name: ClassVar[str]
    description: ClassVar[str]
    preference: ClassVar[int | None] = None
    one_cell_a_pass: ClassVar[bool] = False
    whole_rows: ClassVar[bool] = True

    @abstractmethod
    def why_not(self, layout: Layout, cells: Sequence[Cell]) -> str:
        """Why it cannot run some cells on an architecture, as a clause; empty where it can."""

    @abstractmethod
    def entry(self, cell: CellStart) -> int:
        """The block at which the row of a cell enters."""

    def unpatched_sites(self, layout: Layout, cells: Sequence[Cell]) -> tuple[Site, ...]:
        """The activations of the unpatched run that the rows of these cells need; by default none."""
        del layout, cells
        return ()

    @abstractmethod
    def run(self, task: PassTask, unpatched: UnpatchedRun) -> PassValues:
        """The metrics of the cells of a pass.

        Args:
            task: The pass.
            unpatched: The unpatched run of the same prompts, with the activations at `unpatched_sites`.
        """
