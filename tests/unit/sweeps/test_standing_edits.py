"""Standing edits are in every run of a sweep: each cell equals a plain run with them and its own edits behind them."""

from itertools import product

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.models.llama import Model, ModelArgs
from rounding import skips

import mlx_patch as mp
from mlx_patch import Ablate, Add, Apply, Replace, Scale
from mlx_patch.errors import FileError, KindError, PatchError, SelectionError
from mlx_patch.metrics import GenerateMatches, LogProb, SequenceLogProb
from mlx_patch.sweeps import pieces_of, windows

pytestmark = pytest.mark.slow

METRIC = LogProb(3)
OTHER = mx.array([[5, 90, 33, 27, 17, 71, 2, 64]])
LENGTH, LAYERS = 8, 3


def cumulative(activation, site):
    return 0.5 * mx.cumsum(activation, axis=1)


def uniform(pattern, site):
    return mx.full(pattern.shape, 1 / pattern.shape[-1])


STANDING = {
    "noise at the subject": [Ablate("noise", scale=3.0).at("embed", pos=[2, 3])],
    "one position": [Scale(2.0).at("mlp_out", layer=1, pos=3)],
    "all positions": [Scale(2.0).at("mlp_out", layer=1)],
    "a head": [Ablate("zero").at("z", layer=2, head=1)],
    "positions that straddle": [Scale(-3.0).at("resid_post", layer=1, pos=[1, 7])],
    "the entrance of a block": [Scale(2.0).at("resid_pre", layer=1), Scale(0.3).at("resid_post", layer=0, pos=5)],
    "every block": [Add(mx.full((64,), 0.5)).at("resid_post")],
    "what reads all positions": [Apply(cumulative).at("mlp_out", layer=2)],
    "between mixer and MLP": [Scale(2.0).at("resid_mid", layer=1), Ablate("noise").at("resid_mid", layer=2, pos=4)],
    "the final norm": [Scale(2.0).at("final_norm", pos=-1), Scale(2.0).at("embed", pos=2)],
    "patterns": [Ablate("zero").at("pattern", layer=1, pos=4), Scale(0.5).at("pattern", layer=2)],
    "a query that sees all keys": [Apply(uniform).at("pattern", layer=1, pos=1)],
    "what reads all positions at one": [Ablate("noise", scale=5.0).at("resid_post", layer=1, pos=1)],
    "raw paths": [
        Scale(2.0).at("model.layers.1:input"),
        Scale(0.5).at("model.layers.1.mlp.down_proj:output"),
        Scale(2.0).at("model.norm:input"),
    ],
}
"""Standing edits by what is special about them."""


@pytest.fixture(scope="module")
def other(tiny):
    return tiny().run_with_cache(OTHER, sites=lambda site: True)[1]


@pytest.fixture(scope="module")
def cells(other):
    """Cells at all kinds of places: at each site, layer and position, two edits at once, and whole sequences."""
    sites = ("resid_pre", "attn_out", "resid_mid", "mlp_out", "resid_post")
    cells = [[Replace(other).at(*place, pos=pos)] for place, pos in product(product(sites, range(LAYERS)), (0, 3, -1))]
    cells += [[Scale(1.5).at("z", layer=layer, head=2)] for layer in range(LAYERS)]
    cells += [
        [Scale(0.5).at("final_norm", pos=-1)],
        [Replace(other).at("embed", pos=2)],
        [Scale(2.0).at("resid_pre", layer=1, pos=4), Scale(0.5).at("resid_post", layer=0, pos=4)],
        [Replace(other).at("resid_post", layer=1)],
    ]
    return cells


def by_hand(model, tokens, standing, cells, metric=METRIC):
    """Each cell as one plain run, and the run with the standing edits alone."""
    values = np.array([mp.measure(model, tokens, metric, [*standing, *cell]) for cell in cells])
    return values, mp.measure(model, tokens, metric, standing)


def equal(model, tokens, standing, cells, executor="auto", metric=METRIC, **more):
    """The result of a sweep, once it has been found equal to plain runs."""
    result = mp.sweep(model, tokens, over=cells, edits=standing, metric=metric, executor=executor, **more)
    values, baseline = by_hand(model, tokens, standing, cells, metric)
    np.testing.assert_allclose(result.values, values, rtol=2e-5, atol=2e-5)
    np.testing.assert_allclose(result.baseline, baseline, rtol=2e-5, atol=2e-5)
    plain = mp.measure(model, tokens, metric)
    assert np.abs(baseline - plain).max() > 1e-4  # or the standing edits do nothing
    assert result.provenance["edits"] == [repr(edit) for edit in standing]
    return result


