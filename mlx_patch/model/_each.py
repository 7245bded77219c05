"""Runs of many prompts, each as if it ran alone: prompts of equal length share a forward pass, and nothing is padded.

An edit sees one row, `(1, pos, ...)`, as in a run of that prompt alone. So an intervention that depends on its whole
input, or on the number of its row, gives the same result here.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, cast

import mlx.core as mx
import numpy as np
from typing_extensions import TypeIs

from mlx_patch import arguments
from mlx_patch.architectures import Layout
from mlx_patch.errors import KindError, PatchError, ValueRefusedError
from mlx_patch.interventions import Edit, PositionChoice, prompt_edits
from mlx_patch.model._hooks import as_edits
from mlx_patch.model._running import RunResult, run
from mlx_patch.model._selector_resolver import SelectorResolver
from mlx_patch.positions import Selector
from mlx_patch.sites import SITES, Site
from mlx_patch.tokens import by_length, one_prompt

EditsOfEach = Iterable[Edit] | Sequence[Iterable[Edit]]
"""Edits of every prompt, or a list of edits for each."""


def prompts_of(prompts: Iterable[Any], tokenizer: Any, d_vocab: int) -> Iterator[mx.array]:
    """The tokens of each prompt, one after the other. Shape `(1, pos)`.

    Raises:
        KindError: `prompts` is one prompt, or holds something that is none.
        TokenError, ShapeError, SelectionError: As for the tokens of a run.
    """
    unordered = isinstance(prompts, str | bytes | bytearray | memoryview | Mapping | np.ma.MaskedArray)
    if (
        unordered
        or not isinstance(prompts, Iterable)
        or (isinstance(prompts, mx.array | np.ndarray) and prompts.ndim == 0)
    ):
        raise KindError(f"`prompts` must be a list of prompts. Got {type(prompts).__name__}. Put it into a list.")
    return _tokenize_all(prompts, tokenizer, d_vocab)


def _tokenize_all(prompts: Iterable[Any], tokenizer: Any, d_vocab: int) -> Iterator[mx.array]:
    for number, prompt in enumerate(prompts):
        if _is_part_of_prompt(prompt):
            raise KindError(
                f"`prompts` must hold texts, chats or token ids, one per entry. Got {type(prompt).__name__} in entry "
                f"{number}. Put the prompt into a list."
            )
        yield _tokenize_entry(prompt, number, tokenizer, d_vocab)


def _is_part_of_prompt(value: object) -> bool:
    """Whether a value is a message or a token id, which is what a single prompt consists of."""
    if isinstance(value, mx.array | np.ndarray):
        return value.ndim == 0
    return isinstance(value, Mapping | int | np.integer)


def _tokenize_entry(prompt: Any, number: int, tokenizer: Any, d_vocab: int) -> mx.array:
    """The tokens of a prompt. Errors name the entry, for there may be very many."""
    try:
        return one_prompt(prompt, number, tokenizer, d_vocab)
    except PatchError as error:
        raise type(error)(f"{error} This is entry {number} of `prompts`.") from error


def run_rows(
    layout: Layout,
    rows: Sequence[mx.array],
    edits: EditsOfEach = (),
    *,
    sites: tuple[Site, ...] = (),
    pos: PositionChoice = None,
    logits_at: PositionChoice = None,
    batch_size: int = 8,
    unembed: bool = True,
    tokenizer: Any = None,
) -> list[RunResult]:
    """The result of each prompt's own run, in the order of the prompts.

    Args:
        layout: The layout of the model.
        rows: Token ids, each of shape `(1, pos)`.
        edits: Edits of every prompt, or a list of edits for each.
        sites: Sites to capture.
        pos: Positions to capture.
        logits_at: Positions to unembed.
        batch_size: The most prompts in one forward pass.
        unembed: Whether logits are wanted.
        tokenizer: For selectors that go by text.
    Raises:
        ValueRefusedError: There are not as many lists of edits as prompts, or `batch_size` is not 1 or more.
        PatchError: As `run` says.
    """
    row_edits = _edits_by_row(edits, len(rows))
    batch_size = checked_count("batch_size", batch_size, "prompts")
    # Only named sites are known to have the batch as their first axis, and selectors may choose otherwise in each row.
    if _any_raw(sites, row_edits) or isinstance(pos, Selector) or isinstance(logits_at, Selector):
        batch_size = 1
    row_edits = [SelectorResolver(row, tokenizer).edits(edits) for row, edits in zip(rows, row_edits, strict=True)]
    results: dict[int, RunResult] = {}
    for batch in by_length(rows, batch_size):
        batch_result = run(
            layout,
            batch.tokens,
            _join_edits([row_edits[number] for number in batch.examples]),
            sites=sites,
            pos=pos,
            logits_at=logits_at,
            unembed=unembed,
            tokenizer=tokenizer,
        )
        results.update(zip(batch.examples, _split_batch(batch_result), strict=True))
    return [results[number] for number in range(len(rows))]


def _any_raw(sites: Iterable[Site], row_edits: Iterable[tuple[Edit, ...]]) -> bool:
    """Whether a capture or an edit is at a raw module path."""
    if any(site.is_raw for site in sites):
        return True
    return any(edit.site not in SITES for edits in row_edits for edit in edits)


def _join_edits(row_edits: Sequence[tuple[Edit, ...]]) -> list[Edit]:
    """The edits of a batch, from those of each row. Edits that all rows share are joined into one."""
    size, shared = len(row_edits), row_edits[0]
    if size == 1:
        return list(shared)
    if all(edits is shared for edits in row_edits):
        return [_in_every_row(edit, size) for edit in shared]
    return [prompt_edits([edit], [(row,)], size) for row, edits in enumerate(row_edits) for edit in edits]


def _in_every_row(edit: Edit, size: int) -> Edit:
    """An edit of a batch that sees each row alone."""
    if edit.intervention.by_row:
        return edit
    return prompt_edits([edit], [tuple(range(size))], size)


def _split_batch(batch_result: RunResult) -> list[RunResult]:
    """The results of the rows of a batch. Their arrays are copies, which do not keep those of the batch alive."""
    size = batch_result.tokens.shape[0]
    if size == 1:
        return [batch_result]
    results = [
        RunResult(
            mx.contiguous(batch_result.logits[row : row + 1]),
            {site: mx.contiguous(array[row : row + 1]) for site, array in batch_result.activations.items()},
            batch_result.tokens[row : row + 1],
            batch_result.positions,
            batch_result.n_positions,
        )
        for row in range(size)
    ]
    mx.eval([(result.logits, result.tokens, list(result.activations.values())) for result in results])
    return results


def _edits_by_row(edits: EditsOfEach, n_rows: int) -> list[tuple[Edit, ...]]:
    """The edits of each prompt."""
    if isinstance(edits, Edit):
        return [(edits,)] * n_rows
    entries = arguments.entries("edits", edits, "an edit, a list of edits, or a list for each prompt")
    if not _are_lists(entries):
        return [as_edits(cast("tuple[Edit, ...]", entries))] * n_rows
    if len(entries) != n_rows:
        raise ValueRefusedError(
            f"`edits` must be edits for all prompts, or a list of edits for each of the {n_rows}. Got {len(entries)} "
            "lists. Give an unpatched prompt an empty list."
        )
    return [as_edits(entry) for entry in entries]


def _are_lists(entries: tuple[object, ...]) -> TypeIs[tuple[Iterable[Edit], ...]]:
    if any(isinstance(entry, Edit) for entry in entries):
        return False
    return any(isinstance(entry, list | tuple) for entry in entries)


def checked_count(name: str, count: object, things: str) -> int:
    """A number of things, which must be 1 or more.

    Raises:
        ValueRefusedError: It is not.
    """
    return arguments.whole_number(name, count, 1, counted=f" {things}", kind_error=ValueRefusedError)
