"""Tokens of texts and chat messages, with one beginning-of-sequence token and never two; and prompts by length."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import mlx.core as mx
import numpy as np
from typing_extensions import TypeIs

from mlx_patch import arguments
from mlx_patch.chats import Messages, encode_chat, encoded
from mlx_patch.errors import KindError, SelectionError, ShapeError, TokenError, listed, shown

Prompt = str | Messages
"""A text, or chat messages with `role` and `content`."""


@dataclass(frozen=True)
class Batch:
    """Prompts of one length, which run together.

    Attributes:
        tokens: Shape `(batch, pos)`.
        examples: Their numbers among all prompts, in order.
        alone: Whether they are prompts of a list, each of which is edited as if it ran alone; otherwise a batch.
    """

    tokens: mx.array
    examples: tuple[int, ...]
    alone: bool = False

    @property
    def length(self) -> int:
        """The positions of each prompt."""
        return self.tokens.shape[1]


def tokenize(tokenizer: Any, prompt: Prompt, *, allow_special: bool = False, **template: Any) -> mx.array:
    """The tokens of a text, or of a chat through the tokenizer's own template.

    A text gets the special tokens that the tokenizer adds, unless it begins with the beginning-of-sequence token
    already: one, never two. A chat is encoded as mlx_lm does it: the template writes every special token, and the
    tokenizer adds none.

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
        KindError: The tokenizer encodes otherwise than those of mlx_lm and Hugging Face; `template` has what is no
            variable of a template, or is there for a text.
    """
    if tokenizer is None:
        raise TokenError(
            "`tokenizer` must be given to turn text into tokens. Got None. Pass one to HookedModel(model, tokenizer), "
            "or pass token ids."
        )
    allow_special = arguments.flag("allow_special", allow_special)
    if isinstance(prompt, str):
        ids = _encode_text(tokenizer, prompt, template)
    else:
        ids = encode_chat(tokenizer, prompt, allow_special=allow_special, **template)
    if not ids:
        raise TokenError(f"`prompt` must give at least one token. Got {shown(prompt)}.")
    return mx.array([ids])


def _encode_text(tokenizer: Any, text: str, template: Mapping[str, Any]) -> list[int]:
    if template:
        raise KindError(
            f"`template` must be left out for text, which uses no chat template. Got {listed(template)}. Pass chat "
            "messages: [{'role': 'user', 'content': text}]."
        )
    bos = getattr(tokenizer, "bos_token", None)
    has_bos = bool(bos) and text.startswith(bos)
    return encoded(tokenizer, text, add_special_tokens=not has_bos)


def is_text_or_chat(prompt: object) -> TypeIs[Prompt]:
    """Whether a prompt is a text or chat messages, and not token ids."""
    if isinstance(prompt, list | tuple):
        return any(isinstance(message, Mapping) for message in prompt)
    return isinstance(prompt, str)


def tokens_of(prompt: object, tokenizer: Any, d_vocab: int) -> mx.array:
    """The tokens of a text, of a chat, or token ids as they are, checked. Shape `(batch, pos)`.

    Args:
        prompt: A text, chat messages, or what `as_tokens` takes.
        tokenizer: For texts and messages.
        d_vocab: How many tokens the model knows.
    Raises:
        TokenError, KindError, ShapeError, SelectionError: As `tokenize` and `as_tokens` say.
    """
    if is_text_or_chat(prompt):
        return as_tokens(tokenize(tokenizer, prompt), d_vocab)
    return as_tokens(prompt, d_vocab)


def as_tokens(ids: object, d_vocab: int) -> mx.array:
    """Token ids as `(batch, pos)`, checked.

    Args:
        ids: An array or nested lists of ids. Shape `(pos,)` or `(batch, pos)`.
        d_vocab: How many tokens the model knows.
    Raises:
        KindError: They are not integers.
        ShapeError: Another shape, or empty.
        SelectionError: An id that the model does not know: MLX would read past the edge of the embedding.
    """
    tokens = _as_array(ids)
    refuse_traced("tokens", tokens)
    if not mx.issubdtype(tokens.dtype, mx.integer):
        raise KindError(f"`tokens` must be integers. Got {tokens.dtype}. Use `model.tokenize(text)`.")
    if tokens.ndim == 1:
        tokens = tokens[None]
    if tokens.ndim != 2 or tokens.size == 0:
        raise ShapeError(f"`tokens` must have the shape (batch, pos), and not be empty. Got {tokens.shape}.")
    limits = mx.stack([mx.min(tokens), mx.max(tokens)])  # one evaluation for both
    lowest, highest = cast("list[int]", limits.tolist())
    if lowest < 0:
        raise _out_of_range(lowest, d_vocab)
    if highest >= d_vocab:
        raise _out_of_range(highest, d_vocab)
    return tokens.astype(mx.int32)


def _out_of_range(token: int, d_vocab: int) -> SelectionError:
    return SelectionError(f"`tokens` must lie in 0 to {d_vocab - 1}. Got {token}. Is it another model's tokenizer?")


def refuse_traced(name: str, array: mx.array) -> None:
    """Refuse an array without values, which `mx.compile` and `mx.vmap` pass to the functions that they trace.

    Args:
        name: What the array is, for the message.
        array: The array. Its evaluation begins, and is not waited for.
    Raises:
        KindError: It has no values: an edit would be traced once, and be in every later call.
    """
    try:
        mx.async_eval(array)
    except ValueError:
        if not _has_values(array):
            raise KindError(
                f"`{name}` must have values. Got an array inside mx.compile or mx.vmap, where arrays have none: a "
                "traced edit would stay forever. Call it outside them, with a batch as one array (batch, pos)."
            ) from None


def _has_values(array: mx.array) -> bool:
    """Whether an array can be computed, as inside `mx.grad` it can."""
    try:
        mx.eval(array)
    except ValueError:
        return False
    return True


def one_prompt(prompt: object, number: int, tokenizer: Any, d_vocab: int) -> mx.array:
    """The tokens of one prompt of several. Shape `(1, pos)`.

    Args:
        prompt: A text, chat messages or token ids.
        number: The number of the prompt, for a message.
        tokenizer: For texts and messages.
        d_vocab: How many tokens the model knows.
    Raises:
        TokenError, KindError, SelectionError: As `tokenize` and `as_tokens` say.
        ShapeError: It is several prompts, or none.
    """
    tokens = tokens_of(prompt, tokenizer, d_vocab)
    if tokens.shape[0] != 1:
        raise ShapeError(
            f"`tokens` must hold one prompt per entry. Got {tokens.shape[0]} in entry {number}. Pass a batch of one "
            "length as one array, or each prompt by itself."
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
    numbers_by_length: dict[int, list[int]] = {}
    for number, row in enumerate(rows):
        numbers_by_length.setdefault(row.shape[1], []).append(number)
    size = at_most or max(1, len(rows))
    batches = []
    for numbers in numbers_by_length.values():
        for start in range(0, len(numbers), size):
            examples = tuple(numbers[start : start + size])
            tokens = mx.concatenate([rows[number] for number in examples], axis=0)
            batches.append(Batch(tokens, examples, alone=True))
    return tuple(batches)


def shared_token(tokenizer: Any, ids: np.ndarray) -> str:
    """The token that all prompts have at a position; `*` where they differ."""
    unique_ids = np.unique(ids)
    if unique_ids.size > 1:
        return "*"
    return tokenizer.decode(unique_ids.tolist())


def token_texts(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    """The text of each of some tokens, one by one.

    Raises:
        TokenError: There is no tokenizer.
    """
    if tokenizer is None:
        raise TokenError("`tokenizer` must be given to show tokens. Got None. Write HookedModel(model, tokenizer).")
    return [tokenizer.decode([token]) for token in ids]


def _as_array(ids: object) -> mx.array:
    if isinstance(ids, mx.array):
        return ids
    if isinstance(ids, list | tuple) and any(map(is_text_or_chat, ids)):
        raise KindError(
            f"`tokens` must be one prompt, or a batch of token ids. Got a list of {len(ids)} texts or chats. Pass it "
            "to `model.run_each`, `mp.sweep` or `mp.measure`, which take prompts of any length."
        )
    ragged = "Pass them as a list to `model.run_each`, which runs each length separately and pads nothing."
    array = arguments.whole_array("tokens", ids, "integers", "Use `model.tokenize(text)`.", ragged)
    return mx.array(array.astype(np.int64))


Prompts = Any
"""Token ids `(batch, pos)` or `(pos,)`, a text, chat messages, or a list of such, one an example."""


def batches_of(prompts: Prompts, tokenizer: Any, d_vocab: int) -> tuple[Batch, ...]:
    """Prompts in groups of equal length; within a group in their order.

    An array is a batch. A list, also a list of lists of ids, is a list of prompts, each of which runs as if alone.

    Raises:
        TokenError, KindError, ShapeError, SelectionError: An entry is not a prompt; see `HookedModel.tokenize`.
    """
    if is_text_or_chat(prompts) or not _is_list_of_prompts(prompts):
        tokens = tokens_of(prompts, tokenizer, d_vocab)
        return (Batch(tokens, tuple(range(tokens.shape[0]))),)
    rows = [one_prompt(prompt, number, tokenizer, d_vocab) for number, prompt in enumerate(prompts)]
    return by_length(rows)


def _is_list_of_prompts(prompts: Prompts) -> bool:
    """Whether these are prompts one by one, and not an array or the ids of one prompt."""
    if not isinstance(prompts, list | tuple):
        return False
    return any(isinstance(prompt, str | list | tuple | mx.array | np.ndarray) for prompt in prompts)
