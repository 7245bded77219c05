"""Metrics of the whole distribution over the vocabulary: its entropy, its divergence from another."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Self

import mlx.core as mx
import numpy as np
from typing_extensions import override

from mlx_patch import arguments
from mlx_patch.errors import KindError, ShapeError

from ._base import RowMetric
from ._logits import check_logits, read_position
from ._softmax import log_softmax, total


@dataclass(frozen=True, repr=False)
class Entropy(RowMetric):
    """Entropy of the next token's distribution, in nats: from 0 (certain) to log d_vocab (uniform).

    Args:
        pos: The position that is read.
    Source:
        Shannon 1948, https://doi.org/10.1002/j.1538-7305.1948.tb01338.x, section 6.
    Example:
        >>> round(Entropy()(mx.array([[[0.0, 0.0]]])).item(), 4)  # log 2
        0.6931
    """

    @override
    def measure_row(self, row: mx.array) -> mx.array:
        logs = log_softmax(row)
        return -_expectation(mx.exp(logs), logs)


@dataclass(frozen=True, eq=False, repr=False)
class KL(RowMetric):
    """Divergence KL(reference || run), in nats: how badly the run predicts what the reference would say.

    The mean, under the reference's probabilities p, of log p - log q, where q is the run's: 0 where they agree,
    infinite where the run excludes what the reference allows. Rounding in float32 can bring a value
    that should be 0 to about -1e-6.

    Args:
        reference_logits: Logits of the run that is compared with, such as the clean one, on the same vocabulary. Shape
            `(batch, pos, d_vocab)`, read at `pos` too, or `(batch, d_vocab)`. A batch of 1 serves every example. Or a
            list of such, one a prompt, as `HookedModel.run_each` returns it: each is read at its own `pos`.
        pos: The position that is read.
    Source:
        Conmy et al. 2023, https://arxiv.org/abs/2304.14997, where the reference is the whole model.
    Example:
        >>> reference, run = mx.array([[[0.0, 0.0]]]), mx.log(mx.array([[[0.25, 0.75]]]))
        >>> round(KL(reference)(run).item(), 4)  # 0.5 log(0.5 / 0.25) + 0.5 log(0.5 / 0.75)
        0.1438
    """

    reference_logits: mx.array | np.ndarray | Sequence[mx.array | np.ndarray] = field(repr=False)

    @override
    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "reference_logits", _reference_row(self.reference_logits, self.pos))

    @override
    def for_rows(self, rows: Sequence[int], n: int) -> Self:
        reference = self._row
        if len(reference) not in (1, n):
            alternative = ", for one example"
            if n > 1:
                alternative = f" or of all {n} examples"
            raise ShapeError(f"`reference_logits` must have a batch of 1{alternative}. Got {len(reference)}.")
        if len(reference) == 1:
            return self
        return replace(self, reference_logits=reference[mx.array(list(rows))])

    @override
    def measure_row(self, row: mx.array) -> mx.array:
        _check_fit(self._row, row)
        reference = log_softmax(self._row)
        return _expectation(mx.exp(reference), reference - log_softmax(row))

    @override
    def __repr__(self) -> str:
        return f"KL(<logits {tuple(self._row.shape)}>, pos={self.pos})"

    @property
    def _row(self) -> mx.array:
        assert isinstance(self.reference_logits, mx.array)
        return self.reference_logits


def _expectation(p: mx.array, values: mx.array) -> mx.array:
    """The mean of values under p; a value without probability counts as 0, in the gradient too."""
    return total(p * mx.where(p == 0, 0.0, values))


def _reference_row(reference: object, pos: int) -> mx.array:
    """The reference's logits at its position, in a buffer of their own. Shape `(batch or 1, d_vocab)`."""
    if isinstance(reference, list | tuple) and any(isinstance(entry, mx.array | np.ndarray) for entry in reference):
        return _concatenated([_reference_row(entry, pos) for entry in reference])
    if not isinstance(reference, mx.array | np.ndarray):
        raise KindError(f"`reference_logits` must be an array of logits. Got {type(reference).__name__}.")
    array = arguments.array("reference_logits", reference)
    if array.ndim not in (2, 3):
        raise ShapeError(
            f"`reference_logits` must have shape (batch, pos, d_vocab) or (batch, d_vocab). Got {array.shape}."
        )
    if array.ndim == 2:
        array, pos = array[:, None], -1
    check_logits(array, "`reference_logits`")
    row = mx.contiguous(read_position(array, pos))
    mx.eval(row)  # an unevaluated slice would keep the whole reference alive
    return row


def _concatenated(rows: list[mx.array]) -> mx.array:
    """The rows of several prompts, one after the other."""
    for number, row in enumerate(rows):
        if row.shape != (1, rows[0].shape[1]):
            raise ShapeError(
                "`reference_logits` must hold one prompt's logits per entry, all over one vocabulary, as "
                f"`model.run_each` returns them. Got {row.shape[0]} of {row.shape[1]} tokens in entry {number}."
            )
    row = mx.concatenate(rows, axis=0)
    mx.eval(row)
    return row


def _check_fit(reference: mx.array, row: mx.array) -> None:
    """Refuse a reference of another vocabulary, or of another number of rows."""
    if reference.shape[1] != row.shape[1]:
        raise ShapeError(
            f"`reference_logits` must have the run's vocabulary, {row.shape[1]}. Got {reference.shape[1]}. Compare "
            "models with the same tokenizer."
        )
    batch = row.shape[0]
    if reference.shape[0] not in (1, batch):
        alternative = ", for one row"
        if batch > 1:
            alternative = f" or of the run's {batch}"
        raise ShapeError(f"`reference_logits` must have a batch of 1{alternative}. Got {reference.shape[0]}.")
