"""Path patching on SmolLM2's weights gives what an independent brute force gives, with MLPs frozen and recomputed."""

import os
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from rounded_scales import with_half_scales

import mlx_patch as mp

GOLDEN = Path(__file__).parents[1] / "golden" / "path_patching_smollm2.npz"
FREEZES = {"all": "mlps_frozen", "attention": "mlps_recomputed"}
HEADS_PER_KEY = 3
EVERY_PATH = bool(os.environ.get("EVERY_PATH"))
LAYERS = range(30) if EVERY_PATH else (1, 29)
"""Of direct effects. Without EVERY_PATH some paths of one prompt run: a forward pass takes 2 seconds of MLX's BLAS."""
PAIRS = slice(None) if EVERY_PATH else slice(2, None, 5)
EXAMPLES = slice(None) if EVERY_PATH else slice(0, 1)


def expected_paths(golden, patch, mlps):
    """Cells of paths, each with the metric that brute force has for it."""
    for where, pos in (("all", None), ("last", -1)):
        values = golden[f"to_final_resid__{mlps}__sender_pos_{where}__noising"]
        for layer in LAYERS:
            for head in range(values.shape[1]):
                yield patch.at("z", layer=layer, head=head, pos=pos).via("logits"), values[layer, head]
    for name in "qkv":
        queries_per_head = 1 if name == "q" else HEADS_PER_KEY
        values = golden[f"to_{name}__{mlps}__noising"]
        for (layer, head, to_layer, to_head), of_pair in zip(
            golden["pairs"][PAIRS].tolist(), values[PAIRS], strict=True
        ):
            sender = patch.at("z", layer=layer, head=head)
            yield sender.via(name, layer=to_layer, head=to_head // queries_per_head), of_pair


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.parametrize("freeze", FREEZES)
def test_paths_are_those_of_brute_force_elsewhere(freeze):
    golden, model = np.load(GOLDEN), with_half_scales()
    host, source = (mx.array(golden[f"tokens_{name}"][EXAMPLES]) for name in ("clean", "corrupted"))
    metric = mp.metrics.LogitDiff(golden["right"][EXAMPLES].tolist(), golden["wrong"][EXAMPLES].tolist())
    patch = mp.Replace(model.run_with_cache(source, sites="z", logits_at=-1)[1])
    cells, expected = zip(*expected_paths(golden, patch, FREEZES[freeze]), strict=True)
    result = mp.sweep(model, host, over=list(cells), metric=metric, freeze=freeze)
    effects = np.stack(expected)[:, EXAMPLES] - golden["metric_clean"][EXAMPLES]
    assert np.abs(effects).max() > 0.1
    np.testing.assert_allclose(result.values - result.baseline, effects, atol=1e-4)
