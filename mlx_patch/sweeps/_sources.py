"""The sources of a sweep for its provenance: whose activations its cells put in, if they do nothing else."""

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any

import numpy as np

from mlx_patch.cache import ActivationCache
from mlx_patch.interventions import Edit, Intervention, Replace
from mlx_patch.interventions.sources import Aligned


def sources_of(
    interventions: Sequence[Intervention], edits: Iterable[Sequence[Sequence[Edit]]]
) -> list[dict[str, Any]] | None:
    """The prompt and model of the activations that the cells put in, one entry an intervention.

    None where a cell does more than replace whole activations of one place by those of a cache: where it edits
    twice, several layers, a part of the last axis, heads or rows, does something else, or takes other values.

    Args:
        interventions: One, or one a prompt.
        edits: For each, the edits of every cell.
    """
    if not interventions or not all(map(_is_patch, chain.from_iterable(edits))):
        return None
    descriptions: list[dict[str, Any]] = []
    for intervention in interventions:
        cache = _cache_of(intervention)
        if cache is None:
            return None
        descriptions.append(_describe(cache))
    return descriptions


def _is_patch(cell: Sequence[Edit]) -> bool:
    if len(cell) != 1:
        return False
    [edit] = cell
    if type(edit) is not Edit:
        return False
    if edit.layer is not None and len(edit.layer) != 1:
        return False
    selections = (edit.head, edit.neuron, edit.batch, edit.key, edit.steps)
    return all(selection is None for selection in selections)


def _cache_of(intervention: Intervention) -> ActivationCache | None:
    """The cache that a `Replace` takes its values from; None for any other intervention or source."""
    if type(intervention) is not Replace or intervention.basis is not None:  # a subclass may do anything
        return None
    source = intervention.source
    if isinstance(source, Aligned):
        source = source.source
    if type(source) is not ActivationCache:
        return None
    return source


def _describe(cache: ActivationCache) -> dict[str, Any]:
    return {"model": dict(cache.model), "tokens": np.array(cache.tokens).tolist()}
