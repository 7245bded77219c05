"""What makes a sweep the same sweep: versions, model, prompts, cells, metrics, executor."""

import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from hashlib import blake2b
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_patch.execution._experiment import Experiment
from mlx_patch.execution.plan import Plan
from mlx_patch.fingerprints import Fingerprints
from mlx_patch.interventions import Edit
from mlx_patch.provenance import checksum, versions

_PLACE = ("site", "layer", "pos", "head", "neuron", "batch")


_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


def sweep_identity(experiment: Experiment, executor: str) -> dict[str, Any]:
    """What a sweep is, as JSON values that are the same in every process.

    Args:
        experiment: The sweep.
        executor: The one that runs it.
    Raises:
        KindError: An intervention or a metric holds what no other process could know again; see `fingerprint`.
    """
    seen = Fingerprints()
    return {
        "library version": {**versions(), "python": f"{sys.version_info.major}.{sys.version_info.minor}"},
        "device": {"kind": mx.default_device().type.name},
        "model": _model(experiment, seen),
        "prompt": _prompts(experiment, seen),
        **_cells(experiment, seen),
        "metric": _metrics(experiment, seen),
        "executor": {"name": executor},
    }


def _model(experiment: Experiment, seen: Fingerprints) -> dict[str, str]:
    family = experiment.model.layout.family
    return {
        **experiment.model.identity,
        "table": seen.of(family, "family"),
        "weights": checksum(experiment.model.model),
    }


def _prompts(experiment: Experiment, seen: Fingerprints) -> list[list[str]]:
    """A label and a fingerprint for each prompt, in the order of examples; those of a list are not those of a batch."""
    rows = {
        example: (row, "alone") if batch.alone else row
        for batch in experiment.batches
        for example, row in zip(batch.examples, np.array(batch.tokens).tolist(), strict=True)
    }
    lengths = {example: batch.length for batch in experiment.batches for example in batch.examples}
    return [[f"{lengths[n]} tokens", seen.of(rows[n], "tokens")] for n in sorted(rows)]


def _cells(experiment: Experiment, seen: Fingerprints) -> dict[str, Any]:
    """Each different intervention, and what the cells choose: a fingerprint for each kind of choice."""
    edits = [[[part for edit in cell.edits for part in edit.parts] for cell in own] for own in experiment.cells]
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


def _metrics(experiment: Experiment, seen: Fingerprints) -> list[list[str]]:
    """A label and a fingerprint for each metric, as it is for every group of prompts."""
    of_each = zip(*(readout.metrics for readout in experiment.readouts), strict=True)
    return [[_ADDRESS.sub("", own[0].name), seen.of(own, "metric")] for own in of_each]


_ADDRESS = re.compile(r" at 0x[0-9a-f]+")
"""Where an object lies in memory, which is no part of what it is."""


def described(experiment: Experiment, plan: Plan) -> Mapping[str, str]:
    """What a sweep is, by its parts: the same on ranks that run the same one."""
    tokens = [np.array(batch.tokens).tolist() for batch in experiment.batches]
    cells = [[cell.edits for cell in own] for own in experiment.cells]
    parts = {
        "model": experiment.model.identity | {"name": ""},  # a folder may lie elsewhere on another machine
        "tokens": tokens,
        "cells": cells,
        "metric": experiment.metrics,
        "plan": plan.as_dict(),
    }
    return {name: _digest(part) for name, part in parts.items()}


def _digest(part: object) -> str:
    text = json.dumps(part, sort_keys=True, default=lambda other: _ADDRESS.sub("", repr(other)))
    return blake2b(text.encode(), digest_size=16).hexdigest()
