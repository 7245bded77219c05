"""Metrics of answers of several tokens, by teacher forcing.

The answer is appended to the prompt, and each of its tokens is measured at the position before it. Such metrics need
runs of their own, which `mp.sweep` and `mp.measure` make.
"""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NoReturn, Self

import mlx.core as mx
import numpy as np
from typing_extensions import override

from mlx_patch import arguments
from mlx_patch.errors import KindError, SelectionError, ShapeError, TokenError, ValueRefusedError, shown

from ._base import Metric
from ._tokens import Tokenizer, encode, toggle_space

Sequences = str | Sequence[int] | Sequence[str] | Sequence[Sequence[int]]
"""One answer, a text or its token ids; or a list of answers, one per example."""

Slot = tuple[tuple[int, ...], ...]
"""The tokens of one answer for all examples, or of one per example."""


@dataclass(frozen=True, repr=False)
class SequenceMetric(Metric):
    """A metric of answers after the prompt, by teacher forcing."""

    @override
    def measure(self, logits: mx.array) -> NoReturn:
        raise KindError(
            f"`metric` must be measured on runs of its own. Got logits for {self.name}, which reads past the prompt. "
            "Use mp.measure(model, tokens, metric, edits), or mp.sweep."
        )

    @property
    @abstractmethod
    def slots(self) -> tuple[Slot, ...]:
        """The answers to append, one slot after the other.

        Raises:
            TokenError: A text is left, which `resolve` turns into tokens.
        """

    @abstractmethod
    def combine(self, log_probs: np.ndarray) -> np.ndarray:
        """One number per example.

        Args:
            log_probs: The log-probability of each slot's answer, in nats. Shape `(slot, ...)`.
        Returns:
            Shape `(...)`.
        """


@dataclass(frozen=True, repr=False)
class SequenceLogProb(SequenceMetric):
    """Log-probability of an answer of any number of tokens, in nats: the sum over its tokens, each after those before.

    It is the probability of this one way to cut the text into tokens, the tokenizer's own.

    Args:
        answer: A text or its token ids; or a list of answers, one per example.
    Raises:
        ValueRefusedError: An empty answer.
    Example:
        >>> SequenceLogProb(" the old shop").name
        "sequence_log_prob(' the old shop')"
    """

    answer: Sequences

    @override
    def __post_init__(self) -> None:
        object.__setattr__(self, "answer", as_sequences("answer", self.answer))
        super().__post_init__()

    @override
    def resolve(self, tokenizer: Tokenizer | None) -> Self:
        return replace(self, answer=answer_tokens("answer", self.answer, tokenizer))

    @property
    @override
    def slots(self) -> tuple[Slot, ...]:
        return (slot("answer", self.answer),)

    @override
    def combine(self, log_probs: np.ndarray) -> np.ndarray:
        return log_probs[0]


@dataclass(frozen=True, repr=False)
class SequenceLogitDiff(SequenceMetric):
    """Log-probability of one answer minus that of another, in nats: positive where the model prefers `right`.

    Of two answers of one token each it is `LogitDiff`, since what log-probabilities take off is the same for both.

    Args:
        right: A text or its token ids; or a list of answers, one per example.
        wrong: The same, for what it is compared with.
    Raises:
        ValueRefusedError: An empty answer, or the same for both.
    Source:
        Wang et al. 2022, https://arxiv.org/abs/2211.00593, section 2, for the difference.
    """

    right: Sequences
    wrong: Sequences

    @override
    def __post_init__(self) -> None:
        for name in ("right", "wrong"):
            object.__setattr__(self, name, as_sequences(name, getattr(self, name)))
        if self.right == self.wrong:
            raise ValueRefusedError(
                f"`wrong` must differ from `right`. Got {shown(self.right)} for both, which makes the metric always 0."
            )
        super().__post_init__()

    @override
    def resolve(self, tokenizer: Tokenizer | None) -> Self:
        right = answer_tokens("right", self.right, tokenizer)
        wrong = answer_tokens("wrong", self.wrong, tokenizer)
        return replace(self, right=right, wrong=wrong)

    @property
    @override
    def slots(self) -> tuple[Slot, ...]:
        return slot("right", self.right), slot("wrong", self.wrong)

    @override
    def combine(self, log_probs: np.ndarray) -> np.ndarray:
        return log_probs[0] - log_probs[1]


