"""The messages of a chat, found again in its tokens: what stands between two messages is learnt from the template."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import TemplateError

from mlx_patch.errors import TokenError
from mlx_patch.tokens import has_chat_template, special_tokens

_START, _END = "start", "end"
_MARKS = {"system": "QXZSYSTEMQXZ", "user": "QXZUSERQXZ", "assistant": "QXZASSISTANTQXZ", "tool": "QXZTOOLQXZ"}
_CHATS = (
    ("user", "assistant", "user"),
    ("user", "assistant", "user", "assistant"),
    ("system", "user", "assistant"),
    ("user", "assistant", "tool", "assistant"),
)


@dataclass(frozen=True)
class Turn:
    """One message in a text.

    Attributes:
        role: "user", "assistant", "system" or "tool".
        start: Its first character.
        end: The character after its last.
    """

    role: str
    start: int
    end: int


Gaps = Mapping[str, tuple[tuple[str, str], ...]]
"""For each role, pairs of the role that may come next and the text before it; from "start", to "end"."""


def turns_of(text: str, tokenizer: Any) -> tuple[Turn, ...]:
    """The messages of a text that a chat template made, with something in them.

    Raises:
        TokenError: There is no chat template, or the text is none of its chats.
    """
    found = tuple(_read(text, _gaps_of(tokenizer)))
    special = special_tokens(tokenizer)
    if not found or any(token in text[turn.start : turn.end] for turn in found for token in special):
        raise TokenError(
            "`tokens` must be a chat, as the tokenizer's template makes it, where positions go by role or turn. "
            f"Got {text[:60]!r}. Make them with model.tokenize(messages), or go by text: mp.pos.text(...)."
        )
    return tuple(turn for turn in found if turn.end > turn.start)


def _gaps_of(tokenizer: Any) -> Gaps:
    if not has_chat_template(tokenizer):
        raise TokenError(
            "`tokenizer` must have a chat template where positions go by role or turn. Got one without. "
            "Go by text: mp.pos.text(...)."
        )
    found: dict[str, set[tuple[str, str]]] = {}
    for chat in _CHATS:
        for last, following, gap in _gaps(chat, tokenizer):
            found.setdefault(last, set()).add((following, gap))
    return {last: tuple(sorted(after)) for last, after in found.items()}


def _gaps(chat: Sequence[str], tokenizer: Any) -> Iterator[tuple[str, str, str]]:
    """What the template writes before, between and after the messages of one chat; nothing where it refuses it."""
    marks = [f"{_MARKS[role]}{i}" for i, role in enumerate(chat)]
    messages = [{"role": role, "content": mark} for role, mark in zip(chat, marks, strict=True)]
    try:
        texts = [
            tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=more)
            for more in (False, True)
        ]
    except (TemplateError, ValueError, TypeError, KeyError):
        return
    for text in texts:
        if not all(mark in text for mark in marks):
            continue
        at, last = 0, _START
        for role, mark in zip(chat, marks, strict=True):
            begin = text.index(mark, at)
            yield last, role, text[at:begin]
            at, last = begin + len(mark), role
        yield last, _END, text[at:]


def _read(text: str, gaps: Gaps) -> Iterator[Turn]:
    """The messages, one after the other; the last one may be unfinished."""
    role, at = _START, 0
    while role != _END:
        found = _next(text, at, role, gaps.get(role, ()))
        if role != _START:
            yield Turn(role, at, len(text) if found is None else found[0])
        if found is None:
            return
        begin, role, gap = found
        at = begin + len(gap)


def _next(text: str, at: int, role: str, gaps: Sequence[tuple[str, str]]) -> tuple[int, str, str] | None:
    """Where the next message or the end is announced, by which role, in which words.

    The first announcement counts; of several in one place the longest, and of two alike the end.
    """
    places = [(_place(text, at, gap, role == _START, following == _END), following, gap) for following, gap in gaps]
    there = [one for one in places if one[0] >= 0]
    return min(there, key=lambda one: (one[0], -len(one[2]), one[1] != _END)) if there else None


def _place(text: str, at: int, gap: str, first: bool, last: bool) -> int:
    if first:
        return at if text.startswith(gap, at) else -1
    if last:
        return len(text) - len(gap) if text.endswith(gap) and len(text) - len(gap) >= at else -1
    return text.find(gap, at) if gap else -1
