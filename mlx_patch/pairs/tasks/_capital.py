"""Capitals of countries."""

from random import Random
from typing import Any

from mlx_patch.pairs._pair import PromptPair
from mlx_patch.pairs._pairs import PromptPairs

from ._drawing import draw_pairs

_CAPITALS = {
    "France": "Paris", "Italy": "Rome", "Germany": "Berlin", "Spain": "Madrid", "Russia": "Moscow", "Japan": "Tokyo",
    "England": "London", "China": "Beijing", "Egypt": "Cairo", "Greece": "Athens", "Austria": "Vienna",
    "Ireland": "Dublin", "Portugal": "Lisbon", "Cuba": "Havana", "Iran": "Tehran", "Iraq": "Baghdad",
    "Poland": "Warsaw", "Hungary": "Budapest", "Sweden": "Stockholm", "Norway": "Oslo", "Canada": "Ottawa",
    "India": "Delhi", "Kenya": "Nairobi", "Peru": "Lima", "Turkey": "Ankara", "Belgium": "Brussels",
}  # fmt: skip
_TEXTS = ("The capital of {} is", "The capital city of {} is", "In {}, the capital is", "{}'s capital is the city of")


def capital(n: int, seed: int = 0, tokenizer: Any = None) -> PromptPairs:
    """Country and capital: the corrupted prompt asks for another country's.

    Args:
        n: How many pairs.
        seed: Where drawing starts.
        tokenizer: Which the pairs must fit; None for any.
    Raises:
        KindError: `n` or `seed` is not an integer.
        ValueRefusedError: `n` is not 1 or more, or there are not so many pairs that fit.
    Source:
        Merullo et al. 2023, https://arxiv.org/abs/2305.16130, for the task; Meng et al. 2022,
        https://arxiv.org/abs/2202.05262, for facts as a subject of patching. The wording is our own.
    Example:
        >>> pair = capital(1, seed=0)[0]
        >>> pair.clean, pair.answer
        ("Turkey's capital is the city of", ' Ankara')
    """
    return draw_pairs("capital", n, seed, _draw, tokenizer)


def _draw(random: Random) -> PromptPair:
    text = random.choice(_TEXTS)
    clean, corrupted = random.sample(tuple(_CAPITALS), 2)
    answer, foil = f" {_CAPITALS[clean]}", f" {_CAPITALS[corrupted]}"
    return PromptPair(text.format(clean), text.format(corrupted), answer, foil)
