"""The classic tasks of activation patching, as pairs of prompts: seeded, in wording of our own.

`tokenizer` keeps to words that are one token each and to pairs of equal length, so that positions stand for each
other; without one, nothing is known about tokens, and `PromptPairs.check` tells. The same seed gives the same pairs
everywhere.
"""

from collections.abc import Callable, Sequence
from random import Random
from typing import Any

from mlx_patch.errors import KindError, TokenError, ValueRefusedError
from mlx_patch.metrics import ProbDiff
from mlx_patch.pairs._pairs import PromptPair, PromptPairs
from mlx_patch.pairs._words import (
    CAPITALS,
    EVENTS,
    FUNCTIONS,
    GIFTS,
    HE,
    NOTES,
    PARAMETERS,
    PLACES,
    PRAISE,
    SHE,
)

__all__ = ["capital", "docstring", "gendered_pronoun", "greater_than", "ioi"]


def ioi(n: int = 8, seed: int = 0, tokenizer: Any = None) -> PromptPairs:
    """Indirect object: who gets the gift, of two people of whom one gives it? The corrupted prompt swaps the giver.

    Source:
        Wang et al. 2022, https://arxiv.org/abs/2211.00593, section 2.
    """
    names = _known([*HE, *SHE], tokenizer)

    def pair(random: Random) -> PromptPair:
        one, other = random.sample(names, 2)
        place, gift = random.choice(PLACES), random.choice(GIFTS)
        start = f"When {one} and {other} went to the {place}, "
        end = f" gave a {gift} to"
        return PromptPair(f"{start}{one}{end}", f"{start}{other}{end}", f" {other}", f" {one}")

    return PromptPairs(_drawn(n, seed, tokenizer, pair))


def capital(n: int = 8, seed: int = 0, tokenizer: Any = None) -> PromptPairs:
    """Capitals of countries: the corrupted prompt asks for another country's.

    Source:
        Merullo et al. 2023, https://arxiv.org/abs/2305.16130, section 3, for the task.
    """
    known = [(land, city) for land, city in CAPITALS if _is_one_token(f" {city}", tokenizer)]

    def pair(random: Random) -> PromptPair:
        (land, city), (other, foil) = random.sample(known, 2)
        text = "The capital of {} is the city of"
        return PromptPair(text.format(land), text.format(other), f" {city}", f" {foil}")

    return PromptPairs(_drawn(n, seed, tokenizer, pair))


def gendered_pronoun(n: int = 8, seed: int = 0, tokenizer: Any = None) -> PromptPairs:
    """He or she, by the name: the corrupted prompt has a name of the other kind.

    Source:
        Mathwin et al. 2023, "Identifying a preliminary circuit for predicting gendered pronouns in GPT-2 small".
    """
    he, she = _known(HE, tokenizer), _known(SHE, tokenizer)

    def pair(random: Random) -> PromptPair:
        one, other = random.choice(he), random.choice(she)
        text = f"So {{}} is such a {random.choice(PRAISE)}, isn't"
        sides = ((one, " he"), (other, " she"))
        (clean, answer), (corrupted, foil) = sides if random.random() < 0.5 else sides[::-1]
        return PromptPair(text.format(clean), text.format(corrupted), answer, foil)

    return PromptPairs(_drawn(n, seed, tokenizer, pair))


def docstring(n: int = 8, seed: int = 0, tokenizer: Any = None) -> PromptPairs:
    """The third parameter of a Python function, in its docstring. The corrupted prompt's function has another one.

    Source:
        Heimersheim and Janiak 2023, "A circuit for Python docstrings in a 4-layer attention-only transformer".
    """
    words = _known(PARAMETERS, tokenizer)

    def pair(random: Random) -> PromptPair:
        one, two, three, other = random.sample(words, 4)
        name, notes = random.choice(FUNCTIONS), random.sample(NOTES, 3)
        body = f'):\n    """{notes[2]}\n\n    :param {one}: {notes[0]}\n    :param {two}: {notes[1]}\n    :param'
        start = f"def {name}({one}, {two}, "
        return PromptPair(f"{start}{three}{body}", f"{start}{other}{body}", f" {three}", f" {other}")

    return PromptPairs(_drawn(n, seed, tokenizer, pair))


