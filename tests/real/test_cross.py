"""Activations of SmolLM2 in other models: its own first layers as a model, and itself with an adapter."""

from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten
from mlx_lm.models import llama

import mlx_patch as mp
from mlx_patch.errors import ValueRefusedError

pytestmark = pytest.mark.real

ADAPTER = Path(__file__).parents[2] / "examples" / "models" / "smollm2_d1_adapter"
PROMPT = "The capital of France is"
PARIS = mp.metrics.LogProb(" Paris")
TEXTS = (
    "In the beginning there was nothing but water, and over the water a wind that never rested.",
    "The committee will meet on Tuesday at nine o'clock to discuss the budget for the coming year.",
    "def add(a, b):\n    return a + b\n\nprint(add(2, 3))  # five, as everybody knows",
    "Water boils at one hundred degrees at sea level, and at fewer on a high mountain.",
    "She packed bread, cheese, two apples and a knife, and left before the others were awake.",
    "Photosynthesis turns light, carbon dioxide and water into sugar and oxygen in green leaves.",
)


@pytest.fixture(scope="module")
def two_layers(smollm2):
    """The first two blocks of SmolLM2 with its embedding, norm and unembedding."""
    whole = smollm2.model
    model = llama.Model(replace(whole.args, num_hidden_layers=2, layer_types=whole.args.layer_types[:2]))
    names = {name for name, _ in tree_flatten(model.parameters())}
    model.load_weights([(name, array) for name, array in tree_flatten(whole.parameters()) if name in names])
    return mp.HookedModel(model, smollm2.tokenizer)


def test_the_last_stream_of_a_deeper_model_makes_its_answer(smollm2, two_layers):
    """A block for a block of the same weights changes nothing; the donor's last stream, read alike, is its answer."""
    with pytest.raises(ValueRefusedError, match=r"n_layers|layers"):
        mp.cross_patch(two_layers, smollm2, PROMPT, metric=PARIS)
    same = mp.cross_patch(two_layers, smollm2, PROMPT, metric=PARIS, layer_map=mp.LayerMap([(0, 0), (1, 1)]))
    np.testing.assert_allclose(same.values[:, 0], same.baseline[0], atol=1e-4)
    last = mp.cross_patch(two_layers, smollm2, PROMPT, metric=PARIS, layer_map=mp.LayerMap([(1, 29)]))
    wanted = mp.measure(smollm2, PROMPT, PARIS)[0]
    assert last.values[0, 0] == pytest.approx(wanted, abs=1e-3)
    assert wanted > last.baseline[0] + 3
    between = mp.cross_patch(two_layers, smollm2, PROMPT, metric=PARIS, layer_map=mp.LayerMap([(1, 15)]))
    assert between.values[0, 0] < wanted - 1


@pytest.fixture(scope="module")
def elsewhere(two_layers):
    """The same function in other coordinates: the stream's are shuffled, and three times as long."""
    order, model = mx.random.permutation(576, key=mx.random.key(0)), llama.Model(two_layers.model.args)
    weights = dict(tree_flatten(two_layers.model.parameters()))
    for name, array in weights.items():
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            weights[name] = 3 * array[order]
        else:
            weights[name] = (3 if "embed" in name else 1) * mx.take(array, order, axis=-1)
    model.load_weights(list(weights.items()))
    return mp.HookedModel(model, two_layers.tokenizer)


def test_a_learnt_map_takes_a_stream_into_other_coordinates(two_layers, elsewhere):
    prompts = [two_layers.tokenize(text * 8)[0].tolist() for text in TEXTS]
    maps = mp.cross.fit_maps(two_layers, elsewhere, prompts, layer_map=mp.LayerMap([(0, 0)]))
    assert maps[0].rows > two_layers.d_model
    assert maps[0].r2 > 0.999
    metric = mp.metrics.KL(two_layers.run(two_layers.tokenize(PROMPT), logits_at=-1))
    ask = {"metric": metric, "layer_map": mp.LayerMap([(0, 0)])}
    bare = mp.cross_patch(two_layers, elsewhere, PROMPT, **ask, positions=slice(1, None))
    mapped = mp.cross_patch(two_layers, elsewhere, PROMPT, linear_map=maps, **ask, positions=slice(1, None))
    assert bare.values[0, 0] > 1
    assert mapped.values[0, 0] < 0.01 * bare.values[0, 0]


def test_the_2_x_2_of_a_model_and_its_adapter(smollm2):
    other = smollm2.with_adapter(ADAPTER)
    crossed = mp.two_by_two(smollm2, other, PROMPT, PARIS, layers=[0, 29])
    base, tuned = (mp.measure(model, PROMPT, PARIS)[0] for model in (smollm2, other))
    assert abs(base - tuned) > 0.1
    np.testing.assert_allclose(crossed.cells[:, 0, 0, 0], base, atol=1e-4)
    np.testing.assert_allclose(crossed.cells[:, 1, 1, 0], tuned, atol=1e-4)
    # The adapter leaves the unembedding as it is: above the last block there is nothing of either.
    np.testing.assert_allclose(crossed.cells[1, :, 0], crossed.cells[1, :, 1], atol=1e-4)
    assert abs(crossed.cells[0, 1, 0] - crossed.cells[0, 1, 1]) > 0.01