@pytest.mark.parametrize("executor", ["auto", "rows"])
@pytest.mark.parametrize("name", STANDING)
def test_every_cell_is_a_plain_run(tiny, tokens, cells, name, executor):
    result = equal(tiny(), tokens, STANDING[name], cells, executor)
    assert result.provenance["token_layers"] == result.plan.token_layers
    assert result.plan.executor == ("rows" if "raw" in name else {"auto": "grow"}.get(executor, executor))


@pytest.mark.parametrize("name", STANDING)
def test_of_a_batch_and_in_pieces(tiny, tokens, cells, name):
    batch = mx.concatenate([tokens, OTHER])
    with pieces_of(3):
        equal(tiny(), batch, STANDING[name], cells[::3])


def test_the_reference_is_plain_runs(tiny, tokens, cells):
    equal(tiny(), tokens, STANDING["noise at the subject"], cells[::4], "reference")


@pytest.mark.parametrize("executor", ["auto", "rows", "reference"])
def test_prompts_of_a_list(tiny, executor):
    prompts = [[3, 1, 4, 1, 5, 9], [2, 7, 1, 8], [1, 6, 1, 8, 0, 3]]
    standing = [Ablate("noise", scale=3.0).at("embed", pos=mp.pos.where(lambda pos, token, text: pos in (1, 2)))]
    cells = [[Scale(-2.0).at("resid_post", layer=layer, pos=pos)] for layer, pos in product(range(LAYERS), (0, 2, -1))]
    equal(tiny(), prompts, standing, cells, executor)


def test_each_prompt_with_its_own_intervention(tiny):
    model, prompts = tiny(), [[3, 1, 4, 1, 5, 9], [2, 7, 1, 8]]
    donors = [[8, 6, 7, 5, 3, 0], [9, 9, 4, 4]]
    patches = [Replace(model.run_with_cache(mx.array([donor]), sites="resid_post")[1]) for donor in donors]
    standing = [Ablate("noise", scale=3.0).at("embed", pos=1), Scale(-2.0).at("mlp_out", layer=2)]
    choices = {"at": "resid_post", "over": ("layer", "pos"), "positions": [1, -1], "metric": METRIC}
    together = mp.sweep(model, prompts, patches, edits=standing, **choices)
    for number, (prompt, patch) in enumerate(zip(prompts, patches, strict=True)):
        for layer, pos in product(range(LAYERS), (0, 1)):
            cell = patch.at("resid_post", layer=layer, pos=(1, -1)[pos])
            expected = mp.measure(model, [prompt], METRIC, [*standing, cell])
            np.testing.assert_allclose(together.values[layer, pos, number], expected[0], atol=2e-5)


def test_windows_of_layers(tiny, tokens, other):
    model, standing = tiny(), STANDING["noise at the subject"]
    layers = windows(range(LAYERS), 2)
    choices = {"at": "mlp_out", "over": ("layer", "pos"), "positions": [2, 5], "metric": METRIC}
    result = mp.sweep(model, tokens, Replace(other), layers=layers, edits=standing, **choices)
    for (row, window), (column, pos) in product(enumerate(layers), enumerate((2, 5))):
        edits = [*standing, Replace(other).at("mlp_out", layer=window, pos=pos)]
        np.testing.assert_allclose(result.values[row, column], mp.measure(model, tokens, METRIC, edits), atol=2e-5)


@pytest.mark.parametrize("name", ["noise at the subject", "all positions", "what reads all positions", "patterns"])
def test_answers_of_several_tokens(tiny, tokens, cells, name):
    metric = SequenceLogProb([7, 12, 9])
    equal(tiny(), tokens, STANDING[name], cells[::5], metric=metric)


@pytest.mark.parametrize("name", ["noise at the subject", "one position", "all positions", "what reads all positions"])
def test_generated_text(tiny, tokens, cells, name, word_tokenizer):
    model = mp.HookedModel(tiny().model, word_tokenizer)
    metric, standing = GenerateMatches(r"w\d*[02468]\b", max_tokens=2), STANDING[name]
    chosen = cells[::6]
    result = mp.sweep(model, tokens, over=chosen, edits=standing, metric=metric)
    values, baseline = by_hand(model, tokens, standing, chosen, metric)
    np.testing.assert_array_equal(result.values, values)
    np.testing.assert_array_equal(result.baseline, baseline)
    assert result.provenance["token_layers"] <= result.plan.token_layers + result.plan.written


@pytest.mark.parametrize("executor", ["auto", "rows", "reference"])
def test_standing_edits_come_first(tiny, tokens, executor):
    """At one place a cell's edit reads what the standing ones left, and not the other way about."""
    standing = [Add(mx.full((64,), 2.0)).at("resid_post", layer=1, pos=3)]
    cells = [[Scale(-3.0).at("resid_post", layer=1, pos=3)], [Scale(-3.0).at("resid_pre", layer=2, pos=3)]]
    result = equal(tiny(), tokens, standing, cells, executor)
    backwards = mp.measure(tiny(), tokens, METRIC, [*cells[0], *standing])
    assert np.abs(result.values[0] - backwards).max() > 1e-4


