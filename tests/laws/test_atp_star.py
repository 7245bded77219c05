"""Law 11 of `atp*`: on every architecture it has the derivative of the gradient, and is 0 for the same prompt."""

import os

import mlx.core as mx
import numpy as np
import pytest

import mlx_patch as mp
from mlx_patch.attribution import _atp_star, _projections
from mlx_patch.errors import ArchitectureError
from mlx_patch.testing import EXCEPTIONS, ZOO

SITES = ("q", "rot_q", "k", "rot_k")
NOT_RUN = {
    "afm7": "rounded to 8 bits",
    "deepseek_v41": "rounded to 8 bits",
    "recurrent_gemma": "is not a number",
    "iquestloopcoder": r"`method` must be 'gradient' at .*keys of an earlier walk",
}
WITHOUT_SOFTMAX = ("mamba", "mamba-falcon", "mamba2", "rwkv7")
RUN = [name for name in ZOO if name not in (*EXCEPTIONS, *NOT_RUN, *WITHOUT_SOFTMAX)]
SOME = RUN if os.environ.get("EVERY_MODEL") else RUN[::3]
CLIPPED = {"dbrx": ("rot_q", "rot_k")}
"""Where `q` and `k` are clipped, at a bend: the sites behind it."""
TOKENS = mx.array([[(11 + 37 * i) % 96 for i in range(8)]])
OTHER = mx.array([[(3 + 29 * i) % 96 for i in range(8)]])
METRIC = mp.metrics.LogitDiff(3, 5)
STEP = 0.01
PLACES = ({}, {"head": 0}, {"pos": 3}, {"pos": [2, 5], "head": -1})


def cells_of(model, name, source, factor):
    """Cells at each site: two places in the first layer that has it, and two in the last."""
    cells = []
    intervention = mp.Interpolate(source, factor)
    for site_name in CLIPPED.get(name, SITES):
        layers = [site.layer for site in model.sites if site.name == site_name]
        if not layers:
            continue
        for number, place in enumerate(PLACES):
            layer = layers[-(number % 2)]
            cells.append(intervention.at(site_name, layer=layer, **place))
    return cells


def effects_of(model, name, source, factor, method):
    estimate = mp.attribute(model, TOKENS, over=cells_of(model, name, source, factor), metric=METRIC, method=method)
    return (estimate.values - estimate.baseline)[:, 0]


@pytest.mark.parametrize("name", SOME)
def test_it_has_the_derivative_of_the_gradient(tiny, name):
    model = tiny(name)
    _, source = model.run_with_cache(OTHER, [site for site in model.sites if site.name in SITES])
    tangents = effects_of(model, name, source, 1.0, "gradient")
    above, below = (effects_of(model, name, source, factor, "atp*") for factor in (STEP, -STEP))
    size = np.abs(tangents).max()
    assert size > 1e-3
    # A central difference is off by the third derivative times the step squared, and by rounding over the step.
    np.testing.assert_allclose((above - below) / (2 * STEP), tangents, atol=0.01 * size)


@pytest.mark.parametrize("name", SOME)
def test_the_same_prompt_gives_exactly_nothing(tiny, name):
    model = tiny(name)
    _, source = model.run_with_cache(TOKENS, [site for site in model.sites if site.name in SITES])
    cells = [mp.Replace(source).at(site) for site in dict.fromkeys(site.name for site in source)]
    cells += [cell.intervention.at(cell.site, pos=4) for cell in cells]
    estimate = mp.attribute(model, TOKENS, over=cells, metric=METRIC, method="atp*")
    assert (estimate.values == estimate.baseline).all()


@pytest.mark.parametrize("name", NOT_RUN)
def test_what_it_cannot_run_is_refused_with_the_reason(tiny, name):
    with pytest.raises(ArchitectureError, match=NOT_RUN[name]):
        mp.attribute(tiny(name), TOKENS, mp.Ablate("zero"), at="q", layers=[1], metric=METRIC, method="atp*")


def own_layer_alone(layout, sites):
    return list(layout.select("pattern", tuple(sorted({site.layer for site in sites}))))


def neighbours_share(softmax, by_head, change):
    *leading, _, length = by_head.shape
    grouped = by_head.reshape(*leading, change.value.shape[2], -1, length)
    return grouped.sum(axis=-2).swapaxes(-1, -2)[..., None]


FAULTS = {
    "hunyuan": (_atp_star, "_patterns_of", own_layer_alone),
    "plamo": (_projections._Softmax, "_by_kv_head", neighbours_share),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_turns_it_red(tiny, monkeypatch, name):
    """Layers that read the keys of another are left out; KV heads are those of neighbours."""
    monkeypatch.setattr(*FAULTS[name])
    with pytest.raises(AssertionError, match="Not equal"):
        test_it_has_the_derivative_of_the_gradient(tiny, name)
