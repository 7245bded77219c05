"""What a sweep put in, as data for its provenance: whose activations, where cells do nothing but replace by them."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from mlx_patch.cache import ActivationCache
from mlx_patch.interventions import Edit, Intervention, Replace
from mlx_patch.interventions.sources import Aligned


def sources_of(
    interventions: Sequence[Intervention], edits: Iterable[Sequence[Sequence[Edit]]]
) -> list[dict[str, Any]] | None:
    """Whose activations the cells put in, one entry an intervention.

    None where a cell does more than to replace whole activations of one place by those of a cache: where it edits
    twice, several layers, a part of the last axis, heads or rows, does something else, or takes other values.

    Args:
        interventions: One, or one a prompt.
        edits: For each, the edits of every cell.
    """
    if not interventions or not all(map(_is_patch, (cell for cells in edits for cell in cells))):
        return None
    caches = [_cache_of(one) for one in interventions]
    return None if None in caches else [_described(cache) for cache in caches if cache is not None]


def _is_patch(cell: Sequence[Edit]) -> bool:
    if len(cell) != 1:
        return False
    [edit] = cell
    parts = (edit.head, edit.neuron, edit.batch, edit.steps)
    one_place = edit.layer is None or len(edit.layer) == 1
    return type(edit) is Edit and one_place and all(part is None for part in parts)


def _cache_of(intervention: Intervention) -> ActivationCache | None:
    """The cache that a `Replace` takes its values from; None for any other intervention or source."""
    if type(intervention) is not Replace:  # a subclass may do anything
        return None
    source = intervention.source
    if isinstance(source, Aligned):
        source = source.source
    return source if type(source) is ActivationCache else None


def _described(cache: ActivationCache) -> dict[str, Any]:
    return {"model": dict(cache.model), "tokens": np.array(cache.tokens).tolist()}
