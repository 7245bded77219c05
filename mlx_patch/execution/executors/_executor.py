"""`Executor`: a way to run the cells of a sweep, as a value. Each final subclass has a file of this folder."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import ClassVar

import mlx.core as mx

from mlx_patch.architectures import Layout
from mlx_patch.execution.cells import Cell
from mlx_patch.execution.passes import PassTask, UnpatchedRun
from mlx_patch.execution.plan import CellStart
from mlx_patch.sites import Site

PassValues = tuple[mx.array, Callable[[], int]]
"""Metrics of the cells of a pass, unevaluated, `(cell, metric, batch)`; and its token-layers, once evaluated."""


class Executor(ABC):
    """A way to run the cells of a sweep. A final subclass with a `name` can be chosen as `sweep(executor=name)`.

    All executors return the same numbers. They differ in how much they compute twice.

    Attributes:
        name: The value of `executor=` that chooses it.
        description: What it does, for a plan.
        preference: Its turn when "auto" looks for the first executor that can serve; None leaves it out.
        one_cell_a_pass: Whether each cell runs by itself, over the whole prompt.
        whole_rows: Whether each row runs through all blocks.
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
