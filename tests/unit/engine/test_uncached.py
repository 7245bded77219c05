"""gemma3n is itself only over a prompt cache: whoever calls it without one is told that `run` gives other logits."""

import os

import mlx.core as mx
import pytest
from mlx_lm.models.cache import make_prompt_cache

from mlx_patch import Scale
from mlx_patch.architectures import FAMILIES
from mlx_patch.errors import UncachedWarning

TOLD = r"^gemma3n was called without a prompt cache.* The logits differ from those of `model\.run\(tokens\)`.* Write"


def test_a_plain_call_is_the_model_s_own(tiny, tokens):
    """And says that `run` is another."""
    model = tiny("gemma3n")
    with pytest.warns(UncachedWarning, match=TOLD):
        logits = model(tokens)
    assert mx.array_equal(logits, model.model(tokens)).item()
    assert not mx.allclose(logits, model.run(tokens)).item()


def test_a_call_with_a_prompt_cache_is_run(tiny, tokens):
    model = tiny("gemma3n")
    assert mx.array_equal(model(tokens, cache=make_prompt_cache(model.model)), model.run(tokens)).item()
    assert mx.array_equal(model(tokens, make_prompt_cache(model.model)), model.run(tokens)).item()


def test_a_call_in_an_editing_block_is_told_too(tiny, tokens):
    model = tiny("gemma3n")
    with model.editing(Scale(2.0).at("z")):
        with pytest.warns(UncachedWarning, match=TOLD) as seen:
            model.model(tokens)
        assert seen[0].filename == __file__ or os.environ.get("CHECK_TYPES") == "1"  # which puts callers in between
        model.model(tokens, cache=make_prompt_cache(model.model))


def test_it_is_the_only_one():
    """Law 1 holds the logits of `run` against plain calls on all others."""
    assert {family.name for family in FAMILIES if family.cached} == {"gemma3n"}
