"""Years that are greater than others."""

from collections.abc import Iterable
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
    event, century, year = random.choice(_EVENTS), random.choice(_CENTURIES), random.randint(40, 89)
    clean, corrupted = (f"The {event} lasted from the year {century}{y:02} to the year" for y in (year, 1))
    ending, tokens = _begun(clean, century, tokenizer)
    after, up_to = dict.fromkeys(tokens[year + 1 :]), dict.fromkeys(tokens[: year + 1])
    answer, foil = _without(after, up_to), _without(up_to, after)
    return PromptPair(clean + ending, corrupted + ending, answer, foil)


def _without(some: Iterable[str | int], others: Iterable[str | int]) -> list[str | int]:
    """Those of one set that are not in the other."""
    return [one for one in some if one not in others]


def _begun(prompt: str, century: int, tokenizer: Any) -> tuple[str, list[str] | list[int]]:
    """How the prompt ends, and what begins each year of the century there, from 00 to 99."""
    years = [f" {century}{y:02}" for y in range(100)]
    if tokenizer is None:
        return f" {century}", [year[3:] for year in years]
    for length in (3, 1, 0):
        ending = years[0][:length]
        found = [next_tokens(prompt + ending, year[length:], tokenizer) for year in years]
        begins = [own[0] for own in found if own]
        if len(begins) == 100 and len(set(begins)) >= 10:
            return ending, begins
    raise TokenError(
        f"`tokenizer` must have tokens that tell the years of a century apart. Got {type(tokenizer).__name__}, which "
        "has fewer than ten. Leave it out, and give answers of your own."
    )
