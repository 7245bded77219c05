"""The texts that a chat template writes around messages, learnt from chats of known words, and chats read by them."""

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
class Content:
    """The content of one message in a text.

    Attributes:
        role: The role of the message.
        start: Its first letter.
        end: The letter after its last.
    """

    role: str
    start: int
    end: int


@dataclass(frozen=True, order=True)
class Gap:
    """The text that a template writes where a message begins, or at the end of a chat.

    Attributes:
        following: The role that comes next, or "end".
        text: The text.
    """

    following: str
    text: str


Gaps = Mapping[str, tuple[Gap, ...]]
"""For each role, and for "start", the gaps that may come after it."""


def readings(spelling: Spelling, tokenizer: Any) -> list[tuple[Content, ...]]:
    """The ways to read a text as a chat of the tokenizer's template: none, one, or the first two of several.

    Raises:
        TokenError: There is no chat template.
    """
    special = spelling.special(tokenizer)
    results: list[tuple[Content, ...]] = []
    for contents in _read(spelling.text, 0, _START, gaps_of(tokenizer), special):
        if contents and contents not in results:
            results.append(contents)
        if len(results) > 1:
            break
    return results


_learnt: WeakKeyDictionary[Any, tuple[object, Gaps]] = WeakKeyDictionary()


def gaps_of(tokenizer: Any) -> Gaps:
    """The texts that a tokenizer's template writes between messages.

    Raises:
        TokenError: There is no chat template.
    """
    if not has_chat_template(tokenizer):
        raise TokenError(
            "`tokenizer` must have a chat template if positions go by role or turn. Got one without. Choose positions "
            "by text: mp.pos.text(...)."
        )
    version = (str(getattr(tokenizer, "chat_template", None)), date.today())  # some templates write the date
    learnt_version, gaps = _learnt.get(tokenizer, (None, {}))
    if learnt_version != version:
        gaps = _learn(tokenizer)
        _learnt[tokenizer] = (version, gaps)
    return gaps


def _learn(tokenizer: Any) -> Gaps:
    gaps: dict[str, set[Gap]] = {}
    for chat, variables, prompted in product(_CHATS, _VARIABLES, _ENDS):
        for role, gap in _gaps(chat, {**variables, "add_generation_prompt": prompted}, tokenizer):
            gaps.setdefault(role, set()).add(gap)
    return {role: tuple(sorted(gaps_of_role)) for role, gaps_of_role in gaps.items()}


def _gaps(chat: Sequence[str], template: Mapping[str, Any], tokenizer: Any) -> Iterator[tuple[str, Gap]]:
    """The texts before, between and after the messages of one chat, in order, with the role before each.

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
    last_role, last_end = _START, 0
    starts = [text.index(word) for word in words]
    for start, role, word in sorted(zip(starts, chat, words, strict=True)):
        yield last_role, Gap(role, text[last_end:start])
        last_role, last_end = role, start + len(word)
    yield last_role, Gap(_END, text[last_end:])


def _read(
    text: str, start: int, role: str, gaps: Gaps, special: Sequence[tuple[int, int]]
) -> Iterator[tuple[Content, ...]]:
    """The ways to read a text from a place on; the last message may be unfinished."""
    gap_start, chosen = _next_gaps(text, start, role, gaps.get(role, ()))
    contents: tuple[Content, ...] = ()
    if role != _START:
        content = Content(role, start, len(text) if gap_start is None else gap_start)
        if any(low < content.end and high > content.start for low, high in special):
            return  # it holds a token that ends messages: it is not read by the template that wrote it
        contents = (content,)
    if gap_start is None:
        if contents:
            yield contents
        return
    for gap in chosen:
        if gap.following == _END:
            yield contents
            continue
        for further_contents in _read(text, gap_start + len(gap.text), gap.following, gaps, special):
            yield contents + further_contents


def _next_gaps(text: str, start: int, role: str, gaps: Sequence[Gap]) -> tuple[int | None, list[Gap]]:
    """The place of the next gap from a place on, and the gaps that it may be; None where there is none.

    The first one counts; of several in one place the longest, and of two alike the end.
    """
    places = {gap: _find_gap(text, start, gap, role == _START) for gap in gaps}
    places = {gap: place for gap, place in places.items() if place >= 0}
    if not places:
        return None, []
    gap_start = min(places.values())
    candidates = [gap for gap, place in places.items() if place == gap_start]
    longest = max(len(gap.text) for gap in candidates)
    candidates = [gap for gap in candidates if len(gap.text) == longest]
    ends = [gap for gap in candidates if gap.following == _END]
    return gap_start, ends or candidates


def _find_gap(text: str, start: int, gap: Gap, at_start: bool) -> int:
    """The place of a gap in a text, -1 for none; at the start of a chat only the very first place counts."""
    if at_start:
        return start if text.startswith(gap.text, start) else -1
    if gap.following == _END:
        place = len(text) - len(gap.text)
        return place if text.endswith(gap.text) and place >= start else -1
    if not gap.text:
        return -1
    return text.find(gap.text, start)
