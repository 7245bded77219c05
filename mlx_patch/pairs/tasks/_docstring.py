"""Arguments in a docstring."""

from random import Random
from typing import Any

from mlx_patch.pairs._pair import PromptPair
from mlx_patch.pairs._pairs import PromptPairs

from ._drawing import draw_pairs

_WORDS = (
    "file", "name", "size", "path", "key", "value", "index", "text", "color", "date", "user", "port", "line", "state",
    "price", "order", "page", "image", "time", "level", "result", "block", "field", "group", "shape", "mode",
)  # fmt: skip
_VERBS = ("load", "save", "make", "find", "read", "set", "run", "send")


def docstring(n: int, seed: int = 0, tokenizer: Any = None) -> PromptPairs:
    """The third argument of a Python function, which its docstring is to name after the first two.

    The corrupted prompt has the third and the fourth argument of the signature exchanged; its docstring is the same.

    Args:
        n: How many pairs.
        seed: Where drawing starts.
        tokenizer: Which the pairs must fit; None for any.
    Raises:
        KindError: `n` or `seed` is not an integer.
        ValueRefusedError: `n` is not 1 or more, or there are not so many pairs that fit.
    Source:
        Heimersheim and Janiak 2023, "A circuit for Python docstrings in a 4-layer attention-only transformer"; the
        wording is our own.
    Example:
        >>> pair = docstring(1, seed=0)[0]
        >>> print(pair.clean.splitlines()[0], pair.answer, pair.foil)
        def send_page(self, line, shape, state, name, color):  state  name
    """
    return draw_pairs("docstring", n, seed, _draw, tokenizer)


def _draw(random: Random) -> PromptPair:
    first, second, third, fourth, fifth, *about = random.sample(_WORDS, 9)
    name = f"{random.choice(_VERBS)}_{about[0]}"
    lines = (
        f"def {name}(self, {first}, {second}, {{}}, {{}}, {fifth}):",
        f'    """The {about[1]} of a {about[2]}.',
        "",
        f"    :param {first}: the {about[1]}",
        f"    :param {second}: the {about[3]}",
        "    :param",
    )
    text = "\n".join(lines)
    return PromptPair(text.format(third, fourth), text.format(fourth, third), f" {third}", f" {fourth}")
