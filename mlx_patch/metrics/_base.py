"""`Metric`, and the checks that every metric's logits and numbers pass."""

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import MISSING, dataclass, field, fields, replace
from typing import ClassVar, Self, final

import mlx.core as mx
import numpy as np
from typing_extensions import override

from mlx_patch import arguments
from mlx_patch.errors import KindError, SelectionError, ShapeError

from ._logits import as_position, check_logits, read_position
from ._tokens import Tokenizer

_WORD_BOUNDARY = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
"""Where a word begins in the name of a class: `LogProb`, `KLDivergence`."""


@dataclass(frozen=True, repr=False)
class Metric(ABC):
    """One number per example, read from a run's logits.

    To write one as a class, make a frozen dataclass of it and give it `measure`; on `RowMetric`, if it reads one
    position, on `MultiPositionMetric`, if several. A plain function of logits does for most: see `metric` and
    `as_metric`.

    Attributes:
        name: The label in tables. By default the class and its arguments: `prob(' Mary')`.
        pos: The position that it reads, an index into the logits' second axis. None where it reads them all.
        differentiable: Whether its gradient means anything; a rank's is zero everywhere.

    Example:
        >>> @dataclass(frozen=True)
        ... class Highest(Metric):
        ...     def measure(self, logits):
        ...         return logits[:, -1].max(axis=-1)
        >>> Highest()(mx.array([[[1.0, 4.0]]])).tolist(), Highest().name
        ([4.0], 'highest')
    """

    name: str = field(default="", kw_only=True, repr=False)
    pos: int | None = field(default=None, kw_only=True)
    differentiable: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.pos is not None:
            object.__setattr__(self, "pos", as_position(self.pos))
        object.__setattr__(self, "name", arguments.string("name", self.name) or _label(self))

    @override
    def __repr__(self) -> str:
        return f"{type(self).__name__}({_arguments(self)})"

    @abstractmethod
    def measure(self, logits: mx.array) -> object:
        """One number per example, from logits that have been checked.

        Args:
            logits: Unnormalised log-probabilities. Shape `(batch, pos, d_vocab)`.
        Returns:
            An array of a floating dtype. Shape `(batch,)`.
        """

    @final
    def __call__(self, logits: mx.array) -> mx.array:
        """One number per example, in float32.

        Args:
            logits: Unnormalised log-probabilities, of any floating dtype. Shape `(batch, pos, d_vocab)`.
        Returns:
            The numbers, unevaluated. Shape `(batch,)`.
        Raises:
            KindError: The logits or the numbers are not a floating array.
            ShapeError: The logits do not have three axes, or the numbers are not one per example.
            SelectionError: A position or a token id is not there.
            TokenError: The metric still holds strings.
        """
        check_logits(logits, f"`logits` of {self.name}")
        numbers = self.measure(logits[...])  # a new object, not a copy: assigning into it leaves ours alone
        return _one_per_example(numbers, logits.shape[0], self.name)

    def resolve(self, tokenizer: Tokenizer | None) -> "Metric":
        """The same metric with token ids for its strings; itself if it holds none.

        Raises:
            TokenError: A string does not give the tokens that the metric needs.
        """
        del tokenizer
        return self

    def reads(self, length: int) -> tuple[int, ...] | None:
        """The absolute positions whose logits it reads in a prompt of `length`; None where it reads them all."""
        return None if self.pos is None else (self.pos % length,)

    def reads_tokens(self) -> tuple[int, ...] | None:
        """The token ids whose logits decide it, each row of the batch by itself; None where those of all do."""
        return None

    def on_tokens(self, ids: Sequence[int]) -> Self:
        """The same metric for logits of some tokens alone, in this order; itself if it reads those of all."""
        del ids
        return self

    def for_rows(self, rows: Sequence[int], n: int) -> Self:
        """The same metric for some examples out of `n`; itself if it holds nothing per example.

        Args:
            rows: The numbers of the examples, in order.
            n: The number of all examples.
        """
        del rows, n
        return self

    def at_last(self) -> Self:
        """The same metric for logits of position `pos` alone; itself if it reads all positions."""
        if self.pos is None:
            return self
        return replace(self, pos=-1)


@dataclass(frozen=True, repr=False)
class RowMetric(Metric):
    """A metric of the logits at one position, which it reads in float32 whatever their dtype.

    Attributes:
        pos: The position that it reads; the last one by default.

    Example:
        >>> @dataclass(frozen=True)
        ... class Spread(RowMetric):
        ...     def measure_row(self, row):
        ...         return row.max(axis=-1) - row.min(axis=-1)
        >>> Spread()(mx.array([[[1.0, 4.0]]])).tolist(), Spread(pos=0).name
        ([3.0], 'spread(pos=0)')
    """

    pos: int = field(default=-1, kw_only=True)

    @override
    def __post_init__(self) -> None:
        object.__setattr__(self, "pos", as_position(self.pos))
        super().__post_init__()

    @abstractmethod
    def measure_row(self, row: mx.array) -> mx.array:
        """One number per example, from the logits at `pos`.

        Args:
            row: In float32. Shape `(batch, d_vocab)`.
        Returns:
            An array of a floating dtype. Shape `(batch,)`.
        """

    @override
    def measure(self, logits: mx.array) -> mx.array:
        return self.measure_row(read_position(logits, self.pos))


