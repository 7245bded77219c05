"""What makes a sweep the same sweep: versions, model, prompts, cells, metrics, executor; and how two of them differ."""

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_patch.errors import listed
from mlx_patch.interventions import Edit
from mlx_patch.provenance import versions
from mlx_patch.sweeps._fingerprint import Fingerprints
from mlx_patch.sweeps._setup import Setup
from mlx_patch.sweeps._weights import checksum

_PLACE = ("site", "layer", "pos", "head", "neuron", "batch")
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
_HASH = re.compile("[0-9a-f]{32}")

Identity = Mapping[str, Any]
"""JSON values by name. Equal identities give equal numbers."""


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
    """A label and a fingerprint for each prompt, in the order of examples."""
    rows = {
        example: row
        for batch in setup.batches
        for example, row in zip(batch.examples, np.array(batch.tokens).tolist(), strict=True)
    }
    return [[f"{len(rows[n])} tokens", seen.of(rows[n], "tokens")] for n in sorted(rows)]


def _cells(setup: Setup, seen: Fingerprints) -> dict[str, Any]:
    """Each different intervention, and what the cells choose: a fingerprint for each kind of choice."""
    edits = [[cell.edits for cell in own] for own in setup.cells]
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


def differences(file: Identity, here: Identity) -> Iterator[str]:
    """In what two identities differ, as clauses: "another prompt (number 2 of 3)"; none where they are the same.

    Example:
        >>> list(differences({"prompt": [["2 tokens", "ab"]]}, {"prompt": [["3 tokens", "cd"]]}))
        ['another prompt (number 1 of 1: 2 tokens in the file, 3 tokens here)']
        >>> list(differences({"model": {"bits": "4", "dtype": "x"}}, {"model": {"bits": "8", "dtype": "x"}}))
        ["another model (bits: '4' in the file, '8' here)"]
    """
    for name in dict.fromkeys((*here, *file)):
        one, other = file.get(name), here.get(name)
        if one == other or _without_name(one) == _without_name(other):
            continue
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            yield f"another {name} ({_of_mappings(one, other)})"
        elif isinstance(one, list) and isinstance(other, list):
            yield f"another {name} ({_of_lists(one, other)})"
        else:
            yield f"another {name}"


def _without_name(value: Any) -> Any:
    """A model is the same wherever it was loaded from."""
    return {**value, "name": ""} if isinstance(value, Mapping) and "weights" in value else value


def _of_mappings(one: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    differing = [name for name in dict.fromkeys((*other, *one)) if one.get(name) != other.get(name)]
    return ", ".join(_of_values(name, one.get(name), other.get(name)) for name in differing)


def _of_values(name: str, one: object, other: object) -> str:
    if all(isinstance(value, str) and _HASH.fullmatch(value) for value in (one, other)):
        return name
    return f"{name}: {one!r} in the file, {other!r} here"


def _of_lists(one: Sequence[Sequence[str]], other: Sequence[Sequence[str]]) -> str:
    if len(one) != len(other):
        return f"{len(one)} in the file, {len(other)} here"
    differing = [n for n, (a, b) in enumerate(zip(one, other, strict=True)) if a != b]
    n = differing[0]
    said = f"{one[n][0]} in the file, {other[n][0]} here" if one[n][0] != other[n][0] else f"{one[n][0]}, which differs"
    more = f" and {listed(k + 1 for k in differing[1:4])}" if len(differing) > 1 else ""
    return f"number {n + 1}{more} of {len(one)}: {said}"
