"""Pronouns of names."""

from random import Random
from typing import Any

from mlx_patch.pairs._pair import PromptPair
from mlx_patch.pairs._pairs import PromptPairs

from ._drawing import draw_pairs
from ._names import MEN, WOMEN

_TEXTS = ("So {} is such a great {}, isn't", "So {} is such a good {}, isn't", "I know that {} is a great {}, isn't")
_ROLES = ("friend", "cook", "teacher", "doctor", "driver", "singer", "writer", "neighbor", "student", "player")


def gendered_pronoun(n: int, seed: int = 0, tokenizer: Any = None) -> PromptPairs:
    """The pronoun that a given name asks for, " she" or " he"; the corrupted prompt has a name of the other kind.

    Args:
        n: How many pairs.
        seed: Where drawing starts.
        tokenizer: Which the pairs must fit; None for any.
    Raises:
        KindError: `n` or `seed` is not an integer.
        ValueRefusedError: `n` is not 1 or more, or there are not so many pairs that fit.
    Source:
        Mathwin et al. 2023, "Identifying a preliminary circuit for predicting gendered pronouns in GPT-2 small"; the
        wording is our own.
    Example:
        >>> pair = gendered_pronoun(1, seed=0)[0]
        >>> pair.clean, pair.answer
        ("So William is such a good writer, isn't", ' he')
    """
    return draw_pairs("gendered_pronoun", n, seed, _draw, tokenizer)


def _draw(random: Random) -> PromptPair:
    text = random.choice(_TEXTS)
    role = random.choice(_ROLES)
    clean = text.format(random.choice(WOMEN), role)
    corrupted = text.format(random.choice(MEN), role)
    pair = PromptPair(clean, corrupted, " she", " he")
    return random.choice((pair, pair.swapped))
