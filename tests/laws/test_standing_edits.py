"""Law 8 with standing edits: on architectures of every kind, sweeps give what plain runs with them give."""

import mlx.core as mx
import numpy as np
import pytest

import mlx_patch as mp
from mlx_patch.metrics import LogProb
from mlx_patch.sweeps import pieces_of

NAMES = ("llama", "llama-sliding", "gemma3_text", "gpt2", "gpt_neox-parallel", "gemma2", "mamba2", "mixtral")
TOKENS = mx.array([[(11 + 37 * (i + 20 * row)) % 96 for i in range(10)] for row in (0, 1)])
METRIC = LogProb(3)


def standing_of(model):
    """Noise at early embeddings, what reads all positions at one of them, and an edit of the last block."""
    return [
        mp.Ablate("noise", scale=2.0).at("embed", pos=[1, 2]),
        mp.Ablate("noise").at("resid_post", layer=0, pos=1),
        mp.Scale(-1.5).at("resid_pre", layer=model.n_layers - 1),
    ]


@pytest.mark.parametrize("executor", ["auto", "rows", "reference"])
@pytest.mark.parametrize("name", NAMES)
def test_a_cell_is_a_plain_run_with_both(name, executor, tiny):
    model = tiny(name)
    cells = []
    for layer in range(model.n_layers):
        for pos in (0, 4, 9):
            cells.append([mp.Scale(-2.0).at("resid_post", layer=layer, pos=pos)])
            cells.append([mp.Scale(0.5).at("resid_pre", layer=layer, pos=pos)])
    standing = standing_of(model)
    expected = np.array([mp.measure(model, TOKENS, METRIC, [*standing, *cell]) for cell in cells])
    baseline = mp.measure(model, TOKENS, METRIC, standing)
    result = mp.sweep(model, TOKENS, over=cells, metric=METRIC, edits=standing, executor=executor)
    np.testing.assert_allclose(result.values, expected, atol=1e-4)
    np.testing.assert_allclose(result.baseline, baseline, atol=1e-4)
    with pieces_of(4):
        cut = mp.sweep(model, TOKENS, over=cells, metric=METRIC, edits=standing, executor=executor)
    np.testing.assert_allclose(cut.values, expected, atol=1e-4)
