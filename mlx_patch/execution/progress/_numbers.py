"""`Numbers`: the numbers of a sweep so far, as bytes for other ranks, and merged again."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mlx_patch.execution._experiment import Experiment


@dataclass
class Numbers:
    """The numbers of a sweep so far.

    Attributes:
        values: NaN where nothing has been run, and where NaN was computed. Shape `(cell, metric, example)`, float32.
        done: Which cells have been run, for each group of prompts. Shape `(group, cell)`.
        baseline: The metrics of the unpatched runs. Shape `(metric, example)`, float32.
        token_layers: What went through the blocks for these numbers, counted as it went. An unpatched run that a
            resumed sweep needs again is not counted again.
        skipped: How many cells, over all groups, changed nothing and were not run.
    """

    values: np.ndarray
    done: np.ndarray
    baseline: np.ndarray
    token_layers: int = 0
    skipped: int = 0

    def mask(self, examples: Sequence[Sequence[int]]) -> np.ndarray:
        """Which values have been run. Shape `(cell, metric, example)`.

        Args:
            examples: The examples of each group of prompts.
        """
        mask = np.zeros(self.values.shape, bool)
        for is_done, group_examples in zip(self.done, examples, strict=True):
            mask[..., list(group_examples)] = is_done[:, None, None]
        return mask


def no_numbers(experiment: Experiment) -> Numbers:
    """The numbers of a sweep before it begins: NaN."""
    n_cells = len(experiment.cells[0])
    n_metrics = len(experiment.metrics)
    n_examples = experiment.n_examples
    values = np.full((n_cells, n_metrics, n_examples), np.nan, np.float32)
    is_done = np.zeros((len(experiment.batches), n_cells), bool)
    baseline = np.full((n_metrics, n_examples), np.nan, np.float32)
    return Numbers(values, is_done, baseline)


def packed(numbers: Numbers) -> bytes:
    """The numbers of a rank, as bytes."""
    counts = np.array([numbers.token_layers, numbers.skipped], np.int64)
    arrays = (numbers.done, numbers.values, numbers.baseline, counts)
    return b"".join(array.tobytes() for array in arrays)


def merge(numbers: Numbers, messages: Sequence[bytes], examples: Sequence[Sequence[int]]) -> None:
    """Merge the numbers of all ranks: bit for bit the same on every rank.

    Args:
        numbers: The numbers of this rank; afterwards, those of all.
        messages: What `packed` returned on each rank, by rank.
        examples: The examples of each group of prompts.
    """
    values = np.full_like(numbers.values, np.nan)
    baseline = np.full_like(numbers.baseline, np.nan)
    is_done = np.zeros_like(numbers.done)
    numbers.token_layers, numbers.skipped = 0, 0
    for message in messages:
        rank_numbers = _unpacked(message, numbers)
        for group, group_examples in enumerate(examples):
            new_cells = np.flatnonzero(rank_numbers.done[group] & ~is_done[group])
            block = np.ix_(new_cells, np.arange(values.shape[1]), np.array(group_examples))
            values[block] = rank_numbers.values[block]
        is_done |= rank_numbers.done
        baseline = np.where(np.isnan(baseline), rank_numbers.baseline, baseline)
        numbers.token_layers += rank_numbers.token_layers
        numbers.skipped += rank_numbers.skipped
    numbers.values[:] = values
    numbers.done[:] = is_done
    numbers.baseline[:] = baseline


def take_fewest(numbers: Numbers, messages: Sequence[bytes]) -> None:
    """Go back to the numbers of the rank that has the fewest cells, where all ranks run every pass, in one order.

    A rank that was killed may have written one pass less than another.

    Args:
        numbers: The numbers of this rank; afterwards, the same on every rank.
        messages: What `packed` returned on each rank, by rank.
    """
    by_rank = [_unpacked(message, numbers) for message in messages]
    fewest = min(by_rank, key=lambda rank_numbers: int(rank_numbers.done.sum()))
    numbers.values[:] = fewest.values
    numbers.done[:] = fewest.done
    numbers.baseline[:] = fewest.baseline
    numbers.token_layers, numbers.skipped = fewest.token_layers, fewest.skipped


def _unpacked(message: bytes, like: Numbers) -> Numbers:
    """The numbers in a message, in the shapes of `like`."""
    arrays = []
    begin = 0
    for template in (like.done, like.values, like.baseline):
        array = np.frombuffer(message, template.dtype, template.size, begin)
        arrays.append(array.reshape(template.shape))
        begin += template.nbytes
    is_done, values, baseline = arrays
    token_layers, skipped = np.frombuffer(message, np.int64, 2, begin)
    return Numbers(values, is_done, baseline, int(token_layers), int(skipped))
