"""The prompts of a sweep: a batch, or a list of prompts, which run in groups of equal length."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_patch.errors import ShapeError
from mlx_patch.tokens import Prompt, as_tokens, is_text_or_chat, tokenize

Prompts = Any
"""Token ids `(batch, pos)` or `(pos,)`, a text, chat messages, or a list of such, one an example."""


@dataclass(frozen=True)
class Batch:
    """Prompts of one length, which run together.

    Attributes:
        tokens: Shape `(batch, pos)`.
        examples: Which examples of the sweep they are, in order.
    """

    tokens: mx.array
    examples: tuple[int, ...]

    @property
    def length(self) -> int:
        """The positions of each prompt."""
        return self.tokens.shape[1]


def batches_of(given: Prompts, tokenizer: Any, d_vocab: int) -> tuple[Batch, ...]:
    """Prompts in groups of equal length, each in the order in which they came.

    Raises:
        TokenError, KindError, ShapeError, SelectionError: A prompt that is none; see `HookedModel.tokenize`.
    """
    if is_text_or_chat(given):
        return _one(tokenize(tokenizer, given))
    if not _is_list_of_prompts(given):
        return _one(as_tokens(given, d_vocab))
    rows = [_row(one, number, tokenizer, d_vocab) for number, one in enumerate(given)]
    lengths = dict.fromkeys(row.shape[1] for row in rows)
    return tuple(_batch(rows, length) for length in lengths)


def _one(tokens: mx.array) -> tuple[Batch, ...]:
    return (Batch(tokens, tuple(range(tokens.shape[0]))),)


def _batch(rows: Sequence[mx.array], length: int) -> Batch:
    own = tuple(number for number, row in enumerate(rows) if row.shape[1] == length)
    return Batch(mx.concatenate([rows[number] for number in own], axis=0), own)


def _is_list_of_prompts(given: Prompts) -> bool:
    """Whether these are prompts one by one, and not an array or nested lists of ids."""
    if not isinstance(given, list | tuple) or not given:
        return False
    if all(isinstance(one, list | tuple) and not is_text_or_chat(one) for one in given):
        return len({len(one) for one in given}) > 1
    return any(isinstance(one, str | list | tuple | mx.array | np.ndarray) for one in given)


def _row(one: Prompt | mx.array, number: int, tokenizer: Any, d_vocab: int) -> mx.array:
    tokens = tokenize(tokenizer, one) if is_text_or_chat(one) else as_tokens(one, d_vocab)
    if tokens.shape[0] != 1:
        raise ShapeError(
            f"`tokens` must hold one prompt an entry. Got {tokens.shape[0]} in entry {number}. "
            "Pass a batch of one length as one array, or each prompt by itself."
        )
    return tokens
