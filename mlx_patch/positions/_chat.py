"""The positions of a chat's messages in its tokens.

Where the chat is known, each message's content is exchanged for another word, and the tokens that change are its
content: this holds for every template. For tokens alone, the text between messages is learnt from chats of known words;
tokens that can be read in several ways are refused.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mlx_patch.chats import Chat, chats_of, rendered
from mlx_patch.errors import TokenError
from mlx_patch.positions._gaps import Content, readings
from mlx_patch.positions._spelling import Spelling

_WORDS = ("qxz", "jvk", "wpf")
"""Words that stand in for content: of three one has neither the first nor the last letter of it."""


@dataclass(frozen=True)
class Turn:
    """One message of a chat.

    Attributes:
        role: "user", "assistant", "system", "tool" ...
        positions: The positions of its content.
    """

    role: str
    positions: tuple[int, ...]


def turns_of(ids: Sequence[int], tokenizer: Any) -> tuple[Turn, ...]:
    """The messages of a chat that have content.

    Raises:
        TokenError: The tokens are no chat of the tokenizer's template, or they do not say whose a part is.
    """
    spelling = Spelling.of(ids, tokenizer)
    candidates: list[tuple[Content, ...]] = []
    for chat in chats_of(tokenizer, ids):
        contents = _contents(chat, ids, spelling, tokenizer)
        if contents and contents not in candidates:
            candidates.append(contents)
    if not candidates:
        candidates = readings(spelling, tokenizer)
    if not candidates:
        raise TokenError(
            "`tokens` must be a chat from the tokenizer's template if positions go by role or turn. Got "
            f"{tokenizer.decode(list(ids))[:60]!r}. Make them with model.tokenize(messages), or choose positions by "
            "text: mp.pos.text(...)."
        )
    if len(candidates) > 1:
        raise TokenError(
            "`tokens` must show the role of each part if positions go by role or turn. Got tokens that could be "
            f"{_roles(candidates[0])}, or {_roles(candidates[1])}. Pass the messages instead of tokens, or choose "
            "positions by text: mp.pos.text(...)."
        )
    return tuple(
        Turn(content.role, spelling.within(content.start, content.end))
        for content in candidates[0]
        if content.end > content.start
    )


def _roles(contents: Sequence[Content]) -> str:
    return " + ".join(content.role for content in contents)


def _contents(chat: Chat, ids: Sequence[int], spelling: Spelling, tokenizer: Any) -> tuple[Content, ...]:
    """The content of each message of a known chat; empty where the template now makes other tokens of it."""
    try:
        if any(not isinstance(message.get("content"), str) for message in chat.messages):
            return ()
        if rendered(tokenizer, chat.messages, chat.template) != list(ids):
            return ()
        return tuple(_content(number, chat, spelling, tokenizer) for number in range(len(chat.messages)))
    except TokenError:  # a template that takes no other content
        return ()


def _content(number: int, chat: Chat, spelling: Spelling, tokenizer: Any) -> Content:
    """The part of the text that changes with one message's content."""
    messages = list(chat.messages)
    message = messages[number]
    messages[number] = {**message, "content": _another_word(message["content"])}
    changed = Spelling.of(rendered(tokenizer, messages, chat.template), tokenizer).text
    text = spelling.text
    start = _common_letters(text, changed)
    behind = _common_letters(text[start:][::-1], changed[start:][::-1])
    return Content(message["role"], start, len(text) - behind)


def _another_word(content: str) -> str:
    letters = content.strip().lower()
    first, last = letters[:1], letters[-1:]
    return next(word for word in _WORDS if word[0] != first and word[-1] != last)


def _common_letters(text: str, changed: str) -> int:
    """The number of equal letters at the beginning of two texts."""
    for number, (letter, changed_letter) in enumerate(zip(text, changed, strict=False)):
        if letter != changed_letter:
            return number
    return min(len(text), len(changed))
