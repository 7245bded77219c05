"""From text or chat messages to tokens: one beginning-of-sequence token, never two; and prompts by their length."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import mlx.core as mx
import numpy as np
from typing_extensions import TypeIs

from mlx_patch.errors import KindError, SelectionError, ShapeError, TokenError, brief, listed

Prompt = str | Sequence[Mapping[str, Any]]
"""A text, or chat messages with `role` and `content`."""


@dataclass(frozen=True)
class Batch:
    """Prompts of one length, which run together.

    Attributes:
        tokens: Shape `(batch, pos)`.
        examples: Which of all prompts they are, in order.
    """

    tokens: mx.array
    examples: tuple[int, ...]

    @property
    def length(self) -> int:
        """The positions of each prompt."""
        return self.tokens.shape[1]


def tokenize(tokenizer: Any, prompt: Prompt, *, allow_special: bool = False, **template: Any) -> mx.array:
    """The tokens of a text, or of a chat through the tokenizer's own template.

    The tokenizer adds its special tokens, unless the text begins with its beginning-of-sequence token already, as
    chat templates have it.

    Args:
        tokenizer: A tokenizer of mlx_lm or of Hugging Face.
        prompt: A text, or messages. Messages get the generation prompt.
        allow_special: Messages may hold special tokens, as a plain text may. They are read as such: `<|im_end|>` in
            what a user says ends the turn.
        template: More for the chat template.
    Returns:
        Token ids. Shape `(1, pos)`.
    Raises:
        TokenError: There is no tokenizer, no chat template, or nothing comes out; the template refuses the messages,
            or a message holds a special token and `allow_special` is false.
    """
    if tokenizer is None:
        raise TokenError(
            "`tokenizer` must be there to turn text into tokens. Got None. "
            "Pass one to HookedModel(model, tokenizer), or pass token ids."
        )
    text = prompt if isinstance(prompt, str) else _chat(tokenizer, prompt, template, allow_special)
    bos = getattr(tokenizer, "bos_token", None)
    ids = _encoded(tokenizer, text, add_special_tokens=not (bos and text.startswith(bos)))
    if not ids:
        raise TokenError(f"`prompt` must give at least one token. Got {prompt!r}.")
    return mx.array([ids])


def is_text_or_chat(prompt: object) -> TypeIs[Prompt]:
    """Whether a prompt is a text or chat messages, and not token ids."""
    return isinstance(prompt, str) or (isinstance(prompt, list | tuple) and any(isinstance(m, Mapping) for m in prompt))


def _encoded(tokenizer: Any, text: str, add_special_tokens: bool) -> list[int]:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise TokenError(
            f"`prompt` must be text that UTF-8 can hold. Got {error.object[error.start]!r} in it."
        ) from None
    return tokenizer.encode(text, add_special_tokens=add_special_tokens)


def _chat(tokenizer: Any, messages: Sequence[Mapping[str, Any]], template: dict[str, Any], allow_special: bool) -> str:
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
    return _through_template(tokenizer, messages, template)


def _through_template(tokenizer: Any, messages: Sequence[Mapping[str, Any]], template: dict[str, Any]) -> str:
    from jinja2 import TemplateError  # what every chat template is read with

    options = {"tokenize": False, "add_generation_prompt": True, **template}
    try:
        return tokenizer.apply_chat_template([dict(message) for message in messages], **options)
    except (TemplateError, TypeError) as error:
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
        for one in value.values() if isinstance(value, Mapping) else value:
            yield from _strings(one)


def special_tokens(tokenizer: Any) -> frozenset[str]:
    """The texts that a tokenizer reads as special tokens: those with a role, and those added as special."""
    added = getattr(tokenizer, "added_tokens_decoder", None) or {}
    named = getattr(tokenizer, "all_special_tokens", None) or []
    return frozenset(filter(None, named)) | {token.content for token in added.values() if token.special}


def has_chat_template(tokenizer: Any) -> bool:
    """Whether a tokenizer of mlx_lm or of Hugging Face has a chat template."""
    return bool(getattr(tokenizer, "chat_template", None) or getattr(tokenizer, "has_chat_template", False))


def as_tokens(given: object, d_vocab: int) -> mx.array:
    """Token ids as `(batch, pos)`, checked.

    Args:
        given: An array or nested lists of ids. Shape `(pos,)` or `(batch, pos)`.
        d_vocab: How many tokens the model knows.
    Raises:
        KindError: They are not integers.
        ShapeError: Another shape, or empty.
        SelectionError: An id that the model does not know: MLX would read past the edge of the embedding.
    """
    tokens = _array(given)
    refuse_traced("tokens", tokens)
    if not mx.issubdtype(tokens.dtype, mx.integer):
        raise KindError(f"`tokens` must be integers. Got {tokens.dtype}. Use `model.tokenize(text)`.")
    tokens = tokens[None] if tokens.ndim == 1 else tokens
    if tokens.ndim != 2 or tokens.size == 0:
        raise ShapeError(f"`tokens` must have the shape (batch, pos), and not be empty. Got {tokens.shape}.")
    low, high = cast("list[int]", mx.stack([mx.min(tokens), mx.max(tokens)]).tolist())
    if low < 0 or high >= d_vocab:
        wrong = low if low < 0 else high
        raise SelectionError(f"`tokens` must lie in 0 to {d_vocab - 1}. Got {wrong}. Is it another model's tokenizer?")
    return tokens.astype(mx.int32)


def refuse_traced(name: str, array: mx.array) -> None:
    """Refuse an array that stands for values to come, as `mx.compile` and `mx.vmap` hand to what they trace.

    Args:
        name: What the array is, for the message.
        array: It is computed meanwhile, and nobody waits for it.
    Raises:
        KindError: It has no values: what an edit does would be traced once, and stay.
    """
    try:
        mx.async_eval(array)
    except ValueError:
        if not _has_values(array):
            raise KindError(
                f"`{name}` must have values. Got an array inside mx.compile or mx.vmap, which are given none: an edit "
                "that is traced stays for ever. Call it outside of them, with a batch as one array (batch, pos)."
            ) from None


def _has_values(array: mx.array) -> bool:
    """Whether an array can be computed, as inside `mx.grad` it can."""
    try:
        mx.eval(array)
    except ValueError:
        return False
    return True


def one_prompt(one: object, number: int, tokenizer: Any, d_vocab: int) -> mx.array:
    """The tokens of one prompt of several. Shape `(1, pos)`.

    Args:
        one: A text, chat messages or token ids.
        number: Which of the prompts it is, for a message.
        tokenizer: For texts and messages.
        d_vocab: How many tokens the model knows.
    Raises:
        TokenError, KindError, SelectionError: As `tokenize` and `as_tokens` say.
        ShapeError: It is several prompts, or none.
    """
    tokens = tokenize(tokenizer, one) if is_text_or_chat(one) else as_tokens(one, d_vocab)
    if tokens.shape[0] != 1:
        raise ShapeError(
            f"`tokens` must hold one prompt an entry. Got {tokens.shape[0]} in entry {number}. "
            "Pass a batch of one length as one array, or each prompt by itself."
        )
    return tokens


def by_length(rows: Sequence[mx.array], at_most: int | None = None) -> tuple[Batch, ...]:
    """Prompts in batches of equal length, which are not padded. Within a batch they stay in order.

    Args:
        rows: Token ids, each of shape `(1, pos)`.
        at_most: The most prompts in a batch; None is any number.
    Example:
        >>> rows = [mx.array([[1, 2]]), mx.array([[3]]), mx.array([[4, 5]])]
        >>> [batch.examples for batch in by_length(rows)]
        [(0, 2), (1,)]
    """
    same: dict[int, list[int]] = {}
    for number, row in enumerate(rows):
        same.setdefault(row.shape[1], []).append(number)
    size = at_most or max(1, len(rows))
    chunks = [tuple(own[start : start + size]) for own in same.values() for start in range(0, len(own), size)]
    return tuple(Batch(mx.concatenate([rows[n] for n in chunk], axis=0), chunk) for chunk in chunks)


def _array(given: object) -> mx.array:
    if isinstance(given, mx.array):
        return given
    try:
        array = np.asarray(given)
    except ValueError:
        raise ShapeError(
            "`tokens` must have equally many in each row. Got rows of different lengths. Pass them as a list to "
            "`model.run_each`, which runs prompts of each length by themselves and pads nothing."
        ) from None
    if array.dtype.kind not in "iu":
        raise KindError(f"`tokens` must be integers. Got {type(given).__name__}. Use `model.tokenize(text)`.")
    return mx.array(array.astype(np.int64))
