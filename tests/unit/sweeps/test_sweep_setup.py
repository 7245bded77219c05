"""What a sweep refuses, each before any prompt is run; and what stands along its axes."""

import mlx.core as mx
import numpy as np
import pytest

from mlx_patch import Ablate, Add, HookedModel, Interpolate, Replace, Scale, Site
from mlx_patch.errors import (
    ArchitectureError,
    KindError,
    MissingSiteError,
    PatchError,
    SelectionError,
    ShapeError,
    TokenError,
    UnknownNameError,
    ValueRefusedError,
)
from mlx_patch.metrics import KL, LogitDiff, LogProb, Prob
from mlx_patch.sweeps import plan, sweep

DIFF, SCALE = LogitDiff(3, 4), Scale(2.0)
RAGGED = [[1, 2, 3], [4, 5]]


@pytest.fixture
def runs(tiny, monkeypatch):
    """The shapes of all tokens that a tiny llama is run on; a run of one token only shows shapes, and is left out."""
    model, shapes = tiny().model, []
    plain = type(model).__call__

    def counted(self, ids, *args, **more):
        if ids.size > 1:
            shapes.append(ids.shape)
        return plain(self, ids, *args, **more)

    monkeypatch.setattr(type(model), "__call__", counted)
    return shapes


def refused(error, message, model, tokens, **arguments):
    arguments = {"intervention": SCALE, "at": "z", "over": "layer", "metric": DIFF} | arguments
    planned = {name: value for name, value in arguments.items() if name != "progress"}
    with pytest.raises(error, match=message) as caught:
        sweep(model, tokens, **arguments)
    assert isinstance(caught.value, PatchError)
    if planned == arguments:
        with pytest.raises(error, match=message):
            plan(model, tokens, **planned)


CELL = {"over": [SCALE.at("z")], "intervention": None, "at": None}

