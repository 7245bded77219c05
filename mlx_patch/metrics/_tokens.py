"""Answers, strings or token ids, and their conversion to token ids."""

from collections.abc import Iterable, Sequence
from typing import Protocol, TypeAlias, cast

import mlx.core as mx
import numpy as np

from mlx_patch import arguments
from mlx_patch.chats import encoded
from mlx_patch.errors import KindError, SelectionError, ShapeError, TokenError, ValueRefusedError, brief, listed, shown


class Tokenizer(Protocol):
    """The methods that a metric needs of a tokenizer. Those of mlx_lm and of transformers have them."""

    def encode(self, text: str, /, *, add_special_tokens: bool) -> Iterable[int]:
        """The text's token ids; none is added when `add_special_tokens` is false."""
        ...

    def decode(self, ids: list[int], /) -> str:
        """The text that the token ids stand for."""
        ...


Answer: TypeAlias = str | int
"""A string, or a token id."""

Answers: TypeAlias = Answer | Sequence[Answer] | mx.array | np.ndarray
"""One answer, or several; an array holds token ids."""


def as_answers(argument: str, answers: object) -> Answer | tuple[Answer, ...]:
    """Answers in the form that metrics hold: a string, an id, or a tuple of them.

    Raises:
        KindError: Something is neither a string nor a token id.
        SelectionError: A token id is negative.
        ValueRefusedError: There is no answer at all.
    """
    if isinstance(answers, mx.array | np.ndarray):
        answers = arguments.numeric(argument, answers).tolist()
    if not isinstance(answers, list | tuple):
        return _as_answer(argument, answers)
    checked = tuple(_as_answer(argument, answer) for answer in cast("Sequence[object]", answers))
    if not checked:
        raise ValueRefusedError(f"`{argument}` must hold an answer. Got an empty {type(answers).__name__}.")
    return checked


def _as_answer(argument: str, answer: object) -> Answer:
    if isinstance(answer, str):
        return str(answer)
    if not arguments.is_whole(answer):
        raise KindError(
            f"`{argument}` must be strings or token ids, one or a flat list. Got {type(answer).__name__}: "
            f"{shown(answer)}."
        )
    token = arguments.whole_number(argument, answer)
    if token < 0:
        raise SelectionError(f"`{argument}` must be token ids from 0. Got {token}.")
    return token


def token_ids(argument: str, answers: Answer | tuple[Answer, ...], d_vocab: int) -> list[int]:
    """The token ids of resolved answers, checked to lie within the vocabulary.

    Raises:
        TokenError: A string is left.
        SelectionError: A token id is past the vocabulary's end; MLX would read garbage there.
    """
    ids: list[int] = []
    for answer in listed_answers(answers):
        if isinstance(answer, str):
            raise TokenError(
                f"`{argument}` must be token ids when logits are read. Got {shown(answer)}. "
                "Use `metric.resolve(model.tokenizer)`, or give token ids."
            )
        if answer >= d_vocab:
            raise SelectionError(f"`{argument}` must lie within the {d_vocab} tokens of the logits. Got {answer}.")
        ids.append(answer)
    return ids


def ids_per_row(argument: str, answers: Answer | tuple[Answer, ...], shape: tuple[int, int]) -> mx.array:
    """Token ids to gather with, one a row, or one for all rows. Shape `(batch, 1)`.

    Raises:
        ShapeError: There are several answers, and not one per example.
    """
    batch, d_vocab = shape
    ids = token_ids(argument, answers, d_vocab)
    if len(ids) not in (1, batch):
        raise ShapeError(
            f"`{argument}` must hold one answer for all or one per example, {batch}. Got {len(ids)} answers. "
            "To measure a set of tokens, use TokenSetProb."
        )
    return mx.broadcast_to(mx.array(ids)[:, None], (batch, 1))


def for_rows(argument: str, answers: Answers, rows: Sequence[int], n: int) -> Answers:
    """The answers of some examples out of `n`; one answer for all serves any.

    Raises:
        ShapeError: There are several answers, and not one per example.
    """
    entries = listed_answers(answers)
    if len(entries) not in (1, n):
        raise ShapeError(
            f"`{argument}` must hold one answer for all or one per example, {n}. Got {len(entries)} answers. "
            "To measure a set of tokens, use TokenSetProb."
        )
    if len(entries) == 1:
        return answers
    return tuple(entries[row] for row in rows)


