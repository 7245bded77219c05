"""Chats: checked, rendered by the tokenizer's own template, encoded as mlx_lm does, and known again by their ids."""

import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from weakref import ref

from mlx_patch.errors import KindError, TokenError, brief, listed

Messages = Sequence[Mapping[str, Any]]
"""Chat messages with `role` and `content`."""

_NOT_OF_THE_TEMPLATE = frozenset(
    ("tokenize", "add_special_tokens", "padding", "truncation", "max_length", "return_tensors", "return_dict")
) | {"return_assistant_tokens_mask", "tokenizer_kwargs"}
"""Keywords of `apply_chat_template` that say how to encode, which here is settled."""

_KEPT = 256


@dataclass(frozen=True, eq=False)
class Chat:
    """A chat that was encoded.

    Attributes:
        messages: Its messages.
        template: What the template was given besides.
    """

    messages: tuple[Mapping[str, Any], ...]
    template: Mapping[str, Any]


def encoded(tokenizer: Any, text: str, *, add_special_tokens: bool, what: str = "`prompt`") -> list[int]:
    """The token ids of a text.

    Args:
        tokenizer: A tokenizer of mlx_lm or of Hugging Face.
        text: The text.
        add_special_tokens: Whether the tokenizer adds those that it adds to texts.
        what: What the text is, for a message.
    Raises:
        KindError: The tokenizer does not encode as those of mlx_lm and of Hugging Face do.
        TokenError: UTF-8 cannot hold the text.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise TokenError(
            f"{what} must be text that UTF-8 can hold. Got {error.object[error.start]!r} in it. "
            "Leave it out, or give token ids."
        ) from None
    try:
        ids = tokenizer.encode(text, add_special_tokens=add_special_tokens)
    except (AttributeError, TypeError) as error:
        raise _no_tokenizer(tokenizer, f", of which encode(text, add_special_tokens=) says: {error}") from error
    if not isinstance(ids, Iterable) or hasattr(ids, "ids"):
        raise _no_tokenizer(tokenizer, f", whose encode returns {type(ids).__name__} in place of ids")
    return [int(token) for token in ids]


def _no_tokenizer(tokenizer: Any, why: str) -> KindError:
    kind = type(tokenizer)
    return KindError(
        "`tokenizer` must be one of mlx_lm or of Hugging Face, or encode and decode as those do. Got "
        f"{kind.__module__}.{kind.__qualname__}{why}. Wrap one of the package tokenizers: "
        "transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer). Or pass token ids."
    )


def encode_chat(tokenizer: Any, messages: Messages, *, allow_special: bool = False, **template: Any) -> list[int]:
    """The token ids of a chat, as mlx_lm makes them: without the special tokens that the tokenizer adds to texts.

    Args:
        tokenizer: A tokenizer of mlx_lm or of Hugging Face.
        messages: The messages, which get the generation prompt.
        allow_special: Messages may hold special tokens.
        template: More for the chat template.
    Raises:
        TokenError: There is no chat template; it refuses the messages; or one holds a special token.
        KindError: `template` holds what is no variable of a template.
    """
    refuse_other_keywords(template)
    if not messages or not all(isinstance(message, Mapping) for message in messages):
        raise TokenError(
            f"`prompt` must be a text or chat messages, dicts with role and content. Got {brief(messages)}."
        )
    if not has_chat_template(tokenizer):
        raise TokenError(
            "`prompt` must be a text where the tokenizer has no chat template. Got chat messages. "
            "Base models often have none: use the text or the tokens of their instruct model."
        )
    special = frozenset() if allow_special else special_tokens(tokenizer)
    for number, message in enumerate(messages):
        _refuse_incomplete(message, number)
        _refuse_special(message, number, special)
    ids = rendered(tokenizer, messages, template)
    _remember(tokenizer, ids, Chat(tuple(deepcopy(dict(message)) for message in messages), template))
    return ids


def refuse_other_keywords(template: Mapping[str, Any]) -> None:
    """Refuse keywords that say how to encode.

    Raises:
        KindError: There is one.
    """
    for name in template:
        if name in _NOT_OF_THE_TEMPLATE:
            raise KindError(
                f"`template` must hold variables of the chat template. Got {name!r}: `tokenize` always gives ids, as "
                "mlx_lm encodes a chat. For the text call tokenizer.apply_chat_template(messages, tokenize=False)."
            )


def rendered(tokenizer: Any, messages: Messages, template: Mapping[str, Any]) -> list[int]:
    """The token ids of messages that were checked.

    Raises:
        TokenError: The template refuses them.
    """
    text = _through_template(_as_mlx_lm_has_it(tokenizer), messages, template)
    return encoded(tokenizer, text, add_special_tokens=False)


def _as_mlx_lm_has_it(tokenizer: Any) -> Any:
    """A tokenizer as mlx_lm wraps it, which gives the template a few variables."""
    from transformers import PreTrainedTokenizerBase

    return _wrapped(tokenizer) if isinstance(tokenizer, PreTrainedTokenizerBase) else tokenizer


@lru_cache(maxsize=4)  # it reads the whole vocabulary
def _wrapped(tokenizer: Any) -> Any:
    from mlx_lm.tokenizer_utils import TokenizerWrapper

    return TokenizerWrapper(tokenizer)


def _through_template(tokenizer: Any, messages: Messages, template: Mapping[str, Any]) -> str:
    from jinja2 import TemplateError  # what every chat template is read with

    options = {"tokenize": False, "add_generation_prompt": True, **template}
    try:
        return tokenizer.apply_chat_template([dict(message) for message in messages], **options)
    except (TemplateError, TypeError, ValueError, KeyError) as error:
        roles = listed(str(message["role"]) for message in messages)
        raise TokenError(
            f"`prompt` must be messages that the tokenizer's chat template takes. Got the roles {roles}; the template "
            f"says: {error}. Change the messages, or write the prompt as a text."
        ) from error


def _refuse_incomplete(message: Mapping[str, Any], number: int) -> None:
    if not isinstance(message.get("role"), str) or not message["role"]:
        raise TokenError(
            f"`prompt` must hold a role in each message, as a string. Got {brief(message.get('role'))} in message "
            f"{number}. Write {{'role': 'user', 'content': ...}}."
        )
    if message.get("content") is None and not message.get("tool_calls"):
        raise TokenError(
            f"`prompt` must hold content in each message without tool calls. Got none in message {number}. "
            "Write 'content': '' for an empty one."
        )


def _refuse_special(message: Mapping[str, Any], number: int, special: frozenset[str]) -> None:
    for text in _strings(message):
        if found := next((token for token in sorted(special) if token in text), None):
            raise TokenError(
                f"`prompt` must not hold special tokens in its messages. Got {found!r} in message {number}, where it "
                "would begin or end a turn. Take it out, or pass the tokens that "
                "`model.tokenize(prompt, allow_special=True)` gives."
            )


def _strings(value: object) -> Iterator[str]:
    """Every string in a message, however deep."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list | tuple):
        for part in value.values() if isinstance(value, Mapping) else value:
            yield from _strings(part)