@dataclass(frozen=True, repr=False)
class MultiPositionMetric(Metric):
    """A metric of the logits at several positions, which it reads in float32. A sweep unembeds no other positions.

    Give `positions`, which says which ones, and `measure_rows`.

    Example:
        >>> @dataclass(frozen=True)
        ... class Drift(MultiPositionMetric):
        ...     token: int
        ...     def positions(self, length):
        ...         return (0, -1)
        ...     def measure_rows(self, rows):
        ...         return rows[:, 1, self.token] - rows[:, 0, self.token]
        >>> Drift(1)(mx.array([[[1.0, 4.0], [0.0, 0.0], [2.0, 7.0]]])).tolist()
        [3.0]
    """

    @override
    def __post_init__(self) -> None:
        if self.pos is not None:
            raise KindError(f"`pos` must be left out: the metric reads `positions`. Got {self.pos}.")
        super().__post_init__()

    @abstractmethod
    def positions(self, length: int) -> Sequence[int]:
        """The positions that it reads, each once, in the order in which it wants them; from the end where negative.

        Args:
            length: How many positions the prompt has.
        """

    @abstractmethod
    def measure_rows(self, rows: mx.array) -> mx.array:
        """One number per example, from the logits at `positions`.

        Args:
            rows: In float32. Shape `(batch, pos, d_vocab)`.
        Returns:
            An array of a floating dtype. Shape `(batch,)`.
        """

    def absolute(self, length: int) -> tuple[int, ...]:
        """The `positions`, counted from 0.

        Raises:
            KindError: They are not ints.
            SelectionError: There are none, one is there twice, or one is not in the prompt.
        """
        positions = tuple(map(as_position, self.positions(length)))
        for pos in positions:
            if not -length <= pos < length:
                raise SelectionError(
                    f"`positions` of {self.name} must lie in {-length} to {length - 1}, the {length} positions of the "
                    f"prompt. Got {pos}."
                )
        from_start = tuple(pos % length for pos in positions)
        if not from_start or len(set(from_start)) < len(from_start):
            raise SelectionError(
                f"`positions` of {self.name} must name at least one position, and each once. Got {positions}."
            )
        return from_start

    @override
    def reads(self, length: int) -> tuple[int, ...]:
        return self.absolute(length)

    @final
    def of_rows(self, rows: mx.array) -> mx.array:
        """The metric of logits at its positions alone. Shape of `rows`: `(batch, pos, d_vocab)`."""
        check_logits(rows, f"`rows` of {self.name}")
        numbers = self.measure_rows(rows.astype(mx.float32))
        return _one_per_example(numbers, rows.shape[0], self.name)

    @override
    def measure(self, logits: mx.array) -> mx.array:
        positions = mx.array(self.absolute(logits.shape[1]))
        return self.of_rows(logits[:, positions])


def _one_per_example(numbers: object, batch: int, name: str) -> mx.array:
    array = _as_array(numbers, name)
    if array.shape != (batch,):
        raise ShapeError(
            f"{name} must return one number per example, shape ({batch},). Got {array.shape}. "
            "Keep the batch axis and reduce the others: `logits[:, -1, token]`."
        )
    if not mx.issubdtype(array.dtype, mx.floating):
        raise KindError(f"{name} must return floating numbers. Got {array.dtype}. Use `.astype(mx.float32)`.")
    return array.astype(mx.float32)


def _as_array(numbers: object, name: str) -> mx.array:
    if isinstance(numbers, mx.array):
        return numbers
    if isinstance(numbers, np.ndarray) and numbers.dtype.kind in "fiub":
        return mx.array(numbers)
    if isinstance(numbers, np.number | float | int):
        return mx.array(float(numbers))
    if isinstance(numbers, list | tuple) and all(isinstance(n, float | int) for n in numbers):
        return mx.array(numbers)
    raise KindError(
        f"{name} must return an array of numbers. Got {type(numbers).__name__}. Return an mx.array of shape (batch,)."
    )


def _label(metric: Metric) -> str:
    """The name of a metric's class in snake case, with its arguments."""
    words = _WORD_BOUNDARY.sub("_", type(metric).__name__).lower()
    arguments = _arguments(metric)
    if not arguments:
        return words
    return f"{words}({arguments})"


def _arguments(metric: Metric) -> str:
    """The arguments of a call that makes the metric, without defaults."""
    required, changed = [], []
    for field_ in fields(metric):
        if not field_.repr:
            continue
        value = getattr(metric, field_.name)
        if field_.default is MISSING:
            required.append(_value_text(value))
        elif not _is_default(field_.default, value):
            changed.append(f"{field_.name}={_value_text(value)}")
    return ", ".join(required + changed)


def _is_default(default: object, value: object) -> bool:
    """Whether a value is the default; arrays, which have no truth value, are compared by identity."""
    return default is value or (isinstance(value, str | int) and value == default)


def _value_text(value: object) -> str:
    if isinstance(value, mx.array | np.ndarray):
        return f"<array {tuple(value.shape)}>"
    if not isinstance(value, tuple):
        return repr(value)
    if len(value) > 4:
        return f"<{len(value)} of them>"
    return repr(list(value))
