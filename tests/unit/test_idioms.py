"""What users of TransformerLens and nnsight write works here, or says what to write."""

import copy
import inspect
import pickle
import re

import mlx.core as mx
import numpy as np
import pytest

import mlx_patch as mp
from mlx_patch import idioms
from mlx_patch.errors import KindError, UnknownAttributeError, UnknownNameError

TOKENS = mx.array([[11, 48, 85, 26, 63]])


@pytest.fixture(scope="module")
def model(tiny):
    return tiny("llama")


@pytest.fixture(scope="module")
def cache(model):
    return model.run_with_cache(TOKENS, sites="all")[1]


@pytest.mark.parametrize("name", idioms.MODEL_HINTS)
def test_a_name_of_a_model_gets_a_hint(model, name):
    with pytest.raises(UnknownAttributeError, match=f"^HookedModel has no `{name}`: .+"):
        getattr(model, name)


@pytest.mark.parametrize("name", idioms.CACHE_HINTS)
def test_a_name_of_a_cache_gets_a_hint(cache, name):
    with pytest.raises(UnknownAttributeError, match=f"^ActivationCache has no `{name}`: .+"):
        getattr(cache, name)


@pytest.mark.parametrize("name", idioms.MODULE_HINTS)
def test_a_name_of_the_package_gets_a_hint(name):
    with pytest.raises(UnknownAttributeError, match=f"^mlx_patch has no `{name}`: .+"):
        getattr(mp, name)


@pytest.mark.parametrize("name", idioms.ARGUMENT_HINTS)
def test_an_argument_gets_a_hint_before_anything_runs(model, name):
    with pytest.raises(KindError, match=f"^`run_with_cache` has no argument `{name}`: .+"):
        model.run_with_cache(None, **{name: None}) if name != "fwd_hooks" else model.run_with_cache(None, fwd_hooks=[])


@pytest.mark.parametrize("name", idioms.SITE_HINTS)
def test_a_place_that_is_no_site_gets_a_hint(name):
    for call in (mp.Site, mp.Site.parse, lambda text: mp.Ablate("zero").at(text)):
        with pytest.raises(UnknownNameError, match=r"It is not one here: .+\."):
            call(name)
    with pytest.raises(UnknownNameError, match=r"It is not one here: .+\."):
        mp.Site.parse(f"blocks.1.attn.hook_{name}")


@pytest.mark.parametrize(("alias", "name"), idioms.SITE_ALIASES.items())
def test_an_alias_of_a_site_is_the_site(model, cache, alias, name):
    assert mp.Site(alias, 1) == mp.Site.parse(f"{alias}.1") == mp.Site(name, 1)
    assert cache[alias, 1] is cache[name, 1]
    assert repr(mp.Ablate("zero").at(alias, layer=1)) == repr(mp.Ablate("zero").at(name, layer=1))
    _, one = model.run_with_cache(TOKENS, sites=(alias,))
    assert {site.name for site in one} == {name}
    metric = mp.metrics.LogitDiff(3, 5)
    swept = [mp.sweep(model, TOKENS, mp.Scale(0.5), site, "layer", metric, progress=False) for site in (alias, name)]
    np.testing.assert_array_equal(swept[0].values, swept[1].values)


def test_all_is_every_site_that_the_model_has(model, cache):
    assert set(cache) == set(model.sites)


def test_there_are_110_idioms_and_more():
    tables = (idioms.MODEL_HINTS, idioms.CACHE_HINTS, idioms.MODULE_HINTS, idioms.ARGUMENT_HINTS, idioms.SITE_HINTS)
    assert sum(map(len, (*tables, idioms.SITE_ALIASES))) >= 110


def test_a_misspelt_name_gets_the_nearest(model, cache):
    with pytest.raises(AttributeError, match="Did you mean n_layers"):
        model.n_layer
    with pytest.raises(AttributeError, match="Did you mean accumulated"):
        cache.acumulated
    with pytest.raises(AttributeError, match="Did you mean HookedModel"):
        mp.HookedModle


def test_models_and_caches_are_still_copied_and_pickled(model, cache):
    assert copy.copy(cache)["z", 0] is cache["z", 0]
    assert set(pickle.loads(pickle.dumps(cache))) == set(cache)
    assert copy.copy(model).model is model.model
    assert not hasattr(model, "W_U")


TABLES = (idioms.MODEL_HINTS, idioms.CACHE_HINTS, idioms.MODULE_HINTS, idioms.ARGUMENT_HINTS, idioms.SITE_HINTS)


@pytest.mark.parametrize("text", sorted({text for table in TABLES for text in table.values()}))
def test_what_a_hint_names_is_there(model, text):
    """The first name in code: `model.run`, `cache.stack`, `mp.sweep`."""
    owners = {"model": model, "cache": mp.ActivationCache, "mp": mp}
    for owner, name in re.findall(r"`(?:with )?(model|cache|mp)\.(\w+)", text):
        assert hasattr(owners[owner], name) or name == "tokens"


@pytest.mark.parametrize("method", ["run", "run_with_cache", "run_with_hooks", "tokenize", "generate"])
def test_methods_keep_their_signature(method):
    assert "self" in inspect.signature(getattr(mp.HookedModel, method)).parameters
    assert getattr(mp.HookedModel, method).__doc__
