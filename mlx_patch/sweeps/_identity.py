"""What makes a sweep the same sweep: versions, model, prompts, cells, metrics, executor."""

import re
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_patch.fingerprints import Fingerprints
from mlx_patch.interventions import Edit
from mlx_patch.provenance import checksum, versions
from mlx_patch.sweeps._setup import Setup

_PLACE = ("site", "layer", "pos", "head", "neuron", "batch")
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


def identity_of(setup: Setup, executor: str) -> dict[str, Any]:
    """What a sweep is, as JSON values that are the same in every process.

    Args:
        setup: The sweep.
        executor: The one that runs it.
    Raises:
        KindError: An intervention or a metric holds what no other process could know again; see `fingerprint`.
    """
    seen = Fingerprints()
    return {
        "library version": {**versions(), "python": f"{sys.version_info.major}.{sys.version_info.minor}"},
        "device": {"kind": mx.default_device().type.name},
        "model": _model(setup, seen),
        "prompt": _prompts(setup, seen),
        **_cells(setup, seen),
        "metric": _metrics(setup, seen),
        "executor": {"name": executor},
    }


def _model(setup: Setup, seen: Fingerprints) -> dict[str, str]:
    family = setup.model.layout.family
    return {**setup.model.identity, "table": seen.of(family, "family"), "weights": checksum(setup.model.model)}


def _prompts(setup: Setup, seen: Fingerprints) -> list[list[str]]:
    """A label and a fingerprint for each prompt, in the order of examples; those of a list are not those of a batch."""
    rows = {
        example: (row, "alone") if batch.alone else row
        for batch in setup.batches
        for example, row in zip(batch.examples, np.array(batch.tokens).tolist(), strict=True)
    }
    lengths = {example: batch.length for batch in setup.batches for example in batch.examples}
    return [[f"{lengths[n]} tokens", seen.of(rows[n], "tokens")] for n in sorted(rows)]


def _cells(setup: Setup, seen: Fingerprints) -> dict[str, Any]:
    """Each different intervention, and what the cells choose: a fingerprint for each kind of choice."""
    edits = [[[part for edit in cell.edits for part in edit.parts] for cell in own] for own in setup.cells]
    several: dict[str, str] = {}
    for intervention in {id(one.intervention): one.intervention for one in _every(edits)}.values():
        several.setdefault(seen.of(intervention, "intervention"), _ADDRESS.sub("", repr(intervention)))
    number = {found: n for n, found in enumerate(several)}
    of = {
        name: _hash_of([[[getattr(e, name) for e in cell] for cell in own] for own in edits], seen) for name in _PLACE
    }
    which = [[[number[seen.of(e.intervention)] for e in cell] for cell in own] for own in edits]
    choices = {"number": len(edits[0]), **of, "intervention": _hash_of(which, seen)}
    return {"intervention": [[label, found] for found, label in several.items()], "choice of cells": choices}


def _hash_of(values: object, seen: Fingerprints) -> str:
    """A fingerprint of nested lists of names, numbers, tuples and slices, of which there may be very many."""
    return seen.of(repr(values))


def _every(edits: Sequence[Sequence[Sequence[Edit]]]) -> Iterator[Edit]:
    return (edit for own in edits for cell in own for edit in cell)


def _metrics(setup: Setup, seen: Fingerprints) -> list[list[str]]:
    """A label and a fingerprint for each metric, as it is for every group of prompts."""
    of_each = zip(*(reading.metrics for reading in setup.readings), strict=True)
    return [[_ADDRESS.sub("", own[0].name), seen.of(own, "metric")] for own in of_each]
