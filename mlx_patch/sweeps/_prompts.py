"""The prompts of a sweep: a batch, or a list of prompts, which run in groups of equal length."""

from typing import Any

import mlx.core as mx
import numpy as np

from mlx_patch.tokens import Batch, by_length, is_text_or_chat, one_prompt, tokens_of

Prompts = Any
"""Token ids `(batch, pos)` or `(pos,)`, a text, chat messages, or a list of such, one an example."""


def batches_of(given: Prompts, tokenizer: Any, d_vocab: int) -> tuple[Batch, ...]:
    """Prompts in groups of equal length, each in the order in which they came.

    An array is a batch. A list, one of lists of ids too, is a list of prompts, each of which is alone.

    Raises:
        TokenError, KindError, ShapeError, SelectionError: A prompt that is none; see `HookedModel.tokenize`.
    """
    if is_text_or_chat(given) or not _is_list_of_prompts(given):
        return _one(tokens_of(given, tokenizer, d_vocab))
    return by_length([one_prompt(one, number, tokenizer, d_vocab) for number, one in enumerate(given)])


def _one(tokens: mx.array) -> tuple[Batch, ...]:
    return (Batch(tokens, tuple(range(tokens.shape[0]))),)


def _is_list_of_prompts(given: Prompts) -> bool:
    """Whether these are prompts one by one, and not an array or the ids of one prompt."""
    if not isinstance(given, list | tuple):
        return False
    return any(isinstance(prompt, str | list | tuple | mx.array | np.ndarray) for prompt in given)
