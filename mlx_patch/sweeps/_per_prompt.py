"""Interventions, one for all prompts or one per prompt, as the edits of each group of prompts."""

from collections.abc import Iterator, Sequence

from mlx_patch.errors import KindError, ValueRefusedError, shown
from mlx_patch.interventions import CellEdit, Edit, Intervention, Path
from mlx_patch.model import HookedModel, SelectorResolver
from mlx_patch.tokens import Batch


def edits_by_batch(
    edits: Sequence[Sequence[tuple[CellEdit, ...]]], batches: Sequence[Batch], model: HookedModel
) -> Iterator[list[tuple[CellEdit, ...]]]:
    """For each batch the edits of every cell, at the positions of its own prompts."""
    for batch in batches:
        resolver = SelectorResolver(batch.tokens, model.tokenizer, alone=batch.alone)
        batch_cells = []
        for cell in _edits_by_row(edits, batch):
            batch_cells.append(tuple(_join(resolver, members) for members in cell))
        yield batch_cells


def _join(resolver: SelectorResolver, members: Sequence[CellEdit]) -> CellEdit:
    """One edit from an edit for each row; of paths, one path whose sender is that of each row."""
    first = members[0]
    if not isinstance(first, Path):
        return resolver.join(members)
    return first.with_edit(resolver.join([path.edit for path in members]))


def checked_interventions(
    argument: Intervention | Sequence[Intervention] | None, n_examples: int
) -> list[Intervention]:
    """One intervention for all prompts, or one per prompt; an empty list for None."""
    if argument is None:
        return []
    if not isinstance(argument, list | tuple):
        return [_require_intervention(argument)]
    if len(argument) != n_examples:
        raise ValueRefusedError(
            f"`intervention` must be one intervention, or one per prompt: {n_examples}. Got {len(argument)}. Compose "
            "several with `|`."
        )
    return list(map(_require_intervention, argument))


def _require_intervention(value: object) -> Intervention:
    if not isinstance(value, Intervention):
        raise KindError(
            f"`intervention` must be an Intervention, or one per prompt. Got {shown(value)}. Write "
            "mp.Replace(cache), say."
        )
    return value


def refuse_rows(edits: Sequence[Edit], several: bool) -> None:
    """Refuse edits of single rows where prompts run in several groups, or each has its own intervention.

    Raises:
        ValueRefusedError: There is one.
    """
    for edit in edits:
        if several and edit.batch is not None:
            raise ValueRefusedError(
                "`batch` must be left out if prompts differ in length, are a list, or have one intervention each. Got "
                f"{edit!r}. Pass prompts of one length as one array, or give one intervention per prompt."
            )


def _edits_by_row(
    edits: Sequence[Sequence[tuple[CellEdit, ...]]], batch: Batch
) -> Iterator[list[tuple[CellEdit, ...]]]:
    """For each cell of a batch a list of its edits, each as a tuple with the edit of every row.

    Args:
        edits: The edits of every cell, once for all prompts or once a prompt.
        batch: The prompts of the rows.
    """
    if len(edits) > 1:
        cells_by_row = [edits[example] for example in batch.examples]
    else:
        cells_by_row = [edits[0] for _ in batch.examples]
    for cell_by_row in zip(*cells_by_row, strict=True):
        yield list(zip(*cell_by_row, strict=True))
