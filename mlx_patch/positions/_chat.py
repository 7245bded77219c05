"""The messages of a chat, found again in its tokens.

Where the chat is known, each message's content is exchanged for another word, and what changes in the tokens is its
content: this holds for whatever a template does. Of tokens alone, what stands between two messages is learnt from chats
of known words; where that leaves it open whose a part is, it is refused.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mlx_patch.chats import Chat, chats_of, rendered
from mlx_patch.errors import TokenError
from mlx_patch.positions._gaps import Part, readings
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
    known = [parts for chat in chats_of(tokenizer, ids) if (parts := _parts_of(chat, ids, spelling, tokenizer))]
    found = list(dict.fromkeys(known)) or readings(spelling, tokenizer)
    if not found:
        raise TokenError(
            "`tokens` must be a chat, as the tokenizer's template makes it, where positions go by role or turn. "
            f"Got {tokenizer.decode(list(ids))[:60]!r}. Make them with model.tokenize(messages), or go by text: "
            "mp.pos.text(...)."
        )
    if len(found) > 1:
        raise TokenError(
            "`tokens` must say whose each part is, where positions go by role or turn. Got tokens that could be "
            f"{_roles(found[0])}, or {_roles(found[1])}. Pass the messages in place of tokens, or go by text: "
            "mp.pos.text(...)."
        )
    return tuple(Turn(part.role, spelling.within(part.start, part.end)) for part in found[0] if part.end > part.start)


def _roles(parts: Sequence[Part]) -> str:
    return " + ".join(part.role for part in parts)


def _parts_of(chat: Chat, ids: Sequence[int], spelling: Spelling, tokenizer: Any) -> tuple[Part, ...]:
    """The content of each message of a known chat; nothing where the template makes something else of it today."""
    try:
        if any(not isinstance(message.get("content"), str) for message in chat.messages):
            return ()
        if rendered(tokenizer, chat.messages, chat.template) != list(ids):
            return ()
        return tuple(_part(number, chat, spelling, tokenizer) for number in range(len(chat.messages)))
    except TokenError:  # a template that takes no other content
        return ()


def _part(number: int, chat: Chat, spelling: Spelling, tokenizer: Any) -> Part:
    """Where one message's content stands: what changes when it says something else."""
    message, text = chat.messages[number], spelling.text
    other = {**message, "content": _another_word(message["content"])}
    messages = [*chat.messages[:number], other, *chat.messages[number + 1 :]]
    changed = Spelling.of(rendered(tokenizer, messages, chat.template), tokenizer).text
    start = _shared(text, changed)
    behind = _shared(text[start:][::-1], changed[start:][::-1])
    return Part(message["role"], start, len(text) - behind)


def _another_word(content: str) -> str:
    letters = content.strip().lower()
    return next(word for word in _WORDS if word[0] != letters[:1] and word[-1] != letters[-1:])


def _shared(text: str, other: str) -> int:
    """How many letters two texts begin with alike."""
    pairs = enumerate(zip(text, other, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(text), len(other)))
