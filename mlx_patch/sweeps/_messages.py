"""What ranks tell each other: which sweep they are to run, and what they found."""

import json
import re
from collections.abc import Mapping, Sequence
from hashlib import blake2b

import numpy as np

from mlx_patch.sweeps._plan import Plan
from mlx_patch.sweeps._run import Numbers
from mlx_patch.sweeps._setup import Setup

_ADDRESS = re.compile(r" at 0x[0-9a-f]+")
"""Where an object lies in memory, which is no part of what it is."""


def described(setup: Setup, plan: Plan) -> Mapping[str, str]:
    """What a sweep is, by its parts: the same on ranks that run the same one."""
    tokens = [np.array(batch.tokens).tolist() for batch in setup.batches]
    cells = [[cell.edits for cell in own] for own in setup.cells]
    parts = {
        "model": setup.model.identity | {"name": ""},  # a folder may lie elsewhere on another machine
        "tokens": tokens,
        "cells": cells,
        "metric": setup.metrics,
        "plan": plan.as_dict(),
    }
    return {name: _digest(part) for name, part in parts.items()}


def _digest(part: object) -> str:
    text = json.dumps(part, sort_keys=True, default=lambda other: _ADDRESS.sub("", repr(other)))
    return blake2b(text.encode(), digest_size=16).hexdigest()


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
            cells = np.ix_(new.tolist(), range(values.shape[1]), own)
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
