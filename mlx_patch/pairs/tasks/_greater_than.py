"""Years that are greater than others."""

from random import Random
from typing import Any

from mlx_patch.errors import TokenError
from mlx_patch.pairs._pair import PromptPair
from mlx_patch.pairs._pairs import PromptPairs

from ._drawing import draw_pairs, next_tokens

_EVENTS = ("war", "siege", "reign", "voyage", "dispute", "famine", "journey", "project", "trial", "conflict")
_CENTURIES = (14, 15, 16, 17, 18)


def greater_than(n: int, seed: int = 0, tokenizer: Any = None) -> PromptPairs:
    """A year that must come after another: "The war lasted from the year 1743 to the year 17".

    Answer and foil are sets: the years of the century after the first one, and those up to it, from which `metric`
    makes a difference in probability. The corrupted prompt begins in the year 01 and is measured by the same sets; the
    clean year lies between 40 and 89, so that most years of the century are wrong after it.

    With a tokenizer the sets are the tokens that begin the two digits there: pairs of digits, or the first digit. A
    token that begins right and wrong years is in neither set. A tokenizer that joins digits across the century, as
    Llama 3's does with three, gets prompts that end before the year.

    Args:
        n: How many pairs.
        seed: Where drawing starts.
        tokenizer: Which the pairs must fit; None for the two digits as text, which GPT-2 has as tokens.
    Raises:
        KindError: `n` or `seed` is not an integer.
        TokenError: The tokens of years do not tell them apart.
        ValueRefusedError: `n` is not 1 or more, or there are not so many pairs that fit.
    Source:
        Hanna et al. 2023, https://arxiv.org/abs/2305.00586, section 2; the wording is our own.
    Example:
        >>> pair = greater_than(1, seed=0)[0]
        >>> pair.clean, pair.answer[:2], pair.foil[-2:]
        ('The journey lasted from the year 1742 to the year 17', ('43', '44'), ('41', '42'))
    """
    return draw_pairs("greater_than", n, seed, lambda random: _draw(random, tokenizer), tokenizer)


def _draw(random: Random, tokenizer: Any) -> PromptPair:
    event = random.choice(_EVENTS)
    century = random.choice(_CENTURIES)
    year = random.randint(40, 89)
    clean = f"The {event} lasted from the year {century}{year:02} to the year"
    corrupted = f"The {event} lasted from the year {century}01 to the year"
    ending, first_tokens = _year_tokens(clean, century, tokenizer)
    right = dict.fromkeys(first_tokens[year + 1 :])
    wrong = dict.fromkeys(first_tokens[: year + 1])
    answer = [token for token in right if token not in wrong]
    foil = [token for token in wrong if token not in right]
    return PromptPair(clean + ending, corrupted + ending, answer, foil)


def _year_tokens(prompt: str, century: int, tokenizer: Any) -> tuple[str, list[str] | list[int]]:
    """The ending of the prompt, and the first token of each year of the century after it, from 00 to 99."""
    years = [f" {century}{number:02}" for number in range(100)]
    if tokenizer is None:
        return f" {century}", [year[3:] for year in years]
    # The prompt ends with the century, with a space, or before it: the first that keeps the years apart.
    for length in (3, 1, 0):
        ending = years[0][:length]
        continuations = [next_tokens(prompt + ending, year[length:], tokenizer) for year in years]
        first_tokens = [tokens[0] for tokens in continuations if tokens]
        if len(first_tokens) == 100 and len(set(first_tokens)) >= 10:
            return ending, first_tokens
    raise TokenError(
        f"`tokenizer` must have tokens that distinguish the years of a century. Got {type(tokenizer).__name__}, which "
        "has fewer than ten. Leave it out, and give your own answers."
    )
