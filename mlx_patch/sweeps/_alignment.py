"""Alignments in a sweep: the sources of its interventions at the positions of its prompt."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from mlx_patch.errors import SelectionError, ShapeError
from mlx_patch.interventions import Intervention
from mlx_patch.positions import Alignment
from mlx_patch.tokens import Batch


def apply_alignment(
    interventions: list[Intervention], positions: Any, batches: Sequence[Batch]
) -> tuple[list[Intervention], Any]:
    """The interventions and the positions of a sweep, with an alignment applied to both.

    Without `positions`, interventions that all have values for the same positions only are swept at these.

    Raises:
        KindError: An intervention takes nothing from another prompt.
        ShapeError: The sweep has several prompts.
        SelectionError: The alignment is of other prompts.
    """
    if isinstance(positions, Alignment):
        _refuse_other_prompt(positions, batches)
        aligned = [intervention.aligned(positions) for intervention in interventions]
        return aligned, list(positions.targets)
    covered_positions = {intervention.covers for intervention in interventions}
    if positions is None and len(covered_positions) == 1:
        return interventions, covered_positions.pop()
    return interventions, positions


def _refuse_other_prompt(alignment: Alignment, batches: Sequence[Batch]) -> None:
    if len(batches) != 1 or batches[0].tokens.shape[0] != 1:
        count = sum(len(batch.examples) for batch in batches)
        raise ShapeError(
            f"`positions` must be an alignment for one prompt. Got one for {count}. "
            "Give each its own: intervention=[mp.Replace(cache, positions=alignment), ...]."
        )
    tokens = tuple(np.array(batches[0].tokens)[0].tolist())
    if tokens == alignment.target_tokens:
        return
    remedy = "Make it anew."
    if tokens == alignment.source_tokens:
        remedy = "The prompt is its source: use `alignment.inverse`."
    raise SelectionError(f"`positions` must be an alignment whose target is the prompt. Got another. {remedy}")
