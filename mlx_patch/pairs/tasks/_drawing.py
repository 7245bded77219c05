"""Pairs drawn one after the other, until there are enough that differ and fit a tokenizer."""

from collections.abc import Callable
from random import Random
from typing import Any

from mlx_patch.errors import KindError, ValueRefusedError
from mlx_patch.pairs._pair import PromptPair
from mlx_patch.pairs._pairs import PromptPairs
from mlx_patch.tokens import tokenize


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
    for argument, given in (("n", n), ("seed", seed)):
        if isinstance(given, bool) or not isinstance(given, int):
            raise KindError(f"`{argument}` must be an integer. Got {given!r}. Write {name}(8, 0).")
    if n < 1:
        raise ValueRefusedError(f"`n` must be 1 or more pairs. Got {n}. Write {name}(8, 0).")
    random = Random(seed)
    by_length: dict[int, dict[PromptPair, None]] = {}
    for _ in range(200 * n + 2000):
        pair = draw(random)
        length = 0 if tokenizer is None else _length(pair, tokenizer)
        if length is None:
            continue
        same = by_length.setdefault(length, {})
        same[pair] = None
        if len(same) == n:
            return PromptPairs(same, name)
    most = max(map(len, by_length.values()), default=0)
    fits = (
        "" if tokenizer is None else " whose prompts have one length and whose answers are one token of the tokenizer"
    )
    raise ValueRefusedError(
        f"`n` must be at most the number of different pairs{fits}. Got {n}, and found {most}. Ask for fewer."
    )


def _length(pair: PromptPair, tokenizer: Any) -> int | None:
    """The tokens of both prompts; None where they differ, or an answer is not one token there."""
    clean, corrupted = ids_of(pair.clean, tokenizer), ids_of(pair.corrupted, tokenizer)
    if len(clean) != len(corrupted):
        return None
    sides = [_alone(wanted, pair.clean, tokenizer) for wanted in (pair.answers, pair.foils)]
    return len(clean) if all(sides) and not set(sides[0]) & set(sides[1]) else None


def _alone(wanted: tuple[str | int, ...], prompt: str, tokenizer: Any) -> list[int]:
    """The tokens that answers are after a prompt, the same as by themselves; none if one is not a single token."""
    ids: list[int] = []
    for one in wanted:
        own = [one] if isinstance(one, int) else tokenizer.encode(one, add_special_tokens=False)
        if len(own) != 1 or (isinstance(one, str) and next_tokens(prompt, one, tokenizer) != own):
            return []
        ids += own
    return ids


def ids_of(text: str, tokenizer: Any) -> list[int]:
    """The tokens of a prompt, as a model gets them."""
    return tokenize(tokenizer, text)[0].tolist()  # pyright: ignore[reportReturnType]


def next_tokens(prompt: str, more: str, tokenizer: Any) -> list[int] | None:
    """The tokens that follow a prompt when its text goes on; None where the prompt's own tokens change."""
    before, whole = ids_of(prompt, tokenizer), ids_of(prompt + more, tokenizer)
    return whole[len(before) :] if whole[: len(before)] == before else None
