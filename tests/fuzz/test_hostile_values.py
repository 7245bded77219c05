"""Everything public, called with values that nobody should give: a PatchError, or the right result.

`HOSTILE_CALLS=10000 HOSTILE_SEED=7 python -m pytest -q tests/fuzz/test_hostile_values.py` makes more, from another
seed. `HOSTILE_LOG=last.txt` has each call written down before it is made, for one that ends the process.
"""

import os
import warnings

import matplotlib
import pytest
from hostile.campaign import Campaign
from hostile.examples import EXAMPLES, NOT_FOR_USERS, REFUSED, reason_left_out
from hostile.surface import public_callables
from hostile.world import World

from mlx_patch.errors import PatchError

SEED = int(os.environ.get("HOSTILE_SEED", "0"))
CALLS = int(os.environ.get("HOSTILE_CALLS", "1000"))
PARTS = 2
"""Tests that the calls are divided over, so that processes can share them."""


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    matplotlib.use("Agg")
    folder = tmp_path_factory.mktemp("hostile")
    (folder / "out").mkdir()
    made = World(folder)
    assert made.classes
    assert made.weights
    assert made.logits.size
    return made


def test_everything_public_has_an_example():
    names = set(public_callables())
    without = {name for name in names if name not in EXAMPLES and reason_left_out(name) is None}
    assert without == set(), "add an example to tests/helpers/hostile/examples.py"
    assert set(EXAMPLES) - names == set()


def test_every_reason_for_leaving_out_is_of_something():
    reasons = {reason_left_out(name) for name in public_callables()}
    assert set(NOT_FOR_USERS.values()) - reasons == set()


def test_every_example_is_a_valid_call(world, monkeypatch):
    monkeypatch.chdir(world.folder)
    slow = ("HookedModel.verify", "sweeps.check_sweeps", "cross.fit_maps")
    for name in EXAMPLES.keys() - {*REFUSED, *slow}:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            EXAMPLES[name](world)()
    for name in REFUSED:
        with pytest.raises(PatchError):
            EXAMPLES[name](world)()


@pytest.mark.parametrize("part", range(PARTS))
def test_hostile_values_are_refused_or_understood(world, monkeypatch, part):
    monkeypatch.chdir(world.folder)
    campaign = Campaign(world, SEED * PARTS + part)
    leaks = list(campaign.leaks(CALLS // PARTS))
    print(dict(campaign.outcomes))
    assert leaks == [], "\n".join(map(str, leaks))
    assert campaign.outcomes.total() == CALLS // PARTS
    assert campaign.outcomes["refused"] > 0.5 * CALLS // PARTS
    assert campaign.outcomes["taken"] > 0.05 * CALLS // PARTS
