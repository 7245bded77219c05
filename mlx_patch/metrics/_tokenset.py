"""The probability of a set of tokens, for answers that are not one token."""

from dataclasses import dataclass, replace
from typing import Literal, Self

import mlx.core as mx
from typing_extensions import override

from mlx_patch import arguments
from mlx_patch.errors import ValueRefusedError

from ._base import RowMetric
from ._softmax import log_softmax_at
from ._tokens import (
    Answer,
    Answers,
    Tokenizer,
    as_answers,
    checked_answers,
    encode,
    has_text,
    listed_answers,
    token_ids,
)


@dataclass(frozen=True, repr=False)
class TokenSetProb(RowMetric):
    """Highest, or summed, probability among the tokens that strings consist of, from 0 to 1.

    The set is the union of the strings' token ids; an id that comes twice counts once. It says how likely some
    piece of the strings is next, not how likely the strings are.

    Args:
        strings: One string or several, or token ids, or both; one set for all examples.
        reduce: `"max"` for the likeliest token, `"sum"` for all of them together.
        pos: The position that is read.
    Raises:
        ValueRefusedError: `reduce` is something else, or there are no strings.
    Source:
        The D1 study, examples/d1_externalization.py: `TokenSetProb("<tool_call>")` is its `tool_call_prob`.
    Example:
        >>> logits = mx.log(mx.array([[[0.5, 0.25, 0.125, 0.125]]]))
        >>> round(TokenSetProb([1, 2])(logits).item(), 4)
        0.25
        >>> round(TokenSetProb([1, 2], "sum")(logits).item(), 4)
        0.375
    """

    strings: Answers
    reduce: Literal["max", "sum"] = "max"

    @override
    def __post_init__(self) -> None:
        reduce = arguments.choice("reduce", self.reduce, ("max", "sum"), "'max' or 'sum'", ValueRefusedError)
        object.__setattr__(self, "reduce", reduce)
        object.__setattr__(self, "strings", as_answers("strings", self.strings))
        super().__post_init__()

    @override
    def resolve(self, tokenizer: Tokenizer | None) -> Self:
        if not has_text(self.strings):
            return self
        ids = (token for answer in listed_answers(self.strings) for token in _tokens_of(answer, tokenizer))
        return replace(self, strings=tuple(dict.fromkeys(ids)))

    @override
    def measure_row(self, row: mx.array) -> mx.array:
        batch, d_vocab = row.shape
        ids = list(dict.fromkeys(token_ids("strings", checked_answers(self.strings), d_vocab)))
        ids_of_rows = mx.broadcast_to(mx.array(ids), (batch, len(ids)))
        probabilities = mx.exp(log_softmax_at(row, ids_of_rows))
        if self.reduce == "max":
            return probabilities.max(axis=-1)
        return probabilities.sum(axis=-1)


def _tokens_of(answer: Answer, tokenizer: Tokenizer | None) -> list[int]:
    if isinstance(answer, str):
        return encode("strings", answer, tokenizer)
    return [answer]
