"""What a lens is worth: how far its distributions are from the final ones on prompts that were held out."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import mlx.core as mx
import numpy as np

from mlx_patch.lens._corpus import FromStore, Runs
from mlx_patch.lens._fitted_lens import last_stream
from mlx_patch.lens._normaliser import divergence, log_probs
from mlx_patch.model import HookedModel, read_out
from mlx_patch.sites import Site

AT_ONCE = 2**24
"""Numbers of logits that are in memory at once, about."""

_AT_A_TIME = 64
"""Positions that are unembedded at once, at most."""

Translate = Callable[[Site, mx.array], mx.array]
"""What a lens reads in place of a stream."""


def chunks_of(sites: Sequence[Site], n_numbers: int) -> Iterator[tuple[Site, ...]]:
    """The sites in chunks whose logits, so many a site, are in memory at once."""
    size = max(1, AT_ONCE // max(1, n_numbers))
    for begin in range(0, len(sites), size):
        yield tuple(sites[begin : begin + size])


class Scores(NamedTuple):
    """What a lens is worth on held-out prompts. The last four attributes of a `FitRecord`."""

    held_out: tuple[int, ...]
    held_out_positions: int
    before: Mapping[Site, float]
    after: Mapping[Site, float]


def held_out_scores(
    model: HookedModel, corpus: Runs | FromStore, numbers: Sequence[int], sites: Sequence[Site], translated: Translate
) -> Scores:
    """KL(final distribution || lens) at each site, of the logit lens and of another, as means in nats.

    Args:
        model: The model.
        corpus: The activations.
        numbers: Which prompts are held out. One is in memory at a time.
        sites: The sites.
        translated: What the other lens reads in place of a stream.
    """
    totals = np.zeros((2, len(sites)))
    n_positions = 0
    for number in numbers:
        streams = corpus.rows([number])
        n_rows = len(streams[sites[0]])
        n_positions += n_rows
        for begin in range(0, n_rows, _AT_A_TIME):
            rows = {site: stream[begin : begin + _AT_A_TIME] for site, stream in streams.items()}
            for lens, translate in enumerate((_unchanged, translated)):
                totals[lens] += _divergences(model, rows, sites, translate)
    means = (totals / n_positions).tolist()
    before, after = (dict(zip(sites, row, strict=True)) for row in means)
    return Scores(tuple(numbers), n_positions, before, after)


def _unchanged(site: Site, stream: mx.array) -> mx.array:
    """What the logit lens reads."""
    return stream


def _divergences(
    model: HookedModel, rows: Mapping[Site, mx.array], sites: Sequence[Site], translate: Translate
) -> np.ndarray:
    """The sums over some positions. Shape `(site,)`."""
    final = read_out(model.layout, rows[last_stream(model)])
    expected = log_probs(final.astype(mx.float32))
    sums = []
    for chunk in chunks_of(sites, final.size):
        stacked = mx.stack([translate(site, rows[site]) for site in chunk])
        logits = read_out(model.layout, stacked).astype(mx.float32)
        divergences = divergence(expected, log_probs(logits))
        sums.append(np.array(divergences.sum(axis=-1)))
    return np.concatenate(sums)
