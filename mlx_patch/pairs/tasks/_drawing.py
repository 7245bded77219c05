"""Random pairs, drawn until enough of them differ and fit a tokenizer."""

from collections.abc import Callable
from random import Random
from typing import Any

from mlx_patch import arguments
from mlx_patch.errors import ValueRefusedError
from mlx_patch.pairs._pair import PromptPair
from mlx_patch.pairs._pairs import PromptPairs
from mlx_patch.tokens import tokenize

_MOST = 10**5
"""Pairs: more than any task has."""


def draw_pairs(name: str, n: int, seed: int, draw: Callable[[Random], PromptPair], tokenizer: Any) -> PromptPairs:
    """`n` pairs, no two alike. With a tokenizer all their prompts have one length, the first of which there are enough.

    Args:
        name: The task, for messages and reports.
        n: How many.
        seed: Where drawing starts: the same pairs come on every platform.
        draw: Draws a pair.
        tokenizer: Which the pairs must fit, or None.
    Raises:
        KindError: `n` or `seed` is not an integer.
        ValueRefusedError: `n` is not 1 or more, or there are not so many pairs.
    """
    remedy = f"Write {name}(8, 0)."
    n = arguments.whole_number("n", n, 1, _MOST, counted=" pairs", remedy=remedy)
    random = Random(arguments.whole_number("seed", seed, remedy=remedy))
    by_length: dict[int, dict[PromptPair, None]] = {}
    since_new, n_drawn = 0, 0
    while since_new < 5000 + 20 * n_drawn:
        since_new += 1
        pair = draw(random)
        length = _length(pair, tokenizer)
        if length is None:
            continue
        pairs = by_length.setdefault(length, {})
        if pair not in pairs:
            since_new, n_drawn = 0, n_drawn + 1
        pairs[pair] = None
        if len(pairs) == n:
            return PromptPairs(list(pairs), name)
    largest = max(map(len, by_length.values()), default=0)
    condition = ""
    if tokenizer is not None:
        condition = " whose prompts have one length and whose answers are one token of the tokenizer"
    raise ValueRefusedError(
        f"`n` must be at most the number of different pairs{condition}. Got {n}, and found {largest}. Ask for fewer."
    )


def _length(pair: PromptPair, tokenizer: Any) -> int | None:
    """The number of tokens of both prompts; None if the pair does not fit the tokenizer, 0 if there is none."""
    if tokenizer is None:
        return 0
    clean, corrupted = ids_of(pair.clean, tokenizer), ids_of(pair.corrupted, tokenizer)
    if len(clean) != len(corrupted):
        return None
    answers = _answer_ids(pair.answers, pair.clean, tokenizer)
    foils = _answer_ids(pair.foils, pair.clean, tokenizer)
    if not answers or not foils or set(answers) & set(foils):
        return None
    return len(clean)


def _answer_ids(answers: tuple[str | int, ...], prompt: str, tokenizer: Any) -> list[int]:
    """The token of each answer, by itself and after the prompt; none if an answer is not one token in both places."""
    ids: list[int] = []
    for answer in answers:
        if isinstance(answer, int):
            ids.append(answer)
            continue
        tokens = tokenizer.encode(answer, add_special_tokens=False)
        if len(tokens) != 1 or next_tokens(prompt, answer, tokenizer) != tokens:
            return []
        ids += tokens
    return ids


def ids_of(text: str, tokenizer: Any) -> list[int]:
    """The tokens of a prompt, as a model gets them."""
    return tokenize(tokenizer, text)[0].tolist()  # pyright: ignore[reportReturnType]


def next_tokens(prompt: str, continuation: str, tokenizer: Any) -> list[int] | None:
    """The tokens of a continuation after a prompt; None if it changes the prompt's own tokens."""
    prompt_tokens = ids_of(prompt, tokenizer)
    all_tokens = ids_of(prompt + continuation, tokenizer)
    n = len(prompt_tokens)
    if all_tokens[:n] != prompt_tokens:
        return None
    return all_tokens[n:]