REFUSALS = [
    # metrics
    (KindError, r"`metric` must be a metric, or several\. Got None\. Write", {"metric": None}),
    (KindError, r"`metric` must be a metric, or several\. Got an empty list\.", {"metric": []}),
    (KindError, r"`metric` must be a Metric, a function of logits, or a registered name\. Got int", {"metric": 3}),
    (UnknownNameError, r"Did you mean", {"metric": "entropyy"}),
    (ValueRefusedError, r"of different names\. Got prob\(1\), prob\(1\)\. Give them", {"metric": [Prob(1), Prob(1)]}),
    (TokenError, r"`tokenizer` must be given if `token` is text", {"metric": Prob(" Mary")}),
    (ShapeError, r"`token` must hold one answer for all or one per example, 1\. Got 2", {"metric": Prob([1, 2])}),
    (ShapeError, r"batch of 1, for one example\. Got 3", {"metric": KL(mx.zeros((3, 96)))}),
    (SelectionError, r"`pos` of prob\(1, pos=8\) must lie in -8 to 7", {"metric": Prob(1, pos=8)}),
    # interventions
    (KindError, r"`intervention` must be an Intervention\. Got None\. Write", {"intervention": None}),
    (KindError, r"an Intervention, or one per prompt\. Got 'zero'\. Write", {"intervention": "zero"}),
    (KindError, r"an Intervention, or one per prompt\. Got Scale\(2\.0\)\.at", {"intervention": SCALE.at("z")}),
    (
        ValueRefusedError,
        r"must be one intervention, or one per prompt: 1\. Got 2\. Compose several",
        {"intervention": [SCALE, SCALE]},
    ),
    (ValueRefusedError, r"must be one intervention, or one per prompt: 1\. Got 0", {"intervention": []}),
    (ValueRefusedError, r"must not hold NaN\. Got NaN", {"intervention": Add(mx.array([mx.nan]))}),
    (ShapeError, r"must have the activation's shape", {"intervention": Add(mx.zeros((7,)))}),
    (ValueRefusedError, r"`source` must be given if the run has one row", {"intervention": Ablate("resample")}),
    # sites
    (ValueRefusedError, r"`at` must be a site\. Got None\. Write at='resid_post'", {"at": None}),
    (ValueRefusedError, r"`at` must be a site\. Got None", {"at": []}),
    (KindError, r"`at` must be a site, or several\. Got 5\. Write", {"at": 5}),
    (KindError, r"`at` must be a site, or several\. Got \['z', None\]", {"at": ["z", None], "over": ("site",)}),
    (ValueRefusedError, r"`at` must name each site once\. Got z, z", {"at": ["z", "z"], "over": ("site",)}),
    (ValueRefusedError, r"`at` must be one site unless `over` has 'site'\. Got z, q\.", {"at": ["z", "q"]}),
    (UnknownNameError, r"Did you mean resid_post", {"at": "resid_pst", "over": "pos"}),
    (
        UnknownNameError,
        r"`site` must be a module's path\. Got 'model\.norms'",
        {"at": "model.norms:input", "over": "pos"},
    ),
    (SelectionError, r"must not have 'layer' at 'embed', which is not a site of blocks", {"at": "embed"}),
    (SelectionError, r"must not have 'layer' at 'blocks\.1\.attn\.hook_z'.* without its layer", {"at": Site("z", 1)}),
    (SelectionError, r"`layer` must be None if the site names it", {"at": Site("z", 1), "layers": [0]}),
    # axes
    (UnknownNameError, r"`over` must hold axes of a sweep\. Got 'layers'\. Did you mean layer", {"over": "layers"}),
    (KindError, r"`over` must be names of axes, or a list of cells\. Got dict\.", {"over": {"layer": 1}}),
    (KindError, r"`over` must be names of axes, or a list of cells\. Got Edit\.", {"over": SCALE.at("z")}),
    (KindError, r"`over` must be names of axes, or a list of cells\. Got NoneType\.", {"over": None}),
    (KindError, r"an Interpolate if `over` has 'alpha'\. Got Scale", {"over": "alpha", "alphas": [0, 1]}),
    (
        ValueRefusedError,
        r"`alphas` must be given if `over` has 'alpha'\. Got None",
        {"over": "alpha", "intervention": Interpolate(mx.zeros((32,)), 1.0)},
    ),
    (ValueRefusedError, r"`alphas` must be left out unless `over` has 'alpha'\. Got 0\.5", {"alphas": 0.5}),
    (
        SelectionError,
        r"must not have 'head' at blocks\.0\.hook_mlp_out, whose axes are",
        {"over": "head", "at": "mlp_out"},
    ),
    (SelectionError, r"must not have 'neuron' at .*hook_pattern, whose axes are", {"over": "neuron", "at": "pattern"}),
    (
        SelectionError,
        r"`heads` must be given at lm_head:input, whose axes are unknown",
        {"over": "head", "at": "lm_head:input"},
    ),
    (SelectionError, r"`neurons` must be given at lm_head:input", {"over": "neuron", "at": "lm_head:input"}),
    # choices
    (SelectionError, r"`layers` must lie in -3 to 2\. Got 3\.", {"layers": [0, 3]}),
    (SelectionError, r"`layers` must lie in -3 to 2\. Got -4\.", {"layers": [(0, -4)]}),
    (SelectionError, r"`layers` must not name anything twice\. Got \[2, -1\]", {"layers": [2, -1]}),
    (SelectionError, r"`layers` must hold ints, or groups of ints", {"layers": ["0"]}),
    (SelectionError, r"`positions` must lie in -8 to 7\. Got 8\.", {"over": "pos", "positions": [8]}),
    (SelectionError, r"`positions` must not name anything twice", {"over": "pos", "positions": [(0, 7), (0, -1)]}),
    (SelectionError, r"must not name anything twice", {"over": "pos", "positions": [(7, -1)]}),
    (SelectionError, r"`pos` must not name anything twice", {"positions": [(1, 2), 2]}),
    (SelectionError, r"must choose something", {"layers": [()]}),
    (SelectionError, r"`layers` must choose something\. Got slice\(9, None, None\)", {"layers": slice(9, None)}),
    (SelectionError, r"`head` must lie in -4 to 3\. Got 4\.", {"over": "head", "heads": [4]}),
    (SelectionError, r"`neuron` must lie in -32 to 31\. Got 32\.", {"over": "neuron", "neurons": [32]}),
    (SelectionError, r"`heads` must not name anything twice\. Got \[-1, 3\]", {"over": "head", "heads": [-1, 3]}),
    (SelectionError, r"`heads` must not name anything twice", {"over": "head", "heads": [(3, -1)]}),
    (SelectionError, r"`heads` must not name anything twice", {"over": "head", "heads": [(0, -1), (3, 0)]}),
    (SelectionError, r"`heads` must lie in -4 to 3\. Got -5\.", {"over": ("layer", "head"), "heads": [-5]}),
    (SelectionError, r"`heads` must choose something\. Got \[\(\)\]", {"over": "head", "heads": [()]}),
    (
        SelectionError,
        r"`heads` must not name anything twice\. Got \[-1, 1\]",  # of two KV heads; of four query heads they differ
        {"over": ("site", "head"), "at": ["k", "z"], "heads": [-1, 1]},
    ),
    (SelectionError, r"`neurons` must not name anything twice", {"over": "neuron", "neurons": [-1, 31]}),
    (
        SelectionError,
        r"`neurons` must not name anything twice",
        {"over": "neuron", "at": "model.layers.0.mlp:output", "neurons": [0, -64]},
    ),
    (ValueRefusedError, r"`at` must name each site once", {"over": "site", "at": ["z.0", "blocks.0.attn.hook_z"]}),
    # cells
    (ValueRefusedError, r"`over` must name axes, or hold cells\. Got an empty list\.", {"over": []}),
    (KindError, r"`over` must hold names of axes, or cells: .* Got 'layer'\.", {"over": ["layer", {"layer": 1}]}),
    (KindError, r"`over` must hold names of axes, or cells: .* Got \[\]\.", {"over": [{"layer": 1}, []]}),
    (KindError, r"`over` must hold names of axes, or cells: .* Got 3\.", {"over": [{"layer": 1}, 3]}),
    (
        KindError,
        r"`intervention` must be an Intervention if `over` holds dicts\. Got None",
        {"over": [{"layer": 1}], "intervention": None},
    ),
    (UnknownNameError, r"dicts of what `\.at` takes\. Got 'layers' in .*Did you mean layer", {"over": [{"layers": 1}]}),
    (ValueRefusedError, r"`at` must be a site if a cell has none", {"over": [{"layer": 1}], "at": None}),
    (
        ValueRefusedError,
        r"`intervention` must be left out if every cell .* Got Scale",
        CELL | {"intervention": SCALE},
    ),
    (ValueRefusedError, r"`at` must be left out if every cell .* Got 'z'", CELL | {"at": "z"}),
    (ValueRefusedError, r"`layers` must be left out if `over` holds cells\. Got 1\.", CELL | {"layers": 1}),
    (ValueRefusedError, r"`alphas` must be left out if `over` holds cells", CELL | {"alphas": [1]}),
    (SelectionError, r"`pos` must lie in -8 to 7, the 8 positions\. Got 9\.", {"over": [{"layer": 1, "pos": 9}]}),
    (SelectionError, r"`batch` must lie in -1 to 0\. Got 1\.", {"over": [{"layer": 1, "batch": 1}]}),
    # how it is run
    (UnknownNameError, r"`executor` must be the name of an executor\. Got 'fast'", {"executor": "fast"}),
    (
        ArchitectureError,
        r"Got 'grow', but a cell edits a module whose block is unknown\. Use 'auto'",
        {"executor": "grow", "at": "lm_head:input", "over": "pos"},
    ),
    (ValueRefusedError, r"`memory` must be 1 byte or more\. Got 0\.", {"memory": 0}),
    (KindError, r"`memory` must be a whole number of bytes", {"memory": 1.5}),
    (KindError, r"`progress` must be a function", {"progress": "bar"}),
]


