"""Prompts of any lengths, each as if it ran by itself: equal lengths share a forward pass, and nothing is padded.

What an edit sees is one row, `(1, pos, ...)`, as in a run of that prompt alone. So whatever an intervention does with
the whole of what it is given, or with the number of its row, it does the same here.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, cast

import mlx.core as mx
import numpy as np
from typing_extensions import TypeIs

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
    if isinstance(prompts, str | Mapping) or not isinstance(prompts, Iterable):
        raise KindError(f"`prompts` must be a list of prompts. Got {type(prompts).__name__}. Put it into a list.")
    return _one_by_one(prompts, tokenizer, d_vocab)


def _one_by_one(prompts: Iterable[Any], tokenizer: Any, d_vocab: int) -> Iterator[mx.array]:
    for number, one in enumerate(prompts):
        if isinstance(one, Mapping | int | np.integer) or (isinstance(one, mx.array | np.ndarray) and one.ndim == 0):
            raise KindError(
                "`prompts` must hold texts, chats or token ids, one an entry. "
                f"Got {type(one).__name__} in entry {number}. Put the prompt into a list."
            )
        yield _one_of_several(one, number, tokenizer, d_vocab)


def _one_of_several(one: Any, number: int, tokenizer: Any, d_vocab: int) -> mx.array:
    """The tokens of a prompt; what is refused of it says which one it is, for there may be very many."""
    try:
        return one_prompt(one, number, tokenizer, d_vocab)
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
    """What each prompt's own run gives, in the order given.

    Args:
        layout: Of the model.
        rows: Token ids, each of shape `(1, pos)`.
        edits: Of every prompt, or a list for each.
        sites: As in `run`, like the rest.
        pos: Positions to keep.
        logits_at: Positions to unembed.
        batch_size: The most prompts in one forward pass.
        unembed: Whether logits are wanted.
        tokenizer: For selectors that go by text.
    Raises:
        ValueRefusedError: As many lists of edits as prompts are wanted, or `batch_size` is none.
        PatchError: As `run` says.
    """
    own, size = _edits_of_each(edits, len(rows)), checked_count("batch_size", batch_size, "prompts")
    raw = any(site.is_raw for site in sites) or any(edit.site not in SITES for each in own for edit in each)
    own = [SelectorResolver(row, tokenizer).edits(each) for row, each in zip(rows, own, strict=True)]
    alone = raw or isinstance(pos, Selector) or isinstance(logits_at, Selector)  # rows may differ in what they choose
    found: dict[int, RunResult] = {}
    for batch in by_length(rows, 1 if alone else size):  # only named sites are known to have the batch first
        joined = _joined([own[n] for n in batch.examples])
        more = {"logits_at": logits_at, "unembed": unembed, "tokenizer": tokenizer}
        ran = run(layout, batch.tokens, joined, sites=sites, pos=pos, **more)
        found.update(zip(batch.examples, _apart(ran), strict=True))
    return [found[n] for n in range(len(rows))]


def _joined(own: Sequence[tuple[Edit, ...]]) -> list[Edit]:
    """The edits of a batch, of which each row has its own; those that all rows share are made once."""
    if len(own) == 1:
        return list(own[0])
    if all(edits is own[0] for edits in own):
        every_row = tuple(range(len(own)))
        return [edit if edit.intervention.by_row else prompt_edits([edit], [every_row], len(own)) for edit in own[0]]
    return [prompt_edits([edit], [(row,)], len(own)) for row, edits in enumerate(own) for edit in edits]


def _apart(ran: RunResult) -> list[RunResult]:
    """The runs of the rows of a batch. Their arrays are their own, and do not hold on to those of the batch."""
    n = ran.tokens.shape[0]
    if n == 1:
        return [ran]
    found = [
        RunResult(
            mx.contiguous(ran.logits[row : row + 1]),
            {site: mx.contiguous(array[row : row + 1]) for site, array in ran.activations.items()},
            ran.tokens[row : row + 1],
            ran.positions,
            ran.n_positions,
        )
        for row in range(n)
    ]
    mx.eval([(one.logits, one.tokens, list(one.activations.values())) for one in found])
    return found


def _edits_of_each(edits: EditsOfEach, n: int) -> list[tuple[Edit, ...]]:
    """The edits of each prompt."""
    many = (edits,) if isinstance(edits, Edit) else tuple(edits)
    if not _are_lists(many):
        return [as_edits(cast("tuple[Edit, ...]", many))] * n
    if len(many) != n:
        raise ValueRefusedError(
            f"`edits` must be edits for all prompts, or a list of edits for each of the {n}. Got {len(many)} lists. "
            "Give a prompt that stays as it is an empty list."
        )
    return [as_edits(own) for own in many]


def _are_lists(many: tuple[object, ...]) -> TypeIs[tuple[Iterable[Edit], ...]]:
    return any(isinstance(one, list | tuple) for one in many) and not any(isinstance(one, Edit) for one in many)


def checked_count(name: str, given: object, what: str) -> int:
    """A number of things, 1 or more.

    Raises:
        ValueRefusedError: It is none.
    """
    if isinstance(given, bool) or not isinstance(given, int) or given < 1:
        raise ValueRefusedError(f"`{name}` must be 1 or more {what}. Got {given!r}.")
    return given