def test_only_what_changes_the_edited_run_runs(tiny, tokens):
    model, standing = tiny(), [Scale(-2.0).at("resid_post", layer=0, pos=5)]
    plain = model.run_with_cache(tokens, sites="resid_post")[1]
    edited = model.run_with_cache(tokens, sites="resid_post", edits=standing)[1]
    cells = [[Replace(cache).at("resid_post", layer=1, pos=pos)] for cache in (plain, edited) for pos in (2, 5)]
    result = equal(model, tokens, standing, cells)
    assert skips(result, 3)  # of the plain run, position 5 differs
    assert result.values[1] != result.baseline


def test_the_prefix_is_shared(tiny, tokens):
    """Rows do not run through what standing edits alone change: the cost is that of a sweep without any."""
    choices = {"at": "resid_post", "over": ("layer", "pos"), "metric": METRIC}
    without = mp.plan(tiny(), tokens, Scale(0.5), **choices)
    planned = mp.plan(tiny(), tokens, Scale(0.5), edits=STANDING["noise at the subject"], **choices)
    assert planned.token_layers == without.token_layers == planned.minimum
    assert "standing edits: 1, in every run and in the unpatched ones" in str(planned)
    assert "standing" not in str(without)


def test_the_cost_of_causal_tracing():
    """Seven windows at each of 10 positions of a model of 30 layers, as the page on causal tracing says."""
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2, "vocab_size": 96}
    raw = Model(ModelArgs(model_type="llama", num_hidden_layers=30, rms_norm_eps=1e-5, **sizes))
    model, prompt = mp.HookedModel(raw), mx.arange(10)[None]
    clean = model.run_with_cache(prompt, sites="mlp_out")[1]
    layers = [tuple(range(first, first + 10)) for first in range(0, 21, 3)]
    noise = Ablate("noise", scale=3.0).at("embed", pos=[2, 3])
    choices = {"at": "mlp_out", "over": ("layer", "pos"), "layers": layers, "metric": METRIC}
    planned = mp.plan(model, prompt, Replace(clean), edits=[noise], **choices)
    assert (planned.reference, planned.token_layers, planned.minimum) == (21_300, 8_385, 8_385)


def test_a_checkpoint_is_of_its_standing_edits(tiny, tokens, tmp_path):
    path = tmp_path / "night.npz"
    choices = {"at": "resid_post", "metric": METRIC, "checkpoint": path}
    standing = STANDING["noise at the subject"]
    first = mp.sweep(tiny(), tokens, Scale(0.5), edits=standing, **choices)
    again = mp.sweep(tiny(), tokens, Scale(0.5), edits=standing, **choices)
    np.testing.assert_array_equal(first.values, again.values)
    for edits in ([], [*standing, *STANDING["one position"]], [Ablate("noise", scale=2.0).at("embed", pos=[2, 3])]):
        with pytest.raises(FileError, match=r"standing edits"):
            mp.sweep(tiny(), tokens, Scale(0.5), edits=edits, **choices)


@pytest.mark.parametrize("precision", ["bfloat16", "4bit"])
def test_in_coarser_precision(tiny, tokens, precision):
    model, standing = tiny("llama", precision), STANDING["noise at the subject"]
    cells = [[Scale(-2.0).at("resid_post", layer=layer, pos=pos)] for layer, pos in product(range(LAYERS), (3, -1))]
    fast = mp.sweep(model, tokens, over=cells, edits=standing, metric=METRIC)
    plain = mp.sweep(model, tokens, over=cells, edits=standing, metric=METRIC, executor="reference")
    np.testing.assert_allclose(fast.values, plain.values, atol=0.05)
    np.testing.assert_allclose(fast.baseline, plain.baseline, atol=0.05)


REFUSED = [
    (KindError, r"`edits` must hold edits, which `\.at\(\.\.\.\)` makes\. Got Scale", [Scale(2.0)]),
    (KindError, r"`edits` must not use `during`", [Scale(2.0).at("z").during(mp.steps.generated)]),
    (SelectionError, r"`pos` must choose a position of this prompt", [Scale(2.0).at("z", pos=slice(9, None))]),
    (PatchError, r"`layer` must lie in", [Scale(2.0).at("z", layer=9)]),
]


@pytest.mark.parametrize(("error", "message", "standing"), REFUSED)
def test_what_cannot_stand_is_refused(tiny, tokens, error, message, standing):
    for verb in (mp.sweep, mp.plan):
        with pytest.raises(error, match=message):
            verb(tiny(), tokens, Scale(0.5), at="resid_post", metric=METRIC, edits=standing)
