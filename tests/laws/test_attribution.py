"""Law 11 of `attribute`: on every architecture an estimate is the derivative of the same cell of a sweep."""

import os
import warnings
from contextlib import contextmanager
from dataclasses import dataclass

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.tuner.lora import LoRALinear
from mlx_lm.tuner.utils import linear_to_lora_layers
from scaled import Scaled

import mlx_patch as mp
from mlx_patch.architectures import more_than_stream
from mlx_patch.attribution import _attribute, _effects, _gradients
from mlx_patch.errors import ArchitectureError, KindError, OutlierPositionWarning
from mlx_patch.testing import EXCEPTIONS, ZOO, tiny_model

NOT_DIFFERENTIABLE = {
    "afm7": "AFM 7's keys and values, which are rounded to 8 bits",
    "deepseek_v41": "DeepSeek V4.1's keys and values, which are rounded to 8 bits",
    "recurrent_gemma": "is not a number",
}
RUN = [name for name in ZOO if name not in EXCEPTIONS and name not in NOT_DIFFERENTIABLE]
TOKENS = mx.array([[(11 + 37 * i) % 96 for i in range(8)]])
OTHER = mx.array([[(3 + 29 * i) % 96 for i in range(8)]])
METRIC = mp.metrics.LogitDiff(3, 5)
STEPS = (0.004, 0.002)
LONG_STEPS = (0.1, 0.05)
"""Where a model rounds to half types inside, which hides short ones."""
ROUNDING = 5e-6
"""What a metric of 1 may be off by, in float32."""


