"""Runs that go on from a KV cache which already holds tokens give what the whole prompt gives, edited or not."""

from copy import deepcopy
from functools import cache

import mlx.core as mx
import pytest
from mlx_lm.models.cache import make_prompt_cache

from mlx_patch import HookedModel, Replace, Scale
from mlx_patch.laws import bench_of
from mlx_patch.testing import tiny_model
from mlx_patch.testing.zoo import CLASSICS

HELD, LENGTH = 9, 13
TOKENS = mx.array([[(11 + 37 * i) % 96 for i in range(LENGTH)]])
PRECISIONS = ("float32", "4bit")


class Held:
    """A model with a cache that holds the first tokens of the prompt, and the run of the rest."""

    def __init__(self, name, precision):
        self.model = HookedModel(tiny_model(name, precision))
        self.bench = bench_of(self.model, TOKENS)
        self._cache = make_prompt_cache(self.model.model)
        self.model.run(TOKENS[:, :HELD], prompt_cache=self._cache)
        self.logits, self.own = self.run(sites=self.model.sites)
        self.bare = self.model.model(TOKENS[:, HELD:], cache=deepcopy(self._cache))
        self.off = self.deviation(self.bare, self.model.model(TOKENS)[:, HELD:])
        self.tolerance = self.bench.scale.beside(self.off)

    def run(self, *edits, sites=()):
        rest, prompt_cache = TOKENS[:, HELD:], deepcopy(self._cache)
        return self.model.run_with_cache(rest, sites=sites, edits=edits, prompt_cache=prompt_cache)

    def deviation(self, got, wanted):
        return self.bench.scale.finding(9, "", got, wanted, 0.0).deviation


held = cache(Held)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", CLASSICS)
def test_what_follows_is_what_the_bare_model_gives(name, precision):
    here = held(name, precision)
    assert here.own.positions == tuple(range(HELD, LENGTH))
    assert here.own.n_positions == LENGTH
    assert here.off <= here.bench.scale.half_the_digits
    assert here.deviation(here.logits, here.bare) <= here.bench.exactly("pattern")


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", CLASSICS)
def test_its_own_value_changes_nothing(name, precision):
    here = held(name, precision)
    for site in here.bench.names:
        logits, _ = here.run(Replace(here.own).at(site))
        assert here.deviation(logits, here.logits) <= here.bench.exactly(site), site


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", CLASSICS)
def test_an_edit_finds_its_position(name, precision):
    here = held(name, precision)
    for site in here.bench.names:
        edit = Scale(0.5).at(site, pos=[HELD, LENGTH - 1])
        whole = here.model.run(TOKENS, edit)[:, HELD:]
        logits, _ = here.run(edit)
        assert here.deviation(logits, whole) <= here.tolerance, site
        assert here.deviation(logits, here.logits) > 0, site