def checked_answers(answers: Answers) -> Answer | tuple[Answer, ...]:
    """Narrows the type of answers that came through `as_answers`."""
    assert isinstance(answers, str | int | tuple)
    return answers


def listed_answers(answers: Answers) -> tuple[Answer, ...]:
    """Answers that came through `as_answers`, as a tuple."""
    answers = checked_answers(answers)
    if isinstance(answers, tuple):
        return answers
    return (answers,)


def has_text(answers: Answers) -> bool:
    """Whether a string is among them, which a tokenizer has to resolve."""
    return any(isinstance(answer, str) for answer in listed_answers(answers))


def single_tokens(
    argument: str, answers: Answer | tuple[Answer, ...], tokenizer: Tokenizer | None
) -> Answer | tuple[Answer, ...]:
    """Answers with token ids in place of strings: one answer, or a tuple.

    Raises:
        TokenError: A string is not one token; the message has its pieces, and what to do.
    """
    if isinstance(answers, tuple):
        return tuple(_single_token(argument, answer, tokenizer) for answer in answers)
    return _single_token(argument, answers, tokenizer)


def _single_token(argument: str, answer: Answer, tokenizer: Tokenizer | None) -> int:
    if not isinstance(answer, str):
        return answer
    ids = encode(argument, answer, tokenizer)
    if len(ids) == 1:
        return ids[0]
    assert tokenizer is not None
    raise TokenError(
        f"`{argument}` must be one token. Got {brief(answer)}, which gives {len(ids)}: {_pieces(ids, tokenizer)}. "
        f"{_other_spacing(answer, tokenizer)}{_whole_answer(argument, answer)} For the first token alone, give its id, "
        f"{ids[0]}."
    )


def _whole_answer(argument: str, answer: str) -> str:
    """A sentence on the metrics of all of an answer's tokens."""
    text = brief(answer)
    if argument in ("right", "wrong"):
        return (
            "Compare whole answers with `SequenceLogitDiff(right, wrong)`, or take the probability that the generated "
            f"text starts with one: `StartsWith({text})`."
        )
    return (
        f"Measure the whole of it with `SequenceLogProb({text})`, or the probability that the generated text starts "
        f"with it: `StartsWith({text})`."
    )


def encode(argument: str, text: str, tokenizer: Tokenizer | None) -> list[int]:
    """The token ids of a text, without special tokens; at least one, none of them 'unknown'.

    Raises:
        TokenError: There is no tokenizer, the text gives no token, or it has a part that the tokenizer lacks.
    """
    if tokenizer is None:
        raise TokenError(
            f"`tokenizer` must be given if `{argument}` is text. Got None with {text!r}. Give token ids, or wrap the "
            "model with its tokenizer."
        )
    ids = encoded(tokenizer, text, add_special_tokens=False, what="An answer")
    if not ids:
        raise TokenError(f"`{argument}` must give a token. Got {shown(text)}, which gives none.")
    if _has_unknown(text, ids, tokenizer):
        raise TokenError(
            f"`{argument}` must be text that the tokenizer knows. Got {brief(text)}, which gives its unknown token. "
            "Give token ids."
        )
    return ids


def _has_unknown(text: str, ids: list[int], tokenizer: Tokenizer) -> bool:
    """Whether a part of the text was lost to the unknown token, where the tokenizer says that it has one."""
    unknown = getattr(tokenizer, "unk_token_id", None)
    return unknown in ids and tokenizer.decode([unknown]) not in text


def _pieces(ids: list[int], tokenizer: Tokenizer) -> str:
    pieces = listed(f"{tokenizer.decode([token])!r} ({token})" for token in ids[:8])
    if len(ids) <= 8:
        return pieces
    return f"{pieces} and {len(ids) - 8} more"


def _other_spacing(text: str, tokenizer: Tokenizer) -> str:
    """A sentence on the text with its leading space added or removed, if that is one token."""
    variant = toggle_space(text)
    ids = encoded(tokenizer, variant, add_special_tokens=False, what="An answer")
    if len(ids) != 1 or _has_unknown(variant, ids, tokenizer):
        return ""
    return f"{variant!r} is one token ({ids[0]}). "


def toggle_space(text: str) -> str:
    """The text without its leading space, or with one if it has none.

    Example:
        >>> toggle_space(" yes"), toggle_space("yes")
        ('yes', ' yes')
    """
    if text.startswith(" "):
        return text[1:]
    return f" {text}"
