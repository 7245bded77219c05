"""What a seed draws is the same in every release, and an intervention cannot be changed once it is made."""

from dataclasses import FrozenInstanceError, fields

import mlx.core as mx
import pytest
from samples import SITE, VECTOR, Y

from mlx_patch.interventions import Ablate, Add, Clamp, Interpolate, Knockout, Project, Replace, Scale, Span

ROWS = mx.broadcast_to(mx.arange(9.0)[:, None, None], (9, 5, 8))
"""Activations of nine rows, each of which is its number."""


def drawn(seed, site=SITE, source=None, rows=ROWS):
    """The rows whose activations each row is given."""
    edit = Ablate("resample", source, seed=seed).at("resid_post", pos=1)
    edited = edit.apply(rows, site, Span(0, 5, 5))
    return edited[:, 1, 0].astype(mx.int32).tolist()


@pytest.mark.parametrize(
    ("seed", "expected"),
    [
        (0, [4, 7, 1, 8, 2, 3, 5, 0, 6]),
        (7, [8, 6, 4, 5, 3, 7, 2, 1, 0]),
    ],
)
def test_a_resample_of_the_own_batch_is_pinned(seed, expected):
    assert drawn(seed) == expected


@pytest.mark.parametrize(
    ("seed", "expected"),
    [
        (0, [5, 7, 0, 1, 5, 7, 4, 6, 1]),
        (7, [0, 8, 6, 4, 8, 6, 5, 0, 1]),
    ],
)
def test_a_resample_of_a_source_is_pinned(seed, expected):
    assert drawn(seed, source=ROWS) == expected
    assert drawn(seed, source=ROWS, rows=ROWS[:3]) == expected[:3]


@pytest.mark.parametrize(
    "intervention",
    [
        Replace(Y),
        Interpolate(Y, 0.5),
        Add(VECTOR),
        Scale(2.0),
        Ablate("zero"),
        Clamp(-1.0, 1.0),
        Project(VECTOR),
        Replace(Y) | Scale(2.0),
    ],
    ids=repr,
)
def test_an_intervention_is_frozen(intervention):
    for entry in fields(intervention):
        with pytest.raises(FrozenInstanceError):
            setattr(intervention, entry.name, None)
    with pytest.raises(FrozenInstanceError):
        Knockout().source = None
    edit = intervention.at("resid_post", layer=0)
    with pytest.raises(FrozenInstanceError):
        edit.intervention = Scale(0.0)
