"""Activation patching on a real model shows what is known of it: a name is read early, and the answer is written late.

Two prompts that differ in one name. The run of the corrupted one gets the stream of the clean one at one position; the
effect is the share of the clean-corrupted gap in the logit difference of " Mary" and " John" that it restores. Nothing
before that position changes, so a prompt cache holds it.
"""

from copy import deepcopy
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.models.cache import make_prompt_cache

from mlx_patch import Replace
from mlx_patch.metrics import LogitDiff

CLEAN = "When John and Mary went to the shops, John gave a bottle of milk to"
CORRUPTED = "When John and Mary went to the shops, Mary gave a bottle of milk to"
EVERY_THIRD = range(0, 30, 3)

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def prompts(smollm2):
    """Tokens of both, and the position of the second name."""
    clean, corrupted = (smollm2.tokenize(text) for text in (CLEAN, CORRUPTED))
    [differs] = [p for p, same in enumerate((clean == corrupted)[0].tolist()) if not same]
    return clean, corrupted, differs


@pytest.fixture(scope="module")
def difference(smollm2):
    return LogitDiff(" Mary", " John").resolve(smollm2.tokenizer)


@pytest.fixture(scope="module")
def runs(smollm2, prompts, difference):
    """The clean stream, and the logit differences of the clean and the corrupted run, in nats."""
    clean, corrupted, _ = prompts
    logits, cache = smollm2.run_with_cache(clean, "resid_post", logits_at=-1)
    assert smollm2.tokenizer.decode([mx.argmax(logits).item()]) == " Mary"
    return cache, difference(logits).item(), difference(smollm2.run(corrupted, logits_at=-1)).item()


@pytest.fixture(scope="module")
def effect(smollm2, prompts, runs, difference):
    """The effect of the clean stream after a layer at a position."""
    _, corrupted, _ = prompts
    stream, clean, other = runs
    held = {}

    def effect(layer, position):
        if position not in held:
            held[position] = make_prompt_cache(smollm2.model)
            smollm2.run(corrupted[:, :position], prompt_cache=held[position], logits_at=-1)
        edit = Replace(stream).at("resid_post", layer=layer, pos=position)
        rest = corrupted[:, position:]
        logits = smollm2.run(rest, edit, logits_at=-1, prompt_cache=deepcopy(held[position]))
        return (difference(logits).item() - other) / (clean - other)

    return effect


def test_the_prompts_ask_for_different_names(prompts, runs):
    _, clean, corrupted = runs
    assert prompts[0].shape == (1, 16)
    assert clean == pytest.approx(3.961, abs=1e-3)
    assert corrupted == pytest.approx(-5.218, abs=1e-3)


def test_a_prompt_cache_changes_no_number(smollm2, prompts, runs, effect, difference):
    _, corrupted, name = prompts
    stream, clean, other = runs
    whole = smollm2.run(corrupted, Replace(stream).at("resid_post", layer=15, pos=name), logits_at=-1)
    assert (difference(whole).item() - other) / (clean - other) == pytest.approx(effect(15, name), abs=1e-5)


def test_the_name_s_position_matters_early(prompts, effect):
    effects = [effect(layer, prompts[2]) for layer in EVERY_THIRD]
    assert effects == pytest.approx([1.00, 1.00, 1.00, 1.00, 1.00, 1.00, 1.00, 0.61, 0.01, 0.00], abs=0.01)


def test_the_last_position_matters_late(prompts, effect):
    effects = [effect(layer, prompts[0].shape[1] - 1) for layer in EVERY_THIRD]
    assert effects == pytest.approx([0.00, 0.00, 0.00, 0.00, 0.00, 0.00, -0.01, 0.42, 0.89, 0.98], abs=0.01)


@pytest.mark.real
@pytest.mark.slow
def test_the_answer_moves_from_the_name_to_the_last_position(smollm2, d1):
    """Early layers have it at the name, late ones at the end: both ways of two pairs, by the example's own sweep."""
    spec = spec_from_file_location("indirect_object", Path(d1.__file__).with_name("indirect_object.py"))
    assert spec is not None
    assert spec.loader is not None
    example = module_from_spec(spec)
    spec.loader.exec_module(example)
    example.NAMES = example.NAMES[:2]
    pair = example.measured(smollm2, layers=(6, 27), positions=(9, 15))
    np.testing.assert_allclose(pair.denoising.mean(), [[1, 0], [0, 1]], atol=0.1)
    np.testing.assert_allclose(pair.noising.mean(), [[0, 1], [1, 0]], atol=0.1)
