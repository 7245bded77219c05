"""Chats: checked, rendered by the tokenizer's template, encoded as mlx_lm does, and looked up by their token ids."""

import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from weakref import ref

from mlx_patch import arguments
from mlx_patch.errors import KindError, TokenError, brief, listed, shown

Messages = Sequence[Mapping[str, Any]]
"""Chat messages with `role` and `content`."""

_NOT_OF_THE_TEMPLATE = frozenset(
    ("tokenize", "add_special_tokens", "padding", "truncation", "max_length", "return_tensors", "return_dict")
) | {"return_assistant_tokens_mask", "tokenizer_kwargs"}
"""Keywords of `apply_chat_template` that say how to encode, which a caller cannot choose here."""

_KEPT = 256


@dataclass(frozen=True, eq=False)
class Chat:
    """A chat that was encoded.

    Attributes:
        messages: Its messages.
        template: Further variables of the template.
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
            f"{what} must be text that UTF-8 can encode. Got {shown(error.object[error.start])} in it. Remove it, "
            "or pass "
            "token ids."
        ) from None
    try:
        ids = tokenizer.encode(text, add_special_tokens=add_special_tokens)
    except (AttributeError, TypeError) as error:
        raise _no_tokenizer(tokenizer, f", whose encode(text, add_special_tokens=) raises: {error}") from error
    if not isinstance(ids, Iterable) or hasattr(ids, "ids"):
        raise _no_tokenizer(tokenizer, f", whose encode returns {type(ids).__name__} instead of ids")
    return [int(token) for token in ids]


def _no_tokenizer(tokenizer: Any, why: str) -> KindError:
    kind = type(tokenizer)
    return KindError(
        "`tokenizer` must be mlx_lm's or Hugging Face's, or encode and decode as they do. Got "
        f"{kind.__module__}.{kind.__qualname__}{why}. If it is from the package tokenizers, wrap it: "
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
    allow_special = arguments.flag("allow_special", allow_special)
    if (
        not isinstance(messages, list | tuple)
        or not messages
        or not all(isinstance(message, Mapping) for message in messages)
    ):
        raise TokenError(
            f"`prompt` must be text or chat messages, which are dicts with role and content. Got {brief(messages)}."
        )
    if not has_chat_template(tokenizer):
        raise TokenError(
            "`prompt` must be text if the tokenizer has no chat template. Got chat messages. Base models often have "
            "none: use text, or the tokens of their instruct model."
        )
    refused_tokens: frozenset[str] = frozenset()
    if not allow_special:
        refused_tokens = special_tokens(tokenizer)
    for number, message in enumerate(messages):
        _refuse_incomplete(message, number)
        _refuse_special(message, number, refused_tokens)
    ids = rendered(tokenizer, messages, template)
    copies = tuple(deepcopy(dict(message)) for message in messages)
    _remember(tokenizer, ids, Chat(copies, template))
    return ids


def refuse_other_keywords(template: Mapping[str, Any]) -> None:
    """Refuse template keywords that control encoding.

    Raises:
        KindError: There is one.
    """
    for name in template:
        if name in _NOT_OF_THE_TEMPLATE:
            raise KindError(
                f"`template` must hold variables of the chat template. Got {shown(name)}, but `tokenize` always "
                "returns "
                "ids. For the text, call tokenizer.apply_chat_template(messages, tokenize=False)."
            )


def rendered(tokenizer: Any, messages: Messages, template: Mapping[str, Any]) -> list[int]:
    """The token ids of messages that were checked.

    Raises:
        TokenError: The template refuses them.
    """
    text = _apply_template(_wrap_as_mlx_lm(tokenizer), messages, template)
    return encoded(tokenizer, text, add_special_tokens=False)


def _wrap_as_mlx_lm(tokenizer: Any) -> Any:
    """A tokenizer as mlx_lm wraps it, which gives the template a few variables."""
    from transformers import PreTrainedTokenizerBase

    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        return tokenizer
    return _wrap(tokenizer)


@lru_cache(maxsize=4)  # the wrapper reads the whole vocabulary
def _wrap(tokenizer: Any) -> Any:
    from mlx_lm.tokenizer_utils import TokenizerWrapper

    return TokenizerWrapper(tokenizer)


def _apply_template(tokenizer: Any, messages: Messages, template: Mapping[str, Any]) -> str:
    from jinja2 import TemplateError  # the library that reads every chat template

    options = {"tokenize": False, "add_generation_prompt": True, **template}
    try:
        return tokenizer.apply_chat_template([dict(message) for message in messages], **options)
    except (TemplateError, TypeError, ValueError, KeyError) as error:
        roles = listed(str(message["role"]) for message in messages)
        raise TokenError(
            f"`prompt` must be messages that the tokenizer's chat template accepts. Got the roles {roles}, and the "
            f"template raises: {error}. Change the messages, or pass the prompt as text."
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


def _refuse_special(message: Mapping[str, Any], number: int, refused_tokens: frozenset[str]) -> None:
    for text in _strings(message):
        tokens = sorted(token for token in refused_tokens if token in text)
        if tokens:
            raise TokenError(
                f"`prompt` must not hold special tokens in its messages. Got {shown(tokens[0])} in message "
                f"{number}, where "
                "it would begin or end a turn. Remove it, or pass the tokens that `model.tokenize(prompt, "
                "allow_special=True)` returns."
            )


def _strings(value: object) -> Iterator[str]:
    """Every string in a message, however deep."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from _strings(list(value.values()))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _strings(item)


def special_tokens(tokenizer: Any) -> frozenset[str]:
    """The texts that a tokenizer reads as special tokens: those with a role, and those added as special."""
    added = getattr(tokenizer, "added_tokens_decoder", None) or {}
    with_role = getattr(tokenizer, "all_special_tokens", None) or []
    added_texts = {token.content for token in added.values() if token.special}
    return frozenset(filter(None, with_role)) | added_texts


def has_chat_template(tokenizer: Any) -> bool:
    """Whether a tokenizer of mlx_lm or of Hugging Face has a chat template."""
    return bool(getattr(tokenizer, "chat_template", None) or getattr(tokenizer, "has_chat_template", False))


Known = tuple["ref[Any]", tuple[Chat, ...]]

_known: "OrderedDict[tuple[int, tuple[int, ...]], Known]" = OrderedDict()
_lock = threading.RLock()


def chats_of(tokenizer: Any, ids: Sequence[int]) -> tuple[Chat, ...]:
    """The recently encoded chats with these token ids. Ids alone do not always separate messages."""
    with _lock:
        entry = _known.get((id(tokenizer), tuple(ids)))
    if entry is None:
        return ()
    reference, chats = entry
    if reference() is not tokenizer:  # another tokenizer, at the same place in memory
        return ()
    return chats


def _remember(tokenizer: Any, ids: Sequence[int], chat: Chat) -> None:
    """Store a chat under its ids, beside others with the same ids; only the last few hundred are kept."""
    key = (id(tokenizer), tuple(ids))
    same_ids = [stored for stored in chats_of(tokenizer, ids) if stored.messages != chat.messages]
    with _lock:
        _known[key] = (ref(tokenizer), (*same_ids, chat)[-8:])
        _known.move_to_end(key)
        while len(_known) > _KEPT:
            _known.popitem(last=False)
