"""`Numbers`: what has been measured so far; as bytes for other ranks, and put together again."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mlx_patch.execution._experiment import Experiment


@dataclass
class Numbers:
    """What a sweep has found so far.

    Attributes:
        values: NaN where nothing has been run, and where NaN was computed. Shape `(cell, metric, example)`, float32.
        done: Which cells have been run, for each group of prompts. Shape `(group, cell)`.
        baseline: The unedited runs. Shape `(metric, example)`, float32.
        token_layers: What went through the blocks for these numbers, counted as it went. An unedited run that a
            resumed sweep needs again is not counted again.
    """

    values: np.ndarray
    done: np.ndarray
    baseline: np.ndarray
    token_layers: int = 0

    def mask(self, examples: Sequence[Sequence[int]]) -> np.ndarray:
        """Which values have been run. Shape `(cell, metric, example)`.

        Args:
            examples: The examples of each group of prompts.
        """
        mask = np.zeros(self.values.shape, bool)
        for done, rows in zip(self.done, examples, strict=True):
            mask[..., list(rows)] = done[:, None, None]
        return mask


def no_numbers(experiment: Experiment) -> Numbers:
    """What a sweep has found before it begins."""
    cells, metrics, examples = len(experiment.cells[0]), len(experiment.metrics), experiment.n_examples
    return Numbers(
        np.full((cells, metrics, examples), np.nan, np.float32),
        np.zeros((len(experiment.batches), cells), bool),
        np.full((metrics, examples), np.nan, np.float32),
    )


def packed(numbers: Numbers) -> bytes:
    """What a rank found, as bytes."""
    layers = np.array([numbers.token_layers], np.int64)
    return b"".join(part.tobytes() for part in (numbers.done, numbers.values, numbers.baseline, layers))


def merge(numbers: Numbers, said: Sequence[bytes], examples: Sequence[Sequence[int]]) -> None:
    """Put together what all ranks found: bit for bit the same on every rank.

    Args:
        numbers: What this rank found; afterwards, what all did.
        said: What `packed` gave, by rank.
        examples: The examples of each group of prompts.
    """
    values, baseline = (np.full_like(part, np.nan) for part in (numbers.values, numbers.baseline))
    done = np.zeros_like(numbers.done)
    numbers.token_layers = 0
    for each in said:
        theirs = _unpacked(each, numbers)
        for group, own in enumerate(examples):
            new = np.flatnonzero(theirs.done[group] & ~done[group])
            cells = np.ix_(new, np.arange(values.shape[1]), np.array(own))
            values[cells] = theirs.values[cells]
        done |= theirs.done
        baseline = np.where(np.isnan(baseline), theirs.baseline, baseline)
        numbers.token_layers += theirs.token_layers
    numbers.values[:], numbers.done[:], numbers.baseline[:] = values, done, baseline


def _unpacked(said: bytes, like: Numbers) -> Numbers:
    found, begin = [], 0
    for part in (like.done, like.values, like.baseline):
        found.append(np.frombuffer(said, part.dtype, part.size, begin).reshape(part.shape))
        begin += part.nbytes
    done, values, baseline = found
    return Numbers(values, done, baseline, int(np.frombuffer(said, np.int64, 1, begin)[0]))
