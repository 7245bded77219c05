"""What a chat template writes before, between and after messages, learnt from chats of known words, and read by it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from itertools import product
from typing import Any
from weakref import WeakKeyDictionary

from mlx_patch.chats import has_chat_template, rendered
from mlx_patch.errors import TokenError
from mlx_patch.positions._spelling import Spelling

_START, _END = "start", "end"
_CHATS = (
    ("user", "assistant", "user"),
    ("user", "assistant", "user", "assistant"),
    ("system", "user", "assistant"),
    ("system", "user", "assistant", "user"),
    ("developer", "user", "assistant"),
    ("user", "assistant", "tool"),
    ("user", "assistant", "tool", "assistant"),
)
_VARIABLES: tuple[Mapping[str, Any], ...] = (
    {},
    {"enable_thinking": True},
    {"enable_thinking": False},
    {"thinking": True},
    {"thinking": False},
)
_ENDS = (False, True)


@dataclass(frozen=True)
class Part:
    """The content of one message in a text.

    Attributes:
        role: Whose.
        start: Its first letter.
        end: The letter after its last.
    """

    role: str
    start: int
    end: int


@dataclass(frozen=True, order=True)
class Gap:
    """What a template writes where a message begins, or at the end of a chat.

    Attributes:
        following: The role that comes next, or "end".
        text: The words.
    """

    following: str
    text: str


Gaps = Mapping[str, tuple[Gap, ...]]
"""For each role, and for "start", what may come after it."""


def readings(spelling: Spelling, tokenizer: Any) -> list[tuple[Part, ...]]:
    """The ways to read a text as a chat of the tokenizer's template: none, one, or the first two of several.

    Raises:
        TokenError: There is no chat template.
    """
    special = spelling.special(tokenizer)
    found: list[tuple[Part, ...]] = []
    for parts in _read(spelling.text, 0, _START, gaps_of(tokenizer), special):
        if parts and parts not in found:
            found.append(parts)
        if len(found) > 1:
            break
    return found


_learnt: WeakKeyDictionary[Any, tuple[object, Gaps]] = WeakKeyDictionary()


def gaps_of(tokenizer: Any) -> Gaps:
    """What a tokenizer's template writes between messages.

    Raises:
        TokenError: There is no chat template.
    """
    if not has_chat_template(tokenizer):
        raise TokenError(
            "`tokenizer` must have a chat template where positions go by role or turn. Got one without. "
            "Go by text: mp.pos.text(...)."
        )
    made_of = (str(getattr(tokenizer, "chat_template", None)), date.today())  # which some templates write
    known = _learnt.get(tokenizer)
    if known is None or known[0] != made_of:
        known = _learnt[tokenizer] = (made_of, _learn(tokenizer))
    return known[1]


def _learn(tokenizer: Any) -> Gaps:
    found: dict[str, set[Gap]] = {}
    for chat, variables, prompted in product(_CHATS, _VARIABLES, _ENDS):
        for last, gap in _gaps(chat, {**variables, "add_generation_prompt": prompted}, tokenizer):
            found.setdefault(last, set()).add(gap)
    return {last: tuple(sorted(after)) for last, after in found.items()}


def _gaps(chat: Sequence[str], template: Mapping[str, Any], tokenizer: Any) -> Iterator[tuple[str, Gap]]:
    """What stands before, between and after the messages of one chat, in the order of the text.

    Some templates write the system message into the last message of the user, and some refuse a role.
    """
    words = [f"qxz{role}{number}qxz" for number, role in enumerate(chat)]
    messages = [{"role": role, "content": word} for role, word in zip(chat, words, strict=True)]
    try:
        text = Spelling.of(rendered(tokenizer, messages, template), tokenizer).text
    except TokenError:
        return
    if not all(text.count(word) == 1 for word in words):
        return
    last, at = _START, 0
    for begin, role, word in sorted((text.index(word), role, word) for role, word in zip(chat, words, strict=True)):
        yield last, Gap(role, text[at:begin])
        last, at = role, begin + len(word)
    yield last, Gap(_END, text[at:])


def _read(text: str, at: int, role: str, gaps: Gaps, special: Sequence[tuple[int, int]]) -> Iterator[tuple[Part, ...]]:
    """The ways to read a text from a place on; the last message may be unfinished."""
    begin, chosen = _next(text, at, role, gaps.get(role, ()))
    if role != _START:
        part = Part(role, at, len(text) if begin is None else begin)
        if any(low < part.end and high > part.start for low, high in special):
            return  # it holds what ends a message: it is not read by the template that wrote it
        own: tuple[Part, ...] = (part,)
    elif begin is None:
        return
    else:
        own = ()
    if begin is None:
        yield own
        return
    for gap in chosen:
        if gap.following == _END:
            yield own
            continue
        for rest in _read(text, begin + len(gap.text), gap.following, gaps, special):
            yield own + rest


def _next(text: str, at: int, role: str, gaps: Sequence[Gap]) -> tuple[int | None, list[Gap]]:
    """Where the next message or the end is announced, and by what.

    The first announcement counts; of several in one place the longest, and of two alike the end.
    """
    places = {gap: _place(text, at, gap, role == _START) for gap in gaps}
    there = {gap: place for gap, place in places.items() if place >= 0}
    if not there:
        return None, []
    begin = min(there.values())
    first = [gap for gap, place in there.items() if place == begin]
    longest = max(len(gap.text) for gap in first)
    chosen = [gap for gap in first if len(gap.text) == longest]
    ends = [gap for gap in chosen if gap.following == _END]
    return begin, ends or chosen


def _place(text: str, at: int, gap: Gap, first: bool) -> int:
    if first:
        return at if text.startswith(gap.text, at) else -1
    if gap.following == _END:
        begin = len(text) - len(gap.text)
        return begin if text.endswith(gap.text) and begin >= at else -1
    return text.find(gap.text, at) if gap.text else -1
