"""Metrics of answers of several tokens, by teacher forcing.

The answer is appended to the prompt, and each of its tokens is measured where the model is about to write it. They
need runs of their own, which `mp.sweep` and `mp.measure` make.
"""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NoReturn, Self

import mlx.core as mx
import numpy as np
from typing_extensions import override

from mlx_patch.errors import KindError, SelectionError, ShapeError, TokenError, ValueRefusedError

from ._base import Metric
from ._tokens import Tokenizer, encode

Sequences = str | Sequence[int] | Sequence[str] | Sequence[Sequence[int]]
"""One answer, a text or its token ids; or a list of answers, one per example."""

Slot = tuple[tuple[int, ...], ...]
"""The tokens of one answer for all examples, or of one per example."""


@dataclass(frozen=True, repr=False)
class SequenceMetric(Metric):
    """A metric of what the model would write, by teacher forcing."""

    @override
    def measure(self, logits: mx.array) -> NoReturn:
        raise KindError(
            f"`metric` must be measured on runs of its own. Got logits for {self.name}, which reads what comes after "
            "the prompt. Use mp.measure(model, tokens, metric, edits), or mp.sweep."
        )

    @property
    @abstractmethod
    def slots(self) -> tuple[Slot, ...]:
        """The answers that are appended, each in its turn.

        Raises:
            TokenError: There are texts left, which `resolve` makes tokens of.
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
            raise ValueRefusedError(f"`wrong` must differ from `right`. Got {self.right!r} for both, always 0.")
        super().__post_init__()

    @override
    def resolve(self, tokenizer: Tokenizer | None) -> Self:
        right, wrong = (answer_tokens(name, getattr(self, name), tokenizer) for name in ("right", "wrong"))
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
    """Probability, from 0 to 1, that what the model writes starts with a text, cut into tokens as the tokenizer does.

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
        given = (self.texts,) if isinstance(self.texts, str) else tuple(self.texts)
        if given and isinstance(given[0], int):
            given = (given,)
        checked = as_sequences("texts", given)
        object.__setattr__(self, "texts", checked[0] if len(given) == 1 and isinstance(given[0], str) else checked)
        super().__post_init__()

    @override
    def resolve(self, tokenizer: Tokenizer | None) -> Self:
        texts = (self.texts,) if isinstance(self.texts, str) else self.texts
        if self.variants:
            both = ((text, _other(text)) if isinstance(text, str) else (text,) for text in texts)
            texts = tuple(dict.fromkeys(variant for pair in both for variant in pair))
        ids = answer_tokens("texts", texts, tokenizer)
        return replace(self, texts=ids, variants=False)

    @property
    @override
    def slots(self) -> tuple[Slot, ...]:
        several = tuple(dict.fromkeys(slot("texts", self.texts)))
        longer = {one for one in several for other in several if one != other and one[: len(other)] == other}
        return tuple((one,) for one in several if one not in longer)

    @override
    def combine(self, log_probs: np.ndarray) -> np.ndarray:
        return np.exp(log_probs).sum(axis=0)


def as_sequences(name: str, given: Any) -> Any:
    """Answers in the one form that metrics hold: texts or tuples of token ids, in a tuple where there are several.

    Raises:
        KindError: Something is neither.
        SelectionError: A token id is negative.
        ValueRefusedError: An answer is empty, or there is none.
    """
    if isinstance(given, mx.array | np.ndarray):
        given = given.tolist()
    if isinstance(given, str):
        return _one(name, given)
    if not isinstance(given, list | tuple) or not given:
        raise KindError(f"`{name}` must be a text, token ids, or a list of answers. Got {given!r}.")
    if all(isinstance(one, int) and not isinstance(one, bool) for one in given):
        return (_one(name, tuple(given)),)
    return tuple(_one(name, one) for one in given)


def _one(name: str, given: Any) -> str | tuple[int, ...]:
    if isinstance(given, str):
        if not given:
            raise ValueRefusedError(f"`{name}` must hold a token. Got ''. Write the answer with its leading space.")
        return given
    if not isinstance(given, list | tuple) or not all(isinstance(t, int) and not isinstance(t, bool) for t in given):
        raise KindError(f"`{name}` must be texts or token ids. Got {given!r}.")
    if not given:
        raise ValueRefusedError(f"`{name}` must hold a token. Got an empty list.")
    if min(given) < 0:
        raise SelectionError(f"`{name}` must be token ids from 0. Got {min(given)}.")
    return tuple(given)


def answer_tokens(name: str, given: Any, tokenizer: Tokenizer | None) -> Any:
    """Answers with each text as its token ids, without special tokens.

    Raises:
        TokenError: There is no tokenizer, or a text gives no token that it knows.
    """
    if isinstance(given, str):
        return (tuple(encode(name, given, tokenizer)),)
    return tuple(tuple(encode(name, one, tokenizer)) if isinstance(one, str) else one for one in given)


def slot(name: str, given: Any) -> Slot:
    """Answers as token ids, once resolved.

    Raises:
        TokenError: A text is left.
    """
    if isinstance(given, str) or any(isinstance(one, str) for one in given):
        raise TokenError(
            f"`{name}` must be token ids when it is measured. Got {given!r}. Use `metric.resolve(model.tokenizer)`."
        )
    return tuple(given)


def for_examples(metric: SequenceMetric, given: Slot, n: int) -> Slot:
    """The tokens of an answer for each of `n` examples.

    Raises:
        ShapeError: There are several answers, and not one per example.
    """
    if len(given) not in (1, n):
        raise ShapeError(
            f"`metric` must hold one answer for all examples, or one per example, {n}. Got {len(given)}: {metric.name}."
        )
    return given * n if len(given) == 1 else given


def _other(text: str) -> str:
    """A text with its leading space taken away, or with one."""
    return text[1:] if text.startswith(" ") else f" {text}"
