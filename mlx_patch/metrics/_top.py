"""The likeliest next tokens, for people to read. Not a metric: it is not a number."""

from dataclasses import dataclass, field
from typing import NamedTuple

import mlx.core as mx
import numpy as np

from mlx_patch import arguments
from mlx_patch.errors import SelectionError, ValueRefusedError

from ._logits import as_position, check_logits, read_position
from ._softmax import softmax
from ._tokens import Tokenizer


class TopToken(NamedTuple):
    """One of the likeliest next tokens.

    Attributes:
        id: The token id.
        token: Its text; None where no tokenizer was given.
        probability: From 0 to 1.
    """

    id: int
    token: str | None
    probability: float


@dataclass(frozen=True)
class TopK:
    """The k likeliest next tokens of each example, the likeliest first; among equals, the lower id first.

    Args:
        k: How many.
        pos: The position that is read.
    Raises:
        ValueRefusedError: `k` is less than 1.
    Example:
        >>> [[top]] = TopK(1)(mx.log(mx.array([[[0.25, 0.75]]])))  # one example, one token
        >>> top.id, top.token, round(top.probability, 4)
        (1, None, 0.75)
    """

    k: int = 10
    pos: int = field(default=-1, kw_only=True)

    def __post_init__(self) -> None:
        object.__setattr__(self, "k", arguments.whole_number("k", self.k, 1))
        object.__setattr__(self, "pos", as_position(self.pos))

    def __call__(self, logits: mx.array, tokenizer: Tokenizer | None = None) -> list[list[TopToken]]:
        """The tokens of each example. Evaluates the logits.

        Args:
            logits: Unnormalised log-probabilities, of any floating dtype. Shape `(batch, pos, d_vocab)`.
            tokenizer: Gives each token's text.
        Returns:
            A list of `k` tokens for each example.
        Raises:
            SelectionError: `k` is more than the vocabulary holds, or the position is not there.
            ValueRefusedError: A logit is NaN.
        """
        check_logits(logits, "`logits` of TopK")
        arguments.tokenizer("tokenizer", tokenizer)
        if self.k > logits.shape[-1]:
            raise SelectionError(f"`k` must be at most d_vocab, {logits.shape[-1]}. Got {self.k}.")
        row = read_position(logits, self.pos)
        examples = zip(np.array(row), np.array(softmax(row)), strict=True)
        return [_top(scores, probabilities, self.k, tokenizer) for scores, probabilities in examples]


def _top(logits: np.ndarray, probabilities: np.ndarray, k: int, tokenizer: Tokenizer | None) -> list[TopToken]:
    """The top tokens of one example, whose arrays have the shape `(d_vocab,)`."""
    if np.isnan(logits).any() or np.isnan(probabilities).any():
        raise ValueRefusedError(
            "`logits` must give probabilities. Got NaN. Find where it begins with `model.run_with_cache`."
        )
    order = np.argsort(-logits, kind="stable")[:k].tolist()
    tokens = []
    for token_id in order:
        text = None
        if tokenizer:
            text = tokenizer.decode([token_id])
        tokens.append(TopToken(token_id, text, float(probabilities[token_id])))
    return tokens
