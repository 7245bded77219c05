"""Selectors of positions: `mp.pos.token(" Mary")`, `mp.pos.text("went to").final`, `mp.pos.last + -1`.

Each function makes a `Selector`, which goes wherever a position goes: `.at(pos=)`, `logits_at=`, `positions=`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from typing_extensions import override

from mlx_patch import arguments
from mlx_patch.errors import KindError, SelectionError, shown
from mlx_patch.positions._by_chat import OfRole, OfTurn
from mlx_patch.positions._by_text import Last, Matching, Text, Token, checked_nth, checked_text
from mlx_patch.positions._pieces import Pieces, prompt_ids
from mlx_patch.positions._selector import Selector

__all__ = ["Shown", "last", "role", "show", "text", "token", "turn", "where"]

last: Selector = Last()
"""The last position of the prompt."""


def token(token: str | int, nth: int | Literal["all"] | None = None) -> Selector:
    """The position of a token.

    Args:
        token: A text that is one token, mostly with its leading space, or a token id.
        nth: Which of several, from 0 or from the end; "all" for each. None where it must be there once.
    Example:
        >>> token(7, nth=-1).resolve([5, 7, 9, 7])
        (3,)
    """
    if isinstance(token, str):
        return Token(checked_text(token), checked_nth(nth))
    if not arguments.is_whole(token):
        raise KindError(f"`token` must be a text or a token id. Got {shown(token)}.")
    return Token(arguments.whole_number("token", token), checked_nth(nth))


def text(text: str, nth: int | Literal["all"] | None = None) -> Selector:
    """All tokens of a text; `.final` is the last of them, which has read them all.

    Args:
        text: As it stands in the prompt. Tokens may begin or end with spaces beside it, and not with more.
        nth: As of `token`.
    """
    return Text(checked_text(text), checked_nth(nth))


def role(role: str) -> Selector:
    """The content of all messages of a role in a chat, "user" say, without headers and end marks.

    What stands between messages is learnt from the tokenizer's own chat template.
    """
    return OfRole(checked_text(role))


def turn(number: int) -> Selector:
    """The content of one message of a chat, from 0 or from the end.

    Messages without content, such as the one that a generation prompt begins, do not count.
    """
    if not arguments.is_whole(number):
        raise KindError(f"`turn` must be the number of a message. Got {shown(number)}. Write mp.pos.turn(-1).")
    return OfTurn(arguments.whole_number("turn", number))


def where(function: Callable[[int, int, str], bool]) -> Selector:
    """The positions for which a function of (position, token id, text of the token) returns True.

    Example:
        >>> where(lambda position, token, text: token > 6).resolve([5, 7, 9])
        (1, 2)
    """
    return Matching(arguments.function("function", function, "a function of (position, token, text)"))


@dataclass(frozen=True, repr=False)
class Shown:
    """Positions that were chosen, printed in their prompt.

    Attributes:
        positions: The chosen positions.
        text: What is printed.
    """

    positions: tuple[int, ...]
    text: str

    @override
    def __repr__(self) -> str:
        return self.text


def show(chosen: Selector | int | Sequence[int], tokens: Any, tokenizer: Any = None) -> Shown:
    """The positions that are chosen in a prompt, with their tokens: print it.

    Args:
        chosen: A selector, or positions.
        tokens: The prompt: token ids, a text or chat messages.
        tokenizer: Its tokenizer.
    Raises:
        SelectionError: As the selector says.
    Example:
        >>> show(last, [5, 7, 9])
        last: 1 of 3 positions
        2 9
    """
    prompt = Pieces(prompt_ids("tokens", tokens, tokenizer), tokenizer)
    if isinstance(chosen, Selector):
        positions = chosen.find(prompt)
    else:
        chosen = arguments.chosen_numbers("chosen", chosen) or ()
        positions = tuple(_absolute(position, len(prompt)) for position in chosen)
    lines = [f"{_written(chosen)}: {len(positions)} of {len(prompt)} positions", prompt.shown(positions)]
    if tokenizer is not None:
        texts = list(prompt.texts)
        for position in set(positions):
            texts[position] = f"[{texts[position]}]"
        lines.append("".join(texts))
    return Shown(positions, "\n".join(lines))


def _written(chosen: Selector | tuple[int, ...]) -> str:
    if isinstance(chosen, Selector):
        return repr(chosen)
    return str(list(chosen))


def _absolute(position: int, length: int) -> int:
    if not -length <= position < length:
        raise SelectionError(f"`pos` must lie in {-length} to {length - 1}. Got {position}.")
    return position % length


def __dir__() -> list[str]:
    """What is meant for the user of the module."""
    return sorted(__all__)