@pytest.mark.parametrize(("error", "message", "arguments"), REFUSALS)
def test_it_is_refused_before_a_prompt_is_run(tiny, tokens, runs, error, message, arguments):
    refused(error, message, tiny(), tokens, **arguments)
    assert runs == []


RAGGED_REFUSALS = [
    (ValueRefusedError, r"`positions` must be given if prompts differ in length\. Got None", {"over": "pos"}),
    (SelectionError, r"`positions` must lie in -2 to 1\. Got 2\.", {"positions": [2]}),
    (SelectionError, r"`positions` must not name anything twice", {"positions": [0, -2]}),
    (SelectionError, r"`positions` must not name anything twice", {"over": "pos", "positions": [-2, 1]}),
    (SelectionError, r"`pos` of prob.* must lie in -2 to 1", {"metric": Prob(1, pos=2)}),
    (ShapeError, r"one per example, 2\. Got 3 answers", {"metric": Prob([1, 2, 3])}),
    (ShapeError, r"must have the activation's shape", {"intervention": Replace(mx.zeros((1, 3, 4, 32)))}),
    (ValueRefusedError, r"`batch` must be left out if prompts differ", {"over": [{"layer": 1, "batch": 0}]}),
    (ValueRefusedError, r"one per prompt: 2\. Got 3", {"intervention": [SCALE] * 3}),
    (KindError, r"one per prompt\. Got None", {"intervention": [SCALE, None]}),
]


