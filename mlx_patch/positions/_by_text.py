"""Selectors that go by tokens and by text."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from typing_extensions import override

from mlx_patch.chats import encoded
from mlx_patch.errors import KindError, SelectionError, TokenError, ValueRefusedError
from mlx_patch.positions._pieces import Pieces
from mlx_patch.positions._selector import Selector

Nth = int | Literal["all"] | None
"""Which of several matches: by number, from 0 or from the end; all; None where there must be one alone."""


@dataclass(frozen=True, repr=False)
class Last(Selector):
    """The last position of the prompt."""

    @override
    def find(self, prompt: Pieces) -> tuple[int, ...]:
        return (len(prompt) - 1,)

    @override
    def __repr__(self) -> str:
        return "last"


@dataclass(frozen=True, repr=False)
class Token(Selector):
    """Where a token stands."""

    token: str | int
    nth: Nth

    @override
    def find(self, prompt: Pieces) -> tuple[int, ...]:
        wanted = self._id(prompt.tokenizer)
        found = [(i,) for i, token in enumerate(prompt.ids) if token == wanted]
        return _together(found, _picked(self, found, self.nth, prompt))

    def _id(self, tokenizer: Any) -> int:
        if isinstance(self.token, int):
            return self.token
        if tokenizer is None:
            raise TokenError(
                f"`tokenizer` must be given where a token is text. Got None with {self.token!r}. Give its id."
            )
        ids = encoded(tokenizer, self.token, add_special_tokens=False)
        if len(ids) != 1:
            pieces = ", ".join(repr(tokenizer.decode([token])) for token in ids[:8])
            raise TokenError(
                f"`token` must be one token. Got {self.token!r}, which gives {len(ids)}: {pieces}. "
                f"Write mp.pos.text({self.token!r}) for all tokens of a text."
            )
        return ids[0]

    @override
    def __repr__(self) -> str:
        return f"token({self.token!r}{_said(self.nth)})"


@dataclass(frozen=True, repr=False)
class Text(Selector):
    """All tokens of a text."""

    text: str
    nth: Nth

    @override
    def find(self, prompt: Pieces) -> tuple[int, ...]:
        whole, starts = prompt.text, []
        at = whole.find(self.text)
        while at >= 0:
            starts.append(at)
            at = whole.find(self.text, at + len(self.text))
        matches = [prompt.within(start, start + len(self.text)) for start in starts]
        picked = _picked(self, matches, self.nth, prompt)
        for number in picked:  # the other matches may be parts of longer words
            self._refuse_parts(prompt, starts[number], matches[number])
        return _together(matches, picked)

    def _refuse_parts(self, prompt: Pieces, start: int, match: tuple[int, ...]) -> None:
        end = start + len(self.text)
        for position in (match[0], match[-1]):
            low, high = prompt.spans[position]
            outside = prompt.text[low : max(low, start)] + prompt.text[min(high, end) : high]
            if outside.strip():
                raise SelectionError(
                    f"`text` must be made of whole tokens. Got {self.text!r}, of which position {position} has a part: "
                    f"{prompt.texts[position]!r}. Write the whole of it, or say which match is meant: nth=-1, say."
                )

    @override
    def __repr__(self) -> str:
        return f"text({self.text!r}{_said(self.nth)})"


@dataclass(frozen=True, repr=False)
class Matching(Selector):
    """The positions of which a function says yes."""

    function: Callable[[int, int, str], bool]

    @override
    def find(self, prompt: Pieces) -> tuple[int, ...]:
        texts = prompt.texts if prompt.tokenizer is not None else ("",) * len(prompt)
        rows = zip(range(len(prompt)), prompt.ids, texts, strict=True)
        found = tuple(row[0] for row in rows if self.function(*row))
        if not found:
            raise SelectionError(f"`pos` must choose something. Got no position from {self!r}. Look at its function.")
        return found

    @override
    def __repr__(self) -> str:
        return f"where({getattr(self.function, '__name__', repr(self.function))})"


def checked_nth(nth: object) -> Nth:
    """Which of several matches.

    Raises:
        KindError: No number, and not "all".
    """
    if nth is None:
        return None
    if isinstance(nth, str) and nth == "all":
        return "all"
    if isinstance(nth, bool) or not isinstance(nth, int):
        raise KindError(f"`nth` must be a number from 0, or 'all'. Got {nth!r}.")
    return nth


def checked_text(text: object) -> str:
    """A text to look for.

    Raises:
        KindError: No text.
        ValueRefusedError: An empty one.
    """
    if not isinstance(text, str):
        raise KindError(f"`text` must be a text. Got {text!r}. Write mp.pos.token({text!r}) for a token id.")
    if not text:
        raise ValueRefusedError("`text` must hold something to look for. Got ''. Write ' Mary', say.")
    return text


def _together(matches: list[tuple[int, ...]], picked: Sequence[int]) -> tuple[int, ...]:
    """The positions of some matches, each once, rising."""
    return tuple(sorted({position for number in picked for position in matches[number]}))


def _picked(selector: Selector, found: list[tuple[int, ...]], nth: Nth, prompt: Pieces) -> Sequence[int]:
    """Which of several matches: the number of one, or of all.

    Raises:
        SelectionError: There is none, or there are several and nobody said which.
    """
    if not found:
        raise SelectionError(
            f"`pos` must choose something. Got none for {selector!r} in {_prompt(prompt)}. "
            "A leading space is part of most tokens: look at mp.pos.show(mp.pos.last, tokens, tokenizer)."
        )
    if nth is None and len(found) > 1:
        raise SelectionError(
            f"`pos` must choose one of {len(found)}. Got {selector!r}, which is at {_places(found)}. "
            "Say which, nth=0 or nth=-1, or nth='all'."
        )
    if nth == "all":
        return range(len(found))
    if nth is not None and not -len(found) <= nth < len(found):
        raise SelectionError(
            f"`nth` must lie in {-len(found)} to {len(found) - 1}. Got {nth}: {selector!r} is at {_places(found)}."
        )
    return ((nth or 0) % len(found),)


def _places(found: list[tuple[int, ...]]) -> str:
    return ", ".join(str(one[0]) if len(one) == 1 else f"{one[0]} to {one[-1]}" for one in found)


def _prompt(prompt: Pieces) -> str:
    if prompt.tokenizer is None:
        return f"the {len(prompt)} tokens {list(prompt.ids[:12])}"
    text = prompt.text
    return repr(text if len(text) <= 120 else f"{text[:60]} ... {text[-60:]}")


def _said(nth: Nth) -> str:
    return "" if nth is None else f", nth={nth!r}"