def greater_than(n: int = 8, seed: int = 0, tokenizer: Any = None) -> PromptPairs:
    """A year that must be later than another of its century; the corrupted prompt begins in the year 01.

    The metric is `ProbDiff`: the years that are later, minus those that are not. Where a tokenizer cuts years into
    digits it is of the next digit, and the years with the same one are left out. Everything is later than 01, so the
    corrupted prompt need only do worse.

    Raises:
        KindError: There is no tokenizer, without which nobody knows how years are cut.
    Source:
        Hanna et al. 2023, https://arxiv.org/abs/2305.00586, section 2.
    """
    if tokenizer is None:
        raise KindError("`tokenizer` must be given for greater_than. Got None: years are cut in many ways.")
    digits = not _is_one_token("47", tokenizer)
    ids = {i: _first_token(str(i) if digits else f"{i:02}", tokenizer) for i in range(10 if digits else 100)}
    years: list[int] = []

    def pair(random: Random) -> PromptPair:
        century, year = random.randrange(11, 19), random.randrange(12, 88)
        text = f"The {random.choice(EVENTS)} lasted from the year {century}{{:02}} to the year {century}"
        own = year // 10 if digits else year
        years.append(own)
        return PromptPair(text.format(year), text.format(1), ids[own + 1], ids[own - 1])

    pairs = _drawn(n, seed, tokenizer, pair, kept=years)
    right = [[ids[i] for i in ids if i > year] for year in years]
    wrong = [[ids[i] for i in ids if i < year] for year in years]
    return PromptPairs(pairs, ProbDiff(right, wrong), opposed=False)


def _drawn(
    n: int,
    seed: int,
    tokenizer: Any,
    pair: Callable[[Random], PromptPair],
    kept: list[int] | None = None,
) -> list[PromptPair]:
    """So many different pairs, both sides of which have equally many tokens.

    Raises:
        KindError: `n` or `seed` is no whole number.
        ValueRefusedError: `n` is less than 1, or more than there are.
    """
    if any(isinstance(one, bool) or not isinstance(one, int) for one in (n, seed)):
        raise KindError(f"`n` and `seed` must be whole numbers. Got {n!r} and {seed!r}.")
    if n < 1:
        raise ValueRefusedError(f"`n` must be 1 or more. Got {n}.")
    random, found = Random(seed), dict[PromptPair, None]()
    for _ in range(200 * n):
        if len(found) == n:
            break
        one = pair(random)
        if one in found or not _equally_long(one, tokenizer):
            if kept is not None:
                kept.pop()
            continue
        found[one] = None
    if len(found) < n:
        raise ValueRefusedError(
            f"`n` must be as many as there are different pairs of equal length. Got {n}, and {len(found)} were found. "
            "Ask for fewer."
        )
    return list(found)


def _known(words: Sequence[str], tokenizer: Any) -> list[str]:
    """The words that are one token, with a space before them.

    Raises:
        TokenError: Fewer than four are.
    """
    known = [word for word in words if _is_one_token(f" {word}", tokenizer)]
    if len(known) < 4:
        raise TokenError(
            f"`tokenizer` must have one token for four of the task's words. Got one with {len(known)}. "
            "Leave it out, and use SequenceLogitDiff."
        )
    return known


def _is_one_token(text: str, tokenizer: Any) -> bool:
    return tokenizer is None or len(list(tokenizer.encode(text, add_special_tokens=False))) == 1


def _first_token(text: str, tokenizer: Any) -> int:
    return int(next(iter(tokenizer.encode(text, add_special_tokens=False))))


def _equally_long(pair: PromptPair, tokenizer: Any) -> bool:
    if tokenizer is None:
        return True
    sizes = {len(list(tokenizer.encode(text, add_special_tokens=False))) for text in (pair.clean, pair.corrupted)}
    return len(sizes) == 1