def cells_of(model, source, factor=None):
    """One cell a site, in the middle layer that has it, with one of six interventions; its change may be scaled."""
    last = model.n_layers - 1
    project = mp.Project(mx.cos(mx.arange(source["resid_pre", last].shape[-1])))
    chain = mp.Replace(source) | mp.Scale(0.5)
    interventions = [mp.Replace(source), mp.Ablate("zero"), mp.Ablate("mean"), mp.Scale(0.5), chain]
    chosen = []
    for number, name in enumerate(dict.fromkeys(site.name for site in model.sites)):
        layers = [site.layer for site in model.sites if site.name == name]
        by_key = name in ("attn_scores", "pattern")
        intervention = interventions[0 if by_key else number % len(interventions)]
        chosen.append((intervention, name, layers[len(layers) // 2]))
    chosen.append((project, "resid_pre", last))
    cells = []
    for intervention, name, layer in chosen:
        member = intervention if factor is None else Scaled(intervention, factor)
        cells.append(member.at(name, layer=layer))
    return cells


@dataclass(frozen=True)
class Slopes:
    """Derivatives of cells by differences, and how far each may be off."""

    values: np.ndarray
    bend: np.ndarray
    is_smooth: np.ndarray


def slopes_of(model, source, baseline, steps):
    """Central differences with two steps, extrapolated to no step.

    Where the two steps disagree, another expert was chosen, or a window's edge crossed: such cells say nothing.
    """
    slopes, bends = [], []
    for step in steps:
        above, below = (
            mp.sweep(model, TOKENS, over=cells_of(model, source, factor), metric=METRIC, progress=False).values[:, 0]
            for factor in (step, -step)
        )
        slopes.append((above - below) / (2 * step))
        bends.append(np.abs(above + below - 2 * baseline) / (2 * step))
    coarse, fine = slopes
    size = 0.05 * np.abs(fine).max()
    rounding = ROUNDING * max(1.0, float(np.abs(baseline))) / steps[1]
    agree = np.abs(coarse - fine) <= 0.05 * np.maximum(np.abs(fine), size) + rounding
    is_smooth = agree & (bends[1] <= bends[0] + rounding)  # of a jump the bend grows where the step shrinks
    return Slopes(fine + (fine - coarse) / 3, bends[1], is_smooth)


@pytest.mark.parametrize("name", RUN)
def test_an_estimate_is_the_derivative_of_the_cell(tiny, name):
    model = tiny(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", OutlierPositionWarning)
        _, source = model.run_with_cache(OTHER, sites=model.sites)
        estimate = mp.attribute(model, TOKENS, over=cells_of(model, source), metric=METRIC)
        steps = LONG_STEPS if model.layout.family.rounds else STEPS
        slopes = slopes_of(model, source, estimate.baseline[0], steps)
    found = (estimate.values - estimate.baseline)[:, 0]
    assert np.isfinite(found).all()
    size = np.abs(slopes.values).max()
    assert size > 0.1
    if model.layout.family.rounds:  # to half types inside, so that small steps are lost in it
        assert np.corrcoef(found, slopes.values)[0, 1] > 0.9
        return
    rounding = ROUNDING * max(1.0, float(np.abs(estimate.baseline).max())) / STEPS[1]
    allowed = 0.02 * np.maximum(np.abs(slopes.values), 0.05 * size) + slopes.bend + rounding
    wrong = (np.abs(found - slopes.values) > allowed) & slopes.is_smooth
    cells = zip(estimate.coords["cell"], found, slopes.values, strict=True)
    assert not [f"{cell}: {a:.5g} for {b:.5g}" for (cell, a, b), is_wrong in zip(cells, wrong, strict=True) if is_wrong]
    assert np.count_nonzero(slopes.is_smooth) >= 0.5 * len(found)


@pytest.mark.parametrize("name", RUN)
def test_the_same_prompt_gives_exactly_nothing(tiny, name):
    model = tiny(name)
    _, source = model.run_with_cache(TOKENS, sites=model.sites)
    over = [mp.Replace(source).at(name) for name in dict.fromkeys(site.name for site in model.sites)]
    estimate = mp.attribute(model, TOKENS, over=over, metric=METRIC)
    assert (estimate.values == estimate.baseline).all()


@pytest.mark.parametrize("name", RUN if os.environ.get("EVERY_MODEL") else RUN[::3])
def test_groups_of_layers_give_the_same_to_the_last_bit(tiny, name):
    model = tiny(name)
    _, source = model.run_with_cache(OTHER, sites=model.sites)
    over = [mp.Replace(source).at(site.name, layer=site.layer) for site in model.sites]
    whole = mp.attribute(model, TOKENS, over=over, metric=METRIC)
    grouped = mp.attribute(model, TOKENS, over=over, metric=METRIC, memory=1)
    np.testing.assert_array_equal(grouped.values, whole.values)
    n_groups = 1 if more_than_stream(model.layout) else model.n_layers
    assert grouped.provenance["layer_groups"] == n_groups


@pytest.mark.parametrize("name", NOT_DIFFERENTIABLE)
def test_what_has_no_gradient_is_refused_with_the_reason(tiny, name):
    with pytest.raises(ArchitectureError, match=rf"`model` must be differentiable[\s\S]*{NOT_DIFFERENTIABLE[name]}"):
        mp.attribute(tiny(name), TOKENS, mp.Ablate("zero"), at="mlp_out", metric=METRIC)


def test_a_cut_gradient_turns_it_red(tiny, monkeypatch):
    """As where a selection on values undid an edit that changes nothing."""
    monkeypatch.setattr("mlx_patch.architectures._views.keep_bits", lambda raw, new, same: mx.where(same, raw, new))
    with pytest.raises(AssertionError, match=r"attn_out|mixer_out|mlp_out"):
        test_an_estimate_is_the_derivative_of_the_cell(tiny, "granite")


def test_a_wrong_sign_turns_it_red(tiny, monkeypatch):
    product = _effects._product
    monkeypatch.setattr(_effects, "_product", lambda gradient, new: -product(gradient, new))
    with pytest.raises(AssertionError, match="for "):
        test_an_estimate_is_the_derivative_of_the_cell(tiny, "llama")


def test_host_and_source_exchanged_turn_it_red(tiny, monkeypatch):
    make = _attribute.make_experiment
    monkeypatch.setattr(_attribute, "make_experiment", lambda model, tokens, *rest: make(model, OTHER, *rest))
    with pytest.raises(AssertionError):
        test_an_estimate_is_the_derivative_of_the_cell(tiny, "llama")


def test_what_a_table_forgets_that_blocks_share_turns_it_red(tiny, monkeypatch):
    monkeypatch.setattr("mlx_patch.attribution._layer_groups.more_than_stream", lambda layout: "")
    with pytest.raises(AssertionError):
        test_groups_of_layers_give_the_same_to_the_last_bit(tiny, "hunyuan")


def test_a_missing_multiplier_turns_it_red(tiny, monkeypatch):
    """As where a change enters on the other side of what multiplies an attention's output."""
    adding, multiplier = _gradients._adding, tiny("granite").model.args.residual_multiplier
    assert multiplier != 1

    def misplaced(site, delta, into):
        return adding(site, delta * multiplier if site.name == "attn_out" else delta, into)

    monkeypatch.setattr(_gradients, "_adding", misplaced)
    with pytest.raises(AssertionError, match="attn_out"):
        test_an_estimate_is_the_derivative_of_the_cell(tiny, "granite")


def test_dropout_turns_it_red(monkeypatch):
    """As where a backward pass leaves the model in training mode: the run itself refuses."""
    model, differentiable = tiny_model("llama"), _gradients.differentiable
    linear_to_lora_layers(model, len(model.layers), {"rank": 4, "scale": 10.0, "dropout": 0.5})
    for module in model.modules():
        if isinstance(module, LoRALinear):
            module.lora_b = 0.1 * mx.random.normal(module.lora_b.shape)
    model.eval()

    @contextmanager
    def training(raw):
        with differentiable(raw):
            raw.train()
            try:
                yield
            finally:
                raw.eval()

    def adapted(_):
        return mp.HookedModel(model)

    test_an_estimate_is_the_derivative_of_the_cell(adapted, "llama")
    monkeypatch.setattr(_gradients, "differentiable", training)
    with pytest.raises(KindError, match="active Dropout"):
        test_an_estimate_is_the_derivative_of_the_cell(adapted, "llama")
