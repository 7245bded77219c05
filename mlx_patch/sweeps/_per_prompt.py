"""Interventions, one for all prompts or one a prompt, as the edits of each group of prompts."""

from collections.abc import Iterator, Sequence

from mlx_patch.errors import KindError, ValueRefusedError
from mlx_patch.interventions import Edit, Intervention
from mlx_patch.model import HookedModel, SelectorResolver
from mlx_patch.tokens import Batch


def edits_by_batch(
    edits: Sequence[Sequence[tuple[Edit, ...]]], batches: Sequence[Batch], model: HookedModel
) -> Iterator[list[tuple[Edit, ...]]]:
    """For each batch the edits of every cell, at its own positions."""
    for batch in batches:
        placing = SelectorResolver(batch.tokens, model.tokenizer, alone=batch.alone)
        yield [tuple(map(placing.join, cell)) for cell in _by_row(edits, batch)]


def checked_interventions(given: Intervention | Sequence[Intervention] | None, n: int) -> list[Intervention]:
    """One for all prompts, or one a prompt; none where none was given."""
    if given is None:
        return []
    if not isinstance(given, list | tuple):
        return [_intervention(given)]
    if len(given) != n:
        raise ValueRefusedError(
            f"`intervention` must be one, or one a prompt: {n}. Got {len(given)}. Compose several with `|`."
        )
    return [_intervention(one) for one in given]


def _intervention(one: object) -> Intervention:
    if not isinstance(one, Intervention):
        raise KindError(
            f"`intervention` must be an Intervention, or one a prompt. Got {one!r}. Write mp.Replace(cache), say."
        )
    return one


def refuse_rows(edits: Sequence[Edit], several: bool) -> None:
    """Refuse edits of single rows where prompts run in several groups, or each has its own intervention.

    Raises:
        ValueRefusedError: There is one.
    """
    for edit in edits:
        if several and edit.batch is not None:
            raise ValueRefusedError(
                f"`batch` must be left out where prompts differ in length, stand in a list, or have an "
                f"intervention each. Got {edit!r}. "
                "Pass prompts of one length as one array, or give one intervention a prompt."
            )


def _by_row(per_prompt: Sequence[Sequence[tuple[Edit, ...]]], batch: Batch) -> Iterator[list[tuple[Edit, ...]]]:
    """For each cell of a batch its edits, each as the edits of all rows, which differ where each prompt has its own."""
    of_rows = [per_prompt[example if len(per_prompt) > 1 else 0] for example in batch.examples]
    for cell in zip(*of_rows, strict=True):
        yield list(zip(*cell, strict=True))