@pytest.mark.parametrize(("error", "message", "arguments"), RAGGED_REFUSALS)
def test_it_is_refused_of_prompts_of_several_lengths(tiny, runs, error, message, arguments):
    refused(error, message, tiny(), RAGGED, **arguments)
    assert runs == []


def test_a_row_is_not_chosen_where_interventions_differ(tiny, runs):
    """Where each prompt has its own."""
    arguments = {"intervention": [SCALE, Scale(3.0)], "over": [{"layer": 1, "batch": 0}]}
    refused(ValueRefusedError, r"`batch` must be left out", tiny(), [[1, 2], [3, 4]], **arguments)
    assert runs == []


def test_a_cache_that_lacks_a_site_or_holds_nan_is_refused(tiny, tokens, runs):
    model = tiny()
    _, cache = model.run_with_cache(tokens, sites=("z.0", "z.1"))
    runs.clear()
    refused(MissingSiteError, r"must hold blocks\.2\.attn\.hook_z", model, tokens, intervention=Replace(cache))
    assert sweep(model, tokens, Replace(cache), "z", metric=DIFF, layers=[0, 1]).values.shape == (2, 1)
    runs.clear()
    bad = Interpolate(mx.array([0.0, mx.nan] * 16), 0.5)
    refused(ValueRefusedError, r"NaN", model, tokens, intervention=bad, over="alpha", alphas=[0.0, 1.0], layers=0)
    assert runs == []


def test_layers_that_differ_in_heads_must_have_them_chosen(tiny, tokens):
    model = tiny("openelm")
    message = (
        r"`heads` must be given if sites or layers have different numbers of heads: 2, 4\. Got None\. .*range\(2\)"
    )
    refused(SelectionError, message, model, tokens, over=("layer", "head"))
    result = sweep(model, tokens, SCALE, "z", ("layer", "head"), DIFF, heads=range(2))
    assert result.coords["head"] == (0, 1)
    assert sweep(model, tokens, SCALE, "z", "head", DIFF, layers=0).coords["head"] == (0, 1)
    refused(SelectionError, r"`head` must lie in -2 to 1\. Got 3\.", model, tokens, over=("layer", "head"), heads=[3])


def test_sites_of_one_sweep_agree_in_heads(tiny, tokens):
    refused(SelectionError, r"different numbers of heads: 2, 4\.", tiny(), tokens, at=["z", "k"], over=("site", "head"))


def test_heads_that_count_from_the_end_are_those_that_they_name(tiny, tokens):
    model = tiny()
    result = sweep(model, tokens, Ablate("zero"), "z", over=("layer", "head"), metric=DIFF, heads=[-1, (-2, 0)])
    named = sweep(model, tokens, Ablate("zero"), "z", over=("layer", "head"), metric=DIFF, heads=[3, (2, 0)])
    assert result.coords["head"] == (3, (2, 0))
    assert (result.values == named.values).all()
    both = sweep(model, tokens, Ablate("zero"), ["k", "z"], over=("site", "head"), metric=DIFF, heads=[-1], layers=0)
    assert both.coords["head"] == (-1,)  # of another number of heads at each site


def test_sites_that_no_layer_has_together_are_refused(tiny, tokens):
    model = tiny("granitemoehybrid")
    layers = {name: {s.layer for s in model.sites if s.name == name} for name in ("z", "mixer_out")}
    assert layers["z"] < layers["mixer_out"]
    result = sweep(model, tokens, SCALE, ["z", "mixer_out"], ("site", "layer"), DIFF)
    assert result.coords["layer"] == tuple(sorted(layers["z"]))


