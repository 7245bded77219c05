"""What makes a sweep the same sweep: versions, model, prompts, cells, metrics, executor."""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b
from itertools import chain
from operator import attrgetter
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlx_patch.execution._experiment import Experiment
from mlx_patch.execution.cells import Cell
from mlx_patch.execution.plan import Plan
from mlx_patch.fingerprints import Fingerprints
from mlx_patch.interventions import Edit, Transformation
from mlx_patch.provenance import checksum, digest_of, versions, without_addresses

_SELECTIONS = ("site", "layer", "pos", "head", "neuron", "batch", "key")
"""The fields of an edit that say where it acts."""


CellEdits = list[list[list[Edit]]]
"""For each group of prompts and each cell, its edits; of one that differs by row, those of the rows."""


def sweep_identity(experiment: Experiment, executor: str) -> dict[str, Any]:
    """What a sweep is, as JSON values that are the same in every process.

    Args:
        experiment: The sweep.
        executor: The name of the executor that runs it.
    Raises:
        KindError: An intervention or a metric holds what another process could not recognise; see `fingerprint`.
    """
    fingerprints = Fingerprints()
    return {
        "library version": {**versions(), "python": f"{sys.version_info.major}.{sys.version_info.minor}"},
        "device": {"kind": mx.default_device().type.name},
        "model": _describe_model(experiment, fingerprints),
        "prompt": _label_prompts(experiment, fingerprints),
        **_describe_cells(experiment, fingerprints),
        "standing edits": _label_standing(experiment, fingerprints),
        "metric": _label_metrics(experiment, fingerprints),
        "executor": {"name": executor},
    }


def _describe_model(experiment: Experiment, fingerprints: Fingerprints) -> dict[str, str]:
    family = experiment.model.layout.family
    return {
        **experiment.model.identity,
        "table": fingerprints.of(family, "family"),
        "weights": checksum(experiment.model.model),
    }


def _label_prompts(experiment: Experiment, fingerprints: Fingerprints) -> list[list[str]]:
    """A label and a fingerprint for each prompt, in the order of examples."""
    tokens_by_example: dict[int, list[int] | tuple[list[int], str]] = {}
    length_by_example: dict[int, int] = {}
    for batch in experiment.batches:
        for example, row in zip(batch.examples, np.array(batch.tokens).tolist(), strict=True):
            tokens_by_example[example] = row
            if batch.alone:  # a prompt of a list is not the same as one of a batch
                tokens_by_example[example] = (row, "alone")
            length_by_example[example] = batch.length
    return [
        [f"{length_by_example[example]} tokens", fingerprints.of(tokens_by_example[example], "tokens")]
        for example in sorted(tokens_by_example)
    ]


def _describe_cells(experiment: Experiment, fingerprints: Fingerprints) -> dict[str, Any]:
    """Each different intervention, and a fingerprint for each kind of choice that the cells make."""
    edits = [_edits_of(group_cells) for group_cells in experiment.cells]
    labels = _label_interventions(edits, fingerprints)
    numbers = {fingerprint: number for number, fingerprint in enumerate(labels)}
    intervention_numbers = _map_edits(edits, lambda edit: numbers[fingerprints.of(edit.intervention)])
    choices: dict[str, Any] = {"number": len(edits[0])}
    for name in _SELECTIONS:
        choices[name] = _hash_of(_map_edits(edits, attrgetter(name)), fingerprints)
    choices["intervention"] = _hash_of(intervention_numbers, fingerprints)
    interventions = [[label, fingerprint] for fingerprint, label in labels.items()]
    return {"intervention": interventions, "choice of cells": choices}


def _label_standing(experiment: Experiment, fingerprints: Fingerprints) -> list[list[str]]:
    """A label and a fingerprint for each standing edit of each group of prompts."""
    labels = []
    for standing in experiment.standing:
        for edit in standing:
            parts = [
                [fingerprints.of(part.intervention), *(getattr(part, name) for name in _SELECTIONS)]
                for part in edit.parts
            ]
            labels.append([without_addresses(repr(edit)), _hash_of(parts, fingerprints)])
    return labels


def _edits_of(cells: Sequence[Cell]) -> list[list[Edit]]:
    return [[row_edit for edit in cell.edits for row_edit in edit.parts] for cell in cells]


def _label_interventions(edits: CellEdits, fingerprints: Fingerprints) -> dict[str, str]:
    """A label for each different intervention, by its fingerprint."""
    interventions: dict[int, Transformation] = {}
    for edit in chain.from_iterable(chain.from_iterable(edits)):
        interventions[id(edit.intervention)] = edit.intervention
    labels: dict[str, str] = {}
    for intervention in interventions.values():
        fingerprint = fingerprints.of(intervention, "intervention")
        if fingerprint not in labels:
            labels[fingerprint] = without_addresses(repr(intervention))
    return labels


def _map_edits(edits: CellEdits, choice_of: Callable[[Edit], object]) -> list[list[list[object]]]:
    """A choice of every edit of every cell, in lists nested as the edits are."""
    return [[list(map(choice_of, cell_edits)) for cell_edits in group_edits] for group_edits in edits]


def _hash_of(values: object, fingerprints: Fingerprints) -> str:
    """A fingerprint of nested lists of names, numbers, tuples and slices, of which there may be very many."""
    return fingerprints.of(repr(values))


def _label_metrics(experiment: Experiment, fingerprints: Fingerprints) -> list[list[str]]:
    """A label and a fingerprint for each metric, as it is for every group of prompts."""
    metrics_of_groups = zip(*(readout.metrics for readout in experiment.readouts), strict=True)
    return [[without_addresses(metrics[0].name), fingerprints.of(metrics, "metric")] for metrics in metrics_of_groups]


def described(experiment: Experiment, plan: Plan, is_whole: bool) -> Mapping[str, str]:
    """A digest of each part of a sweep, by what a rank has where it differs. Ranks of the same sweep have the same.

    Args:
        experiment: The sweep.
        plan: Its plan.
        is_whole: Whether each rank has the whole model, and not a part of it.
    """
    tokens = [np.array(batch.tokens).tolist() for batch in experiment.batches]
    edits = [[cell.edits for cell in group_cells] for group_cells in experiment.cells]
    model = experiment.model.model
    weights = digest_of(_replicated(model))
    if is_whole:
        weights = checksum(model)
    contents = {
        "another model": [experiment.model.identity | {"name": ""}, weights],  # a folder may lie elsewhere
        "another prompt": tokens,
        "other cells": edits,
        "other standing edits": experiment.standing,
        "another metric": experiment.metrics,
        "another plan": plan.as_dict(),
    }
    return {difference: _digest(value) for difference, value in contents.items()}


_REPLICATED = (nn.Embedding, nn.QuantizedEmbedding, nn.RMSNorm, nn.LayerNorm)


def _replicated(model: nn.Module) -> dict[str, mx.array]:
    """The weights that every rank of a sharded model has whole: those of embeddings and norms."""
    arrays: dict[str, mx.array] = {}
    for path, module in model.named_modules():
        if type(module) in _REPLICATED:
            arrays |= {f"{path}.{name}": value for name, value in module.items() if isinstance(value, mx.array)}
    return arrays


def _digest(value: object) -> str:
    text = json.dumps(value, sort_keys=True, default=lambda member: without_addresses(repr(member)))
    return blake2b(text.encode(), digest_size=16).hexdigest()
