"""Attribution patching on SmolLM2's weights gives what an independent implementation gives."""

from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from rounded_scales import with_half_scales

import mlx_patch as mp

GOLDEN = Path(__file__).parents[1] / "golden" / "attribution_smollm2.npz"
EXAMPLES = [0, 3]
CALLS = {
    ("resid_pre", "resid_mid", "attn_out", "mlp_out"): ("site", "layer", "pos"),
    ("z", "q"): ("site", "layer", "pos", "head"),
    ("k", "v"): ("site", "layer", "pos", "head"),
}


@pytest.fixture(scope="module")
def model():
    return with_half_scales()


@pytest.mark.real
@pytest.mark.slow
def test_estimates_are_those_of_an_independent_implementation(model):
    golden = np.load(GOLDEN)
    clean, corrupted = (mx.array(golden[f"tokens_{name}"][EXAMPLES]) for name in ("clean", "corrupted"))
    right, wrong = (golden[name][EXAMPLES].tolist() for name in ("right", "wrong"))
    metric = mp.metrics.LogitDiff(right, wrong)
    _, cache = model.run_with_cache(clean, [site for sites in CALLS for site in sites], logits_at=-1)
    for sites, over in CALLS.items():
        estimate = mp.attribute(model, corrupted, mp.Replace(cache), at=sites, over=over, metric=metric)
        np.testing.assert_allclose(estimate.baseline, golden["metric_corrupted"][EXAMPLES], atol=1e-4)
        for site in sites:
            expected = golden[f"{site}_denoising"][..., EXAMPLES]
            found = estimate.sel(site=site).values - estimate.baseline
            assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max(), site
