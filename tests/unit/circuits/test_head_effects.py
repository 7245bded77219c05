"""Three effects of each head, against single runs and sums written out."""

import mlx.core as mx
import numpy as np
import pytest

import mlx_patch as mp
from mlx_patch.errors import ArchitectureError, MissingSiteError, SelectionError

HOST = mx.array([[11, 48, 85, 26, 63, 4], [5, 9, 2, 77, 31, 60]])
SOURCE = mx.array([[11, 48, 12, 26, 63, 4], [5, 9, 2, 71, 31, 60]])
METRIC = mp.metrics.LogitDiff(7, 30)


def effects_of(model, **choices):
    _, cache = model.run_with_cache(SOURCE, "z")
    return cache, mp.circuits.head_effects(model, HOST, cache, 7, 30, **choices)


@pytest.mark.parametrize(
    ("name", "precision"),
    [
        *((name, "float32") for name in ("llama", "gemma2", "granite", "cohere", "mixtral", "qwen3_next", "falcon_h1")),
        *((name, "4bit") for name in ("llama", "gemma2", "cohere", "qwen3_moe")),
    ],
)
def test_each_effect_is_what_it_says(tiny, name, precision):
    """On plain blocks, and with post-norms, multipliers, parallel parts, experts and mixers without heads.

    The lens is read beside it: no line differs by family.
    """
    model = tiny(name, precision)
    assert mp.lens.logit_lens(model, HOST).kl()[-1].max() < 1e-5
    cache, found = effects_of(model)
    before = np.array(METRIC(model.run(HOST)))
    np.testing.assert_allclose(found.baseline, before, atol=1e-5)
    for layer, head in ((found.layers[0], 1), (found.layers[-1], 0)):
        edit = mp.Replace(cache).at("z", layer=layer, head=head)
        row = found.layers.index(layer)
        total = np.array(METRIC(model.run(HOST, edit))) - before
        np.testing.assert_allclose(found.total[row, head], total, atol=1e-4)
        path = np.array(METRIC(model.run(HOST, mp.paths.edits_of(model, HOST, edit.via("logits"))))) - before
        np.testing.assert_allclose(found.direct[row, head], path, atol=1e-4)
    written = [mp.lens.direct_logits(model, tokens, 7, 30, by="head").values for tokens in (SOURCE, HOST)]
    np.testing.assert_allclose(found.attributed, written[0] - written[1], atol=1e-6)


def test_heads_of_the_last_parallel_block_have_no_other_way(tiny):
    """Where its own MLP does not read it, its direct effect is its total effect."""
    model = tiny("gpt_neox-parallel")
    _, found = effects_of(model)
    np.testing.assert_allclose(found.direct[-1], found.total[-1], atol=1e-5)
    assert np.abs(found.direct[0] - found.total[0]).max() > 1e-4


def test_layers_and_freeze_are_the_caller_s(tiny):
    _, some = effects_of(tiny(), layers=[2], freeze="attention")
    _, whole = effects_of(tiny(), freeze="attention")
    assert some.layers == (2,)
    for kind in ("attributed", "direct", "total"):
        np.testing.assert_allclose(getattr(some, kind)[0], getattr(whole, kind)[2], atol=1e-5)


def test_the_table_has_the_strongest_heads_first(tiny):
    _, found = effects_of(tiny())
    sizes = [abs(found.total[layer, head].mean()) for layer, head in found.strongest(5)]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] == np.abs(found.total.mean(axis=-1)).max()
    layer, head = found.strongest(1)[0]
    line = str(found).splitlines()[1].split()
    assert line[0] == f"{layer}.{head}"
    numbers = [getattr(found, kind)[layer, head].mean() for kind in ("attributed", "direct", "total")]
    np.testing.assert_allclose([float(number) for number in line[1:]], numbers, atol=6e-4)
    assert repr(found) == "HeadEffects(3 layers, 4 heads, 2 examples)"


def test_the_picture_has_a_point_for_each_head(tiny):
    _, found = effects_of(tiny())
    axes = found.plot()
    points = axes.collections[0].get_offsets()
    np.testing.assert_allclose(points[:, 0], found.direct.mean(axis=-1).ravel())
    np.testing.assert_allclose(points[:, 1], found.total.mean(axis=-1).ravel())
    circles = axes.collections[1].get_offsets()
    np.testing.assert_allclose(circles[:, 0], found.attributed.mean(axis=-1).ravel())
    np.testing.assert_allclose(circles[:, 1], found.total.mean(axis=-1).ravel())
    layer, head = found.strongest(1)[0]
    assert f"{layer}.{head}" in [text.get_text() for text in axes.texts]
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels == ["equal", "direct, exact", "attributed"]


def test_what_means_nothing_is_refused(tiny):
    _, found = effects_of(tiny())
    with pytest.raises(SelectionError, match="`by` must be one of attributed, direct, total"):
        found.strongest(by="indirect")
    with pytest.raises(MissingSiteError, match="no softmax attention"):
        mp.circuits.head_effects(tiny("mamba"), HOST, mp.ActivationCache({}, SOURCE, range(6), 6), 7, 30)
    with pytest.raises(ArchitectureError, match="layer_scalar"):
        mp.circuits.head_effects(tiny("gemma4_text"), HOST, mp.ActivationCache({}, SOURCE, range(6), 6), 7, 30)
