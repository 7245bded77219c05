"""Lenses of SmolLM2 give what an independent implementation gives."""

from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from rounded_scales import with_half_scales

import mlx_patch as mp

GOLDEN = Path(__file__).parents[1] / "golden" / "decompositions_smollm2.npz"


@pytest.fixture(scope="module")
def model():
    return with_half_scales()


@pytest.mark.real
@pytest.mark.slow
def test_lenses_are_those_of_an_independent_implementation(model):
    golden = np.load(GOLDEN)
    tokens, right, wrong = mx.array(golden["tokens"]), golden["right"].tolist(), golden["wrong"].tolist()
    parts = mp.lens.direct_logits(model, tokens, right, wrong)
    np.testing.assert_allclose(parts.values, golden["dla_components_by_hand"], atol=1e-4)
    heads = mp.lens.direct_logits(model, tokens, right, wrong, by="head")
    np.testing.assert_allclose(heads.values.reshape(-1, 4), golden["dla_heads_by_hand"], atol=1e-4)
    source = mp.lens.direct_logits(model, tokens[:1], right[:1], wrong[:1], by="source")
    np.testing.assert_allclose(source.total, golden["dla_components_by_hand"].sum(axis=0)[:1], atol=1e-4)
    sites = [*(f"blocks.{layer}.hook_resid_pre" for layer in range(30)), "blocks.29.hook_resid_post"]
    lens = mp.lens.logit_lens(model, tokens, sites, pos=-1)
    read = np.stack([np.array(lens.logits(site))[:, 0] for site in lens.sites])
    for name, ids in (("right", right), ("wrong", wrong)):
        np.testing.assert_allclose(read[:, range(4), ids], golden[f"logit_lens_{name}"], atol=1e-4)
