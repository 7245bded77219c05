"""Indirect object identification."""

from random import Random
from typing import Any

from mlx_patch.pairs._pair import PromptPair
from mlx_patch.pairs._pairs import PromptPairs

from ._drawing import draw_pairs
from ._names import MEN, WOMEN

_OPENINGS = (
    "When {0} and {1} went to the {place},",
    "After {0} and {1} met at the {place},",
    "While {0} and {1} were at the {place},",
    "Then {0} and {1} walked to the {place}, and",
)
_PLACES = ("shop", "park", "school", "station", "market", "office", "garden", "library")
_THINGS = ("book", "drink", "letter", "ring", "ball", "picture", "map", "flower")


def ioi(n: int, seed: int = 0, tokenizer: Any = None) -> PromptPairs:
    """Indirect object identification: of two people one gives something, to the other.

    Both orders occur: the giver is named first (BABA) or second (ABBA). The corrupted prompt lets the other one
    give, so that answer and foil change places; the paper's own corrupted prompts have three other names.

    Args:
        n: How many pairs.
        seed: Where drawing starts.
        tokenizer: Which the pairs must fit; None for any.
    Raises:
        KindError: `n` or `seed` is not an integer.
        ValueRefusedError: `n` is not 1 or more, or there are not so many pairs that fit.
    Source:
        Wang et al. 2022, https://arxiv.org/abs/2211.00593, section 2; the wording is our own.
    Example:
        >>> pair = ioi(1, seed=0)[0]
        >>> pair.clean, pair.answer
        ('When Mark and William went to the market, William gave a flower to', ' Mark')
    """
    return draw_pairs("ioi", n, seed, _draw, tokenizer)


def _draw(random: Random) -> PromptPair:
    names = random.sample(WOMEN + MEN, 2)
    opening = random.choice(_OPENINGS)
    place = random.choice(_PLACES)
    thing = random.choice(_THINGS)
    giver, taker = random.sample(names, 2)
    text = f"{opening.format(*names, place=place)} {{}} gave a {thing} to"
    return PromptPair(text.format(giver), text.format(taker), f" {taker}", f" {giver}")