def test_without_a_choice_there_is_everything(tiny, tokens):
    planned = plan(tiny(), tokens, SCALE, "z", ("layer", "pos", "head"), DIFF)
    assert planned.n_cells == 3 * 8 * 4
    assert plan(tiny(), tokens, SCALE, "mlp_post", "neuron", DIFF, layers=1).n_cells == 96


def test_a_plan_runs_no_prompt(tiny, tokens, runs):
    assert "24 cells" in str(plan(tiny(), tokens, SCALE, "resid_post", ("layer", "pos"), DIFF))
    assert runs == []


def test_memory_for_less_than_a_cell_runs_one_cell_a_pass(tiny, tokens):
    small = sweep(tiny(), tokens, SCALE, "z", ("layer", "pos"), DIFF, memory=1)
    assert [len(one.cells) for one in small.plan.passes] == [1] * 24
    large = sweep(tiny(), tokens, SCALE, "z", ("layer", "pos"), DIFF)
    np.testing.assert_allclose(small.values, large.values, atol=1e-5)
    assert small.plan.token_layers == large.plan.token_layers


def test_cells_that_read_the_same_keep_labels_of_their_own(tiny, tokens):
    cells = [Add(mx.full((64,), float(n))).at("mlp_out", layer=1) for n in range(3)]
    labels = sweep(tiny(), tokens, over=cells, metric=DIFF).coords["cell"]
    assert labels == (repr(cells[0]), f"{cells[0]!r} (2)", f"{cells[0]!r} (3)")


def test_a_result_says_what_was_done_where(tiny, tokens):
    said = sweep(tiny(), tokens, SCALE, "z", "layer", DIFF, positions=-1, heads=[(0, 2)]).provenance
    assert said["intervention"] == "Scale(2.0)"
    assert (said["at"], said["pos"], said["head"]) == (["z"], [7], [0, 2])


def test_several_sites_of_a_cell_are_edited_together(tiny, tokens):
    both = sweep(tiny(), tokens, SCALE, ["z", "mlp_out"], [{"layer": 1}], DIFF)
    edits = [SCALE.at("z", layer=1), SCALE.at("mlp_out", layer=1)]
    np.testing.assert_allclose(both.values, sweep(tiny(), tokens, over=[edits], metric=DIFF).values, atol=1e-6)
    named = sweep(tiny(), tokens, SCALE, ["z", "mlp_out"], [{"site": "q", "layer": 1}, {"layer": 0}], DIFF)
    alone = sweep(tiny(), tokens, over=[SCALE.at("q", layer=1)], metric=DIFF)
    np.testing.assert_allclose(named.values[0], alone.values[0], atol=1e-6)


def test_an_answer_of_several_tokens_is_refused(tiny, tokens, word_tokenizer):
    named = HookedModel(tiny().model, word_tokenizer)
    message = r"`token` must be one token\. Got 'w01 w02'"
    refused(TokenError, message, named, tokens, metric=Prob("w01 w02"))


def test_sites_that_no_layer_has_together_are_swept_one_by_one(tiny, tokens):
    with pytest.raises(
        SelectionError, match=r"`at` must be sites that occur together in a layer\. Got .*Sweep them one by"
    ):
        sweep(tiny("nemotron_h"), tokens, SCALE, ["mixer_out", "mlp_out"], ("site", "layer"), LogProb(3))


def test_a_raw_site_of_other_rows_wants_the_reference(tiny):
    """Its rows are not those of the batch: mlx_lm sorts many tokens by their experts."""
    model, tokens = tiny("mixtral"), mx.array([[7 * i % 96 for i in range(40)]])
    cells = [Scale(factor).at("model.layers.1.block_sparse_moe.switch_mlp.up_proj:input") for factor in (0.5, 0.1)]
    with pytest.raises(ShapeError, match=r"must be 'reference' for edits at .*Got shape \(160, 1, 64\) with 2 rows"):
        sweep(model, tokens, over=cells, metric=LogProb(3), executor="rows")
    got = sweep(model, tokens, over=cells, metric=LogProb(3), executor="reference")
    assert len(set(got.values[:, 0].tolist())) == 2