@dataclass(frozen=True, repr=False)
class StartsWith(SequenceMetric):
    """Probability, from 0 to 1, that the model's text starts with a given text, tokenized as the tokenizer does.

    Several texts count together. One that begins with another's tokens adds nothing to it and is left out, so that
    nothing is counted twice.

    Args:
        texts: A text, or several: `[" yes", "Yes"]`.
        variants: Count each text with and without a leading space.
    Raises:
        KindError: Not texts.
        ValueRefusedError: An empty text.
    Example:
        >>> StartsWith("<tool_call>").name
        "starts_with('<tool_call>')"
    """

    texts: str | Sequence[str] | Sequence[Sequence[int]]
    variants: bool = False

    @override
    def __post_init__(self) -> None:
        object.__setattr__(self, "variants", arguments.flag("variants", self.variants))
        texts = self.texts
        if not isinstance(texts, str):
            texts = arguments.entries("texts", texts, "a text, or a list of texts")
        texts = _as_tuple(texts)
        if texts and arguments.is_whole(texts[0]):  # the token ids of one text
            texts = (texts,)
        checked = as_sequences("texts", texts)
        if len(checked) == 1 and isinstance(checked[0], str):
            checked = checked[0]
        object.__setattr__(self, "texts", checked)
        super().__post_init__()

    @override
    def resolve(self, tokenizer: Tokenizer | None) -> Self:
        texts = _as_tuple(self.texts)
        if self.variants:
            texts = tuple(dict.fromkeys(variant for text in texts for variant in _variants(text)))
        ids = answer_tokens("texts", texts, tokenizer)
        return replace(self, texts=ids, variants=False)

    @property
    @override
    def slots(self) -> tuple[Slot, ...]:
        sequences = tuple(dict.fromkeys(slot("texts", self.texts)))
        return tuple((sequence,) for sequence in sequences if not _extends_another(sequence, sequences))

    @override
    def combine(self, log_probs: np.ndarray) -> np.ndarray:
        return np.exp(log_probs).sum(axis=0)


def as_sequences(name: str, answers: Any) -> Any:
    """Answers in the form that metrics hold: a text, or a tuple of texts and tuples of token ids.

    Raises:
        KindError: Something is neither.
        SelectionError: A token id is negative.
        ValueRefusedError: An answer is empty, or there is none.
    """
    if isinstance(answers, mx.array | np.ndarray):
        answers = arguments.numeric(name, answers).tolist()
    if isinstance(answers, str):
        return _as_sequence(name, answers)
    if not isinstance(answers, list | tuple) or not answers:
        raise KindError(f"`{name}` must be a text, token ids, or a list of answers. Got {shown(answers)}.")
    if all(map(arguments.is_whole, answers)):
        return (_as_sequence(name, tuple(answers)),)
    return tuple(_as_sequence(name, answer) for answer in answers)


def _as_sequence(name: str, answer: Any) -> str | tuple[int, ...]:
    if isinstance(answer, str):
        if not answer:
            raise ValueRefusedError(f"`{name}` must hold a token. Got ''. Write the answer with its leading space.")
        return answer
    if not isinstance(answer, list | tuple) or not all(map(arguments.is_whole, answer)):
        raise KindError(f"`{name}` must be texts or token ids. Got {shown(answer)}.")
    if not answer:
        raise ValueRefusedError(f"`{name}` must hold a token. Got an empty list.")
    if min(answer) < 0:
        raise SelectionError(f"`{name}` must be token ids from 0. Got {min(answer)}.")
    return tuple(arguments.whole_number(name, token) for token in answer)


def answer_tokens(name: str, answers: Any, tokenizer: Tokenizer | None) -> Any:
    """Answers with token ids in place of texts, without special tokens.

    Raises:
        TokenError: There is no tokenizer, or a text gives no token that it knows.
    """
    sequences = []
    for answer in _as_tuple(answers):
        if isinstance(answer, str):
            sequences.append(tuple(encode(name, answer, tokenizer)))
        else:
            sequences.append(answer)
    return tuple(sequences)


def slot(name: str, answers: Any) -> Slot:
    """Resolved answers as a slot.

    Raises:
        TokenError: A text is left.
    """
    if any(isinstance(answer, str) for answer in _as_tuple(answers)):
        raise TokenError(
            f"`{name}` must be token ids when it is measured. Got {shown(answers)}. Use "
            "`metric.resolve(model.tokenizer)`."
        )
    return tuple(answers)


def for_examples(metric: SequenceMetric, answers: Slot, n: int) -> Slot:
    """The tokens of an answer for each of `n` examples.

    Raises:
        ShapeError: There are several answers, and not one per example.
    """
    if len(answers) not in (1, n):
        raise ShapeError(
            f"`metric` must hold one answer for all examples, or one per example, {n}. "
            f"Got {len(answers)}: {metric.name}."
        )
    if len(answers) == 1:
        return answers * n
    return answers


def _as_tuple(answers: Any) -> tuple[Any, ...]:
    if isinstance(answers, str):
        return (answers,)
    return tuple(answers)


def _variants(text: Any) -> tuple[Any, ...]:
    """A text with and without a leading space; token ids alone."""
    if not isinstance(text, str):
        return (text,)
    return text, toggle_space(text)


def _extends_another(sequence: tuple[int, ...], sequences: Sequence[tuple[int, ...]]) -> bool:
    """Whether a sequence begins with another one, which counts it already."""
    return any(sequence != prefix and sequence[: len(prefix)] == prefix for prefix in sequences)
