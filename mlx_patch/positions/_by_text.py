"""Selectors of positions by tokens and by text."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from typing_extensions import override

from mlx_patch import arguments
from mlx_patch.chats import encoded
from mlx_patch.errors import KindError, SelectionError, TokenError, ValueRefusedError, shown
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
    """The positions of a token."""

    token: str | int
    nth: Nth

    @override
    def find(self, prompt: Pieces) -> tuple[int, ...]:
        token_id = self._id(prompt.tokenizer)
        matches = [(position,) for position, token in enumerate(prompt.ids) if token == token_id]
        picks = _pick(self, matches, self.nth, prompt)
        return _positions(matches, picks)

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
                f"`token` must be one token. Got {shown(self.token)}, which gives {len(ids)}: {pieces}. "
                f"Write mp.pos.text({self.token!r}) for all tokens of a text."
            )
        return ids[0]

    @override
    def __repr__(self) -> str:
        return f"token({self.token!r}{_format_nth(self.nth)})"


@dataclass(frozen=True, repr=False)
class Text(Selector):
    """All tokens of a text."""

    text: str
    nth: Nth

    @override
    def find(self, prompt: Pieces) -> tuple[int, ...]:
        starts = list(self._starts(prompt.text))
        matches = [prompt.within(start, start + len(self.text)) for start in starts]
        picks = _pick(self, matches, self.nth, prompt)
        for number in picks:  # the other matches may be parts of longer words
            self._refuse_parts(prompt, starts[number], matches[number])
        return _positions(matches, picks)

    def _starts(self, text: str) -> Iterator[int]:
        """Each character at which the text stands in a prompt's."""
        start = text.find(self.text)
        while start >= 0:
            yield start
            start = text.find(self.text, start + len(self.text))

    def _refuse_parts(self, prompt: Pieces, start: int, match: tuple[int, ...]) -> None:
        """Refuse a match that begins or ends inside a token."""
        end = start + len(self.text)
        for position in (match[0], match[-1]):
            low, high = prompt.spans[position]
            before = prompt.text[low : max(low, start)]
            behind = prompt.text[min(high, end) : high]
            if (before + behind).strip():
                raise SelectionError(
                    f"`text` must consist of whole tokens. Got {shown(self.text)}, but the token at position "
                    f"{position} "
                    f"holds more text: {prompt.texts[position]!r}. Write the whole token, or choose another match, "
                    "such as nth=-1."
                )

    @override
    def __repr__(self) -> str:
        return f"text({self.text!r}{_format_nth(self.nth)})"


@dataclass(frozen=True, repr=False)
class Matching(Selector):
    """The positions for which a function returns True."""

    function: Callable[[int, int, str], bool]

    @override
    def find(self, prompt: Pieces) -> tuple[int, ...]:
        texts = ("",) * len(prompt)
        if prompt.tokenizer is not None:
            texts = prompt.texts
        tokens = enumerate(zip(prompt.ids, texts, strict=True))
        positions = tuple(position for position, (token, text) in tokens if self.function(position, token, text))
        if not positions:
            raise SelectionError(
                f"`pos` must choose something. Got no position from {shown(self)}. Check its function."
            )
        return positions

    @override
    def __repr__(self) -> str:
        return f"where({getattr(self.function, '__name__', repr(self.function))})"


def checked_nth(nth: object) -> Nth:
    """`nth`, checked: the number of a match, or "all".

    Raises:
        KindError: No number, and not "all".
    """
    if nth is None:
        return None
    if isinstance(nth, str) and nth == "all":
        return "all"
    if not arguments.is_whole(nth):
        raise KindError(f"`nth` must be a number from 0, or 'all'. Got {shown(nth)}.")
    return arguments.whole_number("nth", nth)


def checked_text(text: object) -> str:
    """A text to look for.

    Raises:
        KindError: No text.
        ValueRefusedError: An empty one.
    """
    if not isinstance(text, str):
        raise KindError(f"`text` must be a text. Got {shown(text)}. Write mp.pos.token(...) for a token id.")
    if not text:
        raise ValueRefusedError("`text` must hold something to look for. Got ''. Write ' Mary', say.")
    return str(text)


def _positions(matches: list[tuple[int, ...]], picks: Sequence[int]) -> tuple[int, ...]:
    """The positions of the picked matches, each once, rising."""
    return tuple(sorted({position for number in picks for position in matches[number]}))


def _pick(selector: Selector, matches: list[tuple[int, ...]], nth: Nth, prompt: Pieces) -> Sequence[int]:
    """The numbers of the chosen matches: one, or all.

    Raises:
        SelectionError: There is none, or there are several and `nth` is None.
    """
    count = len(matches)
    if count == 0:
        raise SelectionError(
            f"`pos` must choose something. Got none for {shown(selector)} in {_format_prompt(prompt)}. "
            "A leading space is part of most tokens: look at mp.pos.show(mp.pos.last, tokens, tokenizer)."
        )
    if nth is None and count > 1:
        raise SelectionError(
            f"`pos` must choose one of {count} matches. Got {shown(selector)}, which is at {_format_matches(matches)}. "
            "Choose one with nth=0 or nth=-1, or take all with nth='all'."
        )
    if nth is None:
        return (0,)
    if nth == "all":
        return range(count)
    if not -count <= nth < count:
        raise SelectionError(
            f"`nth` must lie in {-count} to {count - 1}. Got {nth}: {selector!r} is at {_format_matches(matches)}."
        )
    return (nth % count,)


def _format_matches(matches: list[tuple[int, ...]]) -> str:
    return ", ".join(map(_format_match, matches))


def _format_match(match: tuple[int, ...]) -> str:
    if len(match) == 1:
        return str(match[0])
    return f"{match[0]} to {match[-1]}"


def _format_prompt(prompt: Pieces) -> str:
    if prompt.tokenizer is None:
        return f"the {len(prompt)} tokens {list(prompt.ids[:12])}"
    text = prompt.text
    if len(text) > 120:
        text = f"{text[:60]} ... {text[-60:]}"
    return repr(text)


def _format_nth(nth: Nth) -> str:
    return "" if nth is None else f", nth={nth!r}"
