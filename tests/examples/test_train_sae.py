"""`examples/train_sae.py` on made activations: it learns, and what it writes is read as what it learned."""

import sys
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

import mlx_patch as mp

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def script():
    sys.path.insert(0, str(EXAMPLES))
    try:
        import train_sae

        return train_sae
    finally:
        sys.path.remove(str(EXAMPLES))


@pytest.fixture(scope="module")
def activations():
    """Sums of 3 of 24 directions, in a stream of 16 with a mean. Shape `(token, 16)`."""
    draw = np.random.default_rng(0)
    directions = draw.normal(size=(24, 16))
    chosen = np.argsort(draw.normal(size=(2000, 24)), axis=1)[:, :3]
    sizes = draw.uniform(1, 3, size=(2000, 3))
    return (np.einsum("tk,tkd->td", sizes, directions[chosen]) + 2.0).astype(np.float32)


def test_what_is_written_is_what_was_learned(script, activations, tmp_path, capsys):
    recipe = script.Recipe(n_features=32, k=4, epochs=30, batch=200, rate=3e-3)
    scale = float(4 / np.linalg.norm(activations, axis=1).mean())
    weights = script.train(activations * np.float32(scale), recipe)
    first, last = (float(line.split(": ")[1].split()[0]) for line in capsys.readouterr().out.splitlines()[::11])
    assert last < 0.6 * first
    script.save(weights, scale, recipe, tmp_path)
    sae = mp.dictionaries.load(tmp_path)
    assert sae.site == mp.Site("resid_post", 12)
    learned = script.features_of(weights, mx.array(activations[:50] * np.float32(scale)), recipe.k)
    close = np.isclose(sae.encode(mx.array(activations[:50])), learned, atol=0.02)
    assert close.mean() > 0.99  # weights are rounded to float16, which may change which are largest
    decoded = sae.decode(sae.encode(mx.array(activations)))
    assert np.mean((np.array(decoded) - activations) ** 2) < 0.5 * activations.var(axis=0).mean()


def test_silent_features_are_begun_anew(script, activations):
    recipe = script.Recipe(n_features=8, k=2)
    weights = script.begun(activations, recipe)
    optimiser = script.optim.Adam(1e-3)
    optimiser.init(weights)
    before = np.array(weights["W_dec"])
    fired = mx.array([0.0, 1, 1, 0, 1, 1, 1, 1])
    x = mx.array(activations[:20])
    errors = mx.arange(20)
    script.renew(weights, optimiser, fired, x, errors)
    changed = np.any(np.array(weights["W_dec"]) != before, axis=1)
    assert changed.tolist() == [True, False, False, True, False, False, False, False]
    rows = np.array(x[19] - weights["b_dec"])
    np.testing.assert_allclose(weights["W_dec"][0], rows / np.linalg.norm(rows), rtol=1e-5)


def test_the_dictionary_in_the_examples_is_small_and_whole(script):
    sae = mp.dictionaries.load(script.FOLDER)
    assert sum(path.stat().st_size for path in script.FOLDER.iterdir()) < 5e6
    assert (sae.n_features, sae.d_model, sae.site) == (1024, 576, script.SITE)
    values = np.array(sae.encode(mx.random.normal((1, 3, 576), key=mx.random.key(0)) * 6))
    assert np.all(np.count_nonzero(values, axis=-1) <= 16)