def special_tokens(tokenizer: Any) -> frozenset[str]:
    """The texts that a tokenizer reads as special tokens: those with a role, and those added as special."""
    added = getattr(tokenizer, "added_tokens_decoder", None) or {}
    named = getattr(tokenizer, "all_special_tokens", None) or []
    return frozenset(filter(None, named)) | {token.content for token in added.values() if token.special}


def has_chat_template(tokenizer: Any) -> bool:
    """Whether a tokenizer of mlx_lm or of Hugging Face has a chat template."""
    return bool(getattr(tokenizer, "chat_template", None) or getattr(tokenizer, "has_chat_template", False))


Known = tuple["ref[Any]", tuple[Chat, ...]]

_known: "OrderedDict[tuple[int, tuple[int, ...]], Known]" = OrderedDict()
_lock = threading.RLock()


def chats_of(tokenizer: Any, ids: Sequence[int]) -> tuple[Chat, ...]:
    """The chats that were encoded into some token ids lately: which part is whose, ids alone do not always say."""
    with _lock:
        held = _known.get((id(tokenizer), tuple(ids)))
    return held[1] if held is not None and held[0]() is tokenizer else ()


def _remember(tokenizer: Any, ids: Sequence[int], chat: Chat) -> None:
    """Keep a chat by its ids, beside others that gave the same; of all chats the last few hundred."""
    key = (id(tokenizer), tuple(ids))
    others = tuple(other for other in chats_of(tokenizer, ids) if other.messages != chat.messages)
    with _lock:
        _known[key] = (ref(tokenizer), (*others, chat)[-8:])
        _known.move_to_end(key)
        while len(_known) > _KEPT:
            _known.popitem(last=False)
