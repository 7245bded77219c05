"""Patching across models: against runs written by hand, known maps, and what does not fit."""

import copy
from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.models import llama
from rounding import largest_logit, same

import mlx_patch as mp
from mlx_patch.errors import KindError, MissingSiteError, SelectionError, ShapeError, ValueRefusedError
from mlx_patch.metrics import LogProb
from mlx_patch.testing import tiny_model

TOKENS = mx.array([[11, 48, 85, 26, 63]])
LONGER = mx.array([[11, 2, 48, 85, 26, 26, 63]])
METRIC = LogProb(3)


def other_llama(seed=1, **shape):
    """A llama of the zoo's vocabulary with other weights, layers or width."""
    sizes = {"hidden_size": 64, "num_hidden_layers": 3, "intermediate_size": 64, "num_attention_heads": 4, **shape}
    args = {"model_type": "llama", "rms_norm_eps": 1e-5, "vocab_size": 96, "num_key_value_heads": 2, **sizes}
    mx.random.seed(seed)
    model = llama.Model(llama.ModelArgs.from_dict(args))
    mx.eval(model.parameters())
    return mp.HookedModel(model)


@pytest.fixture(scope="module")
def pair():
    return mp.HookedModel(tiny_model("llama")), mp.HookedModel(tiny_model("llama", seed=1))


def through(first, second, layer, tokens=TOKENS):
    """By hand: the layers up to one of a raw model, and the ones above of another, with its unembedding."""
    from mlx_lm.models.base import create_attention_mask

    h = first.model.model.embed_tokens(tokens)
    mask = create_attention_mask(h, None)
    for n in range(len(first.model.model.layers)):
        h = (first if n <= layer else second).model.model.layers[n](h, mask, None)
    logits = second.model.model.norm(h)
    raw = second.model
    return METRIC(raw.model.embed_tokens.as_linear(logits) if raw.args.tie_word_embeddings else raw.lm_head(logits))


def test_the_four_cells_are_four_runs_through_the_raw_models(pair):
    base, other = pair
    got = mp.two_by_two(base, other, TOKENS, METRIC)
    assert got.layers == tuple(range(base.n_layers))
    for layer in got.layers:
        for early, first in enumerate(pair):
            for late, second in enumerate(pair):
                wanted = through(first, second, layer).item()
                assert abs(got.cells[layer, early, late, 0] - wanted) < 1e-4
    cell = got.cells[0, :, :, 0]
    assert got.interaction[0, 0] == pytest.approx(cell[1, 1] - cell[1, 0] - cell[0, 1] + cell[0, 0], abs=1e-5)
    assert got.early[0, 0] == pytest.approx((cell[1, 0] + cell[1, 1] - cell[0, 0] - cell[0, 1]) / 2, abs=1e-5)
    assert got.late[0, 0] == pytest.approx((cell[0, 1] + cell[1, 1] - cell[0, 0] - cell[1, 0]) / 2, abs=1e-5)
    assert abs(got.interaction[0, 0]) > 1e-3
    record = got.as_dict()
    assert record["0"]["base_other"] == pytest.approx(cell[0, 1], abs=1e-6)
    assert len(str(got).splitlines()) == 2 + base.n_layers


def test_exchanged_halves_would_show(pair):
    base, other = pair
    right, wrong = mp.two_by_two(base, other, TOKENS, METRIC), mp.two_by_two(other, base, TOKENS, METRIC)
    assert np.abs(right.cells - wrong.cells).max() > 1e-2
    np.testing.assert_allclose(right.cells, wrong.cells[:, ::-1, ::-1], atol=1e-5)
    np.testing.assert_allclose(right.interaction, wrong.interaction, atol=1e-4)


def test_unequal_prompts_are_aligned_both_ways(pair):
    base, other = pair
    alignment = mp.align(TOKENS, LONGER)
    got = mp.two_by_two(base, other, TOKENS, METRIC, other_tokens=LONGER, alignment=alignment)
    theirs = other.run_with_cache(LONGER, "resid_post")[1]
    rows = theirs["resid_post", 0][:, mx.array(alignment.targets)]
    there = base.run(TOKENS, [mp.Replace(rows).at("resid_post", layer=0, pos=alignment.sources)])
    assert got.cells[0, 1, 0, 0] == pytest.approx(METRIC(there).item(), abs=1e-4)
    assert got.cells[0, 1, 1, 0] == pytest.approx(METRIC(other.run(LONGER)).item(), abs=1e-5)
    assert got.cells[0, 0, 0, 0] == pytest.approx(METRIC(base.run(TOKENS)).item(), abs=1e-5)


@pytest.mark.parametrize("site", ["resid_post", "mlp_out", "z"])
def test_what_is_put_in_is_the_donors(pair, site):
    target, donor = pair
    got = mp.cross_patch(target, donor, TOKENS, site, over=("layer", "pos"), metric=METRIC)
    cache = donor.run_with_cache(TOKENS, site)[1]
    wanted = mp.sweep(target, TOKENS, mp.Replace(cache), site, ("layer", "pos"), METRIC)
    np.testing.assert_array_equal(got.values, wanted.values)
    half = mp.cross_patch(target, donor, TOKENS, site, metric=METRIC, alpha=0.5)
    part = mp.sweep(target, TOKENS, mp.Interpolate(cache, 0.5), site, "layer", METRIC)
    np.testing.assert_array_equal(half.values, part.values)
    assert got.provenance["donor"]["tokens"] == TOKENS.tolist()
    assert got.provenance["donor"]["model"] == donor.identity


def test_a_file_and_a_cache_give_the_same_bits(pair, tmp_path):
    target, donor = pair
    wanted = mp.cross_patch(target, donor, TOKENS, metric=METRIC).values
    streamed = mp.cross_patch(target, donor, TOKENS, metric=METRIC, file=tmp_path / "a.safetensors")
    np.testing.assert_array_equal(streamed.values, wanted)
    path = mp.cross.capture(donor, TOKENS, tmp_path / "b.safetensors")
    np.testing.assert_array_equal(mp.cross_patch(target, path, TOKENS, metric=METRIC).values, wanted)
    cache = donor.run_with_cache(TOKENS)[1]
    np.testing.assert_array_equal(mp.cross_patch(target, cache, TOKENS, metric=METRIC).values, wanted)


def test_other_dtypes_are_cast_and_it_is_said(pair):
    target, donor = pair
    half = mp.HookedModel(tiny_model("llama", "bfloat16", seed=1))
    got = mp.cross_patch(target, half, TOKENS, metric=METRIC)
    assert got.provenance["donor"]["dtypes"] == ["bfloat16"]
    assert got.provenance["donor"]["cast_to"] == ["float32"]
    whole = mp.cross_patch(target, donor, TOKENS, metric=METRIC)
    assert whole.provenance["donor"]["cast_to"] == []
    assert 0 < np.abs(got.values - whole.values).max() < 0.5
    into = mp.cross_patch(half, target, TOKENS, metric=METRIC)
    assert into.provenance["donor"]["cast_to"] == ["bfloat16"]
    quantised = mp.HookedModel(tiny_model("llama", "4bit", seed=1))
    assert np.isfinite(mp.cross_patch(target, quantised, TOKENS, metric=METRIC).values).all()
    assert (
        mp.compatibility(target, quantised).rows["weights"][0] != mp.compatibility(target, quantised).rows["weights"][1]
    )


# Layers


def test_layers_of_another_depth_stand_for_each_other(pair):
    target, donor = pair[0], other_llama(num_hidden_layers=5)
    layers = mp.LayerMap([(0, 1), (target.n_layers - 1, 4)])
    got = mp.cross_patch(target, donor, TOKENS, metric=METRIC, layer_map=layers)
    assert got.coords["layer"] == layers.targets
    cache = donor.run_with_cache(TOKENS)[1]
    for i, (ours, theirs) in enumerate(layers.pairs):
        edit = mp.Replace(cache["resid_post", theirs]).at("resid_post", layer=ours)
        assert got.values[i, 0] == pytest.approx(METRIC(target.run(TOKENS, [edit])).item(), abs=1e-4)


@pytest.mark.parametrize(
    ("target", "donor", "wanted"),
    [
        (4, 2, (0, 0, 1, 1)),
        (2, 4, (1, 3)),
        (3, 3, (0, 1, 2)),
        (3, 5, (1, 3, 4)),
        (5, 3, (0, 1, 1, 2, 2)),
        (1, 7, (6,)),
    ],
)
def test_a_proportional_map_keeps_the_share_of_the_depth(target, donor, wanted):
    layers = mp.LayerMap.proportional(target, donor)
    assert tuple(layers.donor_of(n) for n in range(target)) == wanted
    assert layers.targets == tuple(range(target))


# Widths


def test_a_linear_relation_is_found():
    rng = np.random.default_rng(0)
    x, weight, bias = rng.normal(size=(80, 6)), rng.normal(size=(6, 4)), rng.normal(size=4)
    found = mp.LinearMap.fit(x, x @ weight + bias)
    np.testing.assert_allclose(found.weight, weight, atol=1e-5)
    np.testing.assert_allclose(found.bias, bias, atol=1e-5)
    assert found.r2 == pytest.approx(1, abs=1e-9)
    assert found.rows == 64
    np.testing.assert_allclose(np.array(found(mx.array(x))), x @ weight + bias, atol=1e-4)
    assert repr(found) == "LinearMap(6 to 4, held-out R2 1.000 after 64 rows)"


def test_of_noise_nothing_is_explained_that_was_held_out():
    rng = np.random.default_rng(0)
    found = mp.LinearMap.fit(rng.normal(size=(4000, 6)), rng.normal(size=(4000, 4)))
    assert found.r2 is not None
    assert abs(found.r2) < 0.02


def test_what_a_group_s_rows_share_does_not_help_the_held_out(pair):
    """Each prompt adds its own number to x and, unrelated, to y: within a prompt it can be learnt, for another not."""
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(20), 30)
    x = np.eye(20)[groups] + 0.1 * rng.normal(size=(600, 20))
    y = rng.normal(size=(20, 3))[groups] + 0.1 * rng.normal(size=(600, 3))
    by_row, by_group = mp.LinearMap.fit(x, y), mp.LinearMap.fit(x, y, groups=groups)
    assert by_row.r2 > 0.8
    assert by_group.r2 < 0.1
    assert by_group.rows == 480

    target, donor = pair
    prompts = [rng.integers(0, 96, size=30).tolist() for _ in range(10)]
    maps = mp.cross.fit_maps(target, donor, prompts)
    assert {one.rows for one in maps.values()} == {8 * 29}


def test_a_donor_of_another_width_is_mapped(pair):
    target, donor = pair[0], other_llama(hidden_size=32)
    rng = np.random.default_rng(0)
    prompts = [rng.integers(0, 96, size=12).tolist() for _ in range(8)]
    maps = mp.cross.fit_maps(target, donor, prompts)
    assert set(maps) == set(range(target.n_layers))
    got = mp.cross_patch(target, donor, TOKENS, metric=METRIC, linear_map=maps)
    cache = donor.run_with_cache(TOKENS)[1]
    rows = cache["resid_post", 1] @ mx.array(maps[1].weight) + mx.array(maps[1].bias)
    wanted = METRIC(target.run(TOKENS, [mp.Replace(rows).at("resid_post", layer=1)])).item()
    assert got.values[1, 0] == pytest.approx(wanted, abs=1e-4)
    assert got.provenance["donor"]["linear_map"]["1"] == {"held_out_r2": maps[1].r2, "rows": maps[1].rows}
    both = mp.cross_patch(
        target,
        donor,
        LONGER,
        metric=METRIC,
        linear_map=maps,
        donor_tokens=TOKENS,
        alignment=mp.align(TOKENS, LONGER),
        layers=[1],
    )
    alignment = mp.align(TOKENS, LONGER)
    edit = mp.Replace(rows[:, mx.array(alignment.sources)]).at("resid_post", layer=1, pos=alignment.targets)
    assert both.values[0, 0] == pytest.approx(METRIC(target.run(LONGER, [edit])).item(), abs=1e-4)


# What does not fit


def test_models_that_do_not_fit_are_refused_with_what_would_help(pair, tmp_path):
    target, cache = pair[0], pair[1].run_with_cache(TOKENS)[1]
    deeper, wider = other_llama(num_hidden_layers=5), other_llama(hidden_size=32)
    run = {"tokens": TOKENS, "metric": METRIC}
    with pytest.raises(ValueRefusedError, match=r"Got 5 layers for 3. Give layer_map=mp.LayerMap.proportional"):
        mp.cross_patch(target, deeper, **run)
    wide = other_llama(hidden_size=32, num_hidden_layers=target.n_layers)
    with pytest.raises(ValueRefusedError, match=r"Got a stream of 32 for one of 64. Give linear_map=mp.cross.fit_maps"):
        mp.cross_patch(target, wide, **run)
    path = mp.cross.capture(wider, TOKENS, tmp_path / "w.safetensors")
    with pytest.raises(ShapeError, match=r"must have the target's stream width, 64. Got 32. Give linear_map"):
        mp.cross_patch(target, path, **run, layers=[0, 1])
    with pytest.raises(ShapeError, match=r"must have the 7 positions of `tokens`. Got 5. Give alignment=mp.align"):
        mp.cross_patch(target, pair[1], LONGER, metric=METRIC, donor_tokens=TOKENS)
    with pytest.raises(KindError, match=r"`at` must be a site that layers have. Got 'embed'"):
        mp.cross_patch(target, cache, at="embed", **run)
    with pytest.raises(
        SelectionError, match=r"must stay within 3 target layers and 5 donor layers, counted from 0. Got \(2, 7\)"
    ):
        mp.cross_patch(target, deeper, **run, layer_map=mp.LayerMap([(0, 0), (2, 7)]))
    with pytest.raises(MissingSiteError, match=r"`linear_map` must hold a map for layer 0. Got maps for layers \[1\]"):
        mp.cross_patch(target, cache, **run, linear_map={1: mp.LinearMap(np.eye(64))})


def test_tokenizers_that_cut_otherwise_are_told(word_tokenizer):
    embedded = mp.HookedModel.load("examples/models/tiny_base")
    target = mp.HookedModel(tiny_model("llama"), word_tokenizer)
    report = mp.compatibility(target, embedded)
    assert not report.ok
    assert set(report.problems) == {"layers", "width", "tokens"}
    assert "tokenizer" in str(report)
    assert "give alignment=mp.align" in str(report)
    assert any("cast" in note for note in report.notes)
    assert mp.compatibility(embedded, mp.HookedModel.load("examples/models/tiny_instruct_ext")).ok


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: mp.LayerMap([]), ValueRefusedError, "must hold a pair of layers"),
        (
            lambda: mp.LayerMap([(1, 0), (1, 1)]),
            ValueRefusedError,
            r"must be in rising order.*Got \(1, 0\), then \(1, 1\)",
        ),
        (lambda: mp.LayerMap([(0, -1)]), KindError, r"from 0. Got \(0, -1\)"),
        (lambda: mp.LayerMap([(0, 1)]).donor_of(2), SelectionError, r"one that the map has: \[0\]. Got 2"),
        (lambda: mp.LayerMap.proportional(0, 3), ValueRefusedError, "`target_layers` must be 1 or more. Got 0"),
        (lambda: mp.LinearMap(np.ones(3)), ShapeError, r"must have the shape \(d_donor, d_target\)"),
        (lambda: mp.LinearMap(np.ones((3, 2)), np.ones(3)), ShapeError, r"`bias` must have the shape \(2,\)"),
        (lambda: mp.LinearMap(np.full((3, 2), np.nan)), ValueRefusedError, "must be finite. Got NaN"),
        (
            lambda: mp.LinearMap(np.eye(3))(mx.ones((1, 2))),
            ShapeError,
            "`activation` must have the width of the map, 3. Got the shape",
        ),
        (lambda: mp.LinearMap.fit(np.ones((9, 2)), np.ones((8, 2))), ShapeError, "the same rows. Got 9 and 8"),
        (lambda: mp.LinearMap.fit(np.ones((9, 2)), np.ones((9, 2)), 1.0), ValueRefusedError, "between 0 and 1"),
        (lambda: mp.LinearMap.fit(np.ones((9, 2)), np.ones((9, 2)), groups=[0]), ShapeError, r"9 rows.*shape \(1,\)"),
        (
            lambda: mp.LinearMap.fit(np.eye(9), np.eye(9), groups=[0] * 9),
            ValueRefusedError,
            "2 groups or more.*Got 1. Pass",
        ),
        (
            lambda: mp.LinearMap.fit(np.eye(9), np.eye(9)),
            ValueRefusedError,
            "in 10 directions.*Got 7 rows in 7 directions, with 2",
        ),
        (lambda: mp.LinearMap.fit(np.ones((50, 4)), np.ones((50, 2))), ValueRefusedError, "Got 40 rows in 1"),
        (lambda: mp.LinearMap.fit(np.full((9, 1), np.nan), np.ones((9, 1))), ValueRefusedError, "must be finite"),
    ],
)
def test_maps_that_are_none_are_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_two_by_twos_of_other_sweeps_are_refused(pair):
    base, other = pair
    one = mp.cross_patch(base, other, TOKENS, metric=METRIC)
    with pytest.raises(KindError, match="`over` must be 'layer' alone, with one metric"):
        mp.TwoByTwo.of(one, mp.cross_patch(other, base, TOKENS, metric=METRIC, over=("layer", "pos")))
    with pytest.raises(ShapeError, match="must have the layers and examples of `into_base`"):
        mp.TwoByTwo.of(one, mp.cross_patch(other, base, TOKENS, metric=METRIC, layers=[0]))
    with pytest.raises(ShapeError, match=r"must have the shape \(layer, 2, 2, example\)"):
        mp.TwoByTwo((0,), np.zeros((1, 2, 2)), "m")


def test_a_proportional_map_is_exact_where_a_quotient_rounds():
    for target, donor in [(7, 29), (7, 58), (11, 25), (49, 98), (61, 80)]:
        layers = mp.LayerMap.proportional(target, donor)
        assert layers.donor_of(target - 1) == donor - 1
        for n in range(target):
            share = layers.donor_of(n) + 1
            assert (share - 1) * target < (n + 1) * donor <= share * target
        layers.require(target, donor)


def test_two_by_twos_that_are_none_are_refused(pair):
    base, other = pair
    with pytest.raises(
        KindError, match=r"must replace the whole resid_post, .* Got Replace\(.* at mlp_out. Write mp.Replace"
    ):
        mp.two_by_two(base, other, TOKENS, METRIC, at="mlp_out")
    with pytest.raises(KindError, match=r"must replace the whole resid_post, .* Got Interpolate\("):
        mp.two_by_two(base, other, TOKENS, METRIC, alpha=0.5)
    run = {"other_tokens": LONGER, "alignment": mp.align(TOKENS, LONGER)}
    with pytest.raises(ValueRefusedError, match=r"`positions` must be None with an alignment. Got \[0\]"):
        mp.two_by_two(base, other, TOKENS, METRIC, **run, positions=[0])
    into_base = mp.cross_patch(base, other, TOKENS, metric=METRIC)
    into_other = mp.cross_patch(other, base, TOKENS, metric=LogProb(4))
    with pytest.raises(ValueRefusedError, match=r"must measure log_prob\(3\), like `into_base`. Got log_prob\(4\)"):
        mp.TwoByTwo.of(into_base, into_other)


def patched(model, intervention, **more):
    chosen = {"at": "resid_post", "over": "layer", "metric": METRIC, **more}
    return mp.sweep(model, TOKENS, intervention, **chosen)


class Doubling(mp.Replace):
    """It is written as a Replace, and is none."""

    def __call__(self, own, where):
        return 2.0 * super().__call__(own, where)


def as_replaces(base, cache):
    """What begins with `Replace(` where it is written, and hands over something else than a run's whole state."""
    yield patched(base, mp.Replace(cache) | mp.Scale(0.0))
    yield patched(base, Doubling(cache))
    yield patched(base, mp.Replace(mx.zeros((base.d_model,))))
    yield patched(base, mp.Replace(cache), neurons=[0, 1])
    yield patched(base, mp.Replace(cache), layers=[(0, 1), 2])
    yield patched(base, mp.Replace(cache), over=("layer", "neuron"), neurons=[3]).sel(neuron=3)
    yield patched(base, mp.Replace(cache), at=["resid_post", "mlp_out"], over=("site", "layer")).sel(site="mlp_out")
    yield mp.cross_patch(base, cache, TOKENS, metric=METRIC, layer_map=mp.LayerMap(((0, 0), (1, 0), (2, 2))))


def test_a_two_by_two_goes_by_what_the_sweeps_did(pair):
    """And not by how it is written."""
    base, other = pair
    (_, theirs), (_, ours) = (model.run_with_cache(TOKENS, ("resid_post", "mlp_out")) for model in (other, base))
    into_other = patched(other, mp.Replace(ours))
    whole = mp.two_by_two(base, other, TOKENS, METRIC).cells
    np.testing.assert_array_equal(mp.TwoByTwo.of(patched(base, mp.Replace(theirs)), into_other).cells, whole)
    for result in as_replaces(base, theirs):
        assert result.provenance["intervention"].startswith("Replace(")
        with pytest.raises(KindError, match=r"with a run's own activations\. Got Replace"):
            mp.TwoByTwo.of(result, into_other)


def test_what_was_patched_in_is_data_in_files_too(pair, tmp_path):
    base, other = pair
    (_, theirs), (_, ours) = (model.run_with_cache(TOKENS) for model in (other, base))
    result, into_other = patched(base, mp.Replace(theirs)), patched(other, mp.Replace(ours))
    result.save(tmp_path / "a.npz")
    again = mp.SweepResult.load(tmp_path / "a.npz")
    assert again.provenance["sources"] == [{"model": other.identity, "tokens": TOKENS.tolist()}]
    mp.TwoByTwo.of(again, into_other)
    for sources in (None, [], "Replace(", [{"model": "llama", "tokens": []}]):
        with pytest.raises(KindError, match="with a run's own activations"):
            mp.TwoByTwo.of(replace(again, provenance={**again.provenance, "sources": sources}), into_other)


def test_a_two_by_two_is_of_two_models_patched_into_each_other(pair):
    base, other = pair
    (_, theirs), (_, ours) = (model.run_with_cache(TOKENS) for model in (other, base))
    into_base, into_other = patched(base, mp.Replace(theirs)), patched(other, mp.Replace(ours))
    elsewhere = other.run_with_cache(mx.array([[1, 2, 3, 4, 5]]))[1]
    with pytest.raises(ValueRefusedError, match="`into_base` must be patched from the prompt of `into_other`"):
        mp.TwoByTwo.of(patched(base, mp.Replace(elsewhere)), into_other)
    stranger = other_llama(rope_theta=20000.0).run_with_cache(TOKENS)[1]
    with pytest.raises(ValueRefusedError, match=r"`into_other` must be patched from the model of `into_base`.*config"):
        mp.TwoByTwo.of(into_base, patched(other, mp.Replace(stranger)))
    prompts = [[11, 48, 85, 26, 63], [1, 2, 3]]
    sweeps = [
        mp.sweep(
            a, prompts, [mp.Replace(b.run_with_cache(mx.array([p]))[1]) for p in prompts], "resid_post", metric=METRIC
        )
        for a, b in (pair, pair[::-1])
    ]
    assert mp.TwoByTwo.of(*sweeps).cells.shape == (3, 2, 2, 2)


def test_a_two_by_two_of_one_of_several_metrics_says_which(pair):
    several = [METRIC, LogProb(4)]
    into_base, into_other = (mp.cross_patch(a, b, TOKENS, metric=several) for a, b in (pair, pair[::-1]))
    name = into_base.metrics[1]
    got = mp.TwoByTwo.of(into_base.of_metric(name), into_other.of_metric(name))
    assert got.metric == name
    np.testing.assert_allclose(got.cells, mp.two_by_two(pair[0], pair[1], TOKENS, LogProb(4)).cells, atol=1e-5)
    with pytest.raises(ValueRefusedError, match=r"must measure log_prob\(4\)"):
        mp.TwoByTwo.of(into_base.of_metric(name), into_other.of_metric(into_base.metrics[0]))


def test_a_deeper_donor_is_refused_from_its_cache_too(pair):
    cache = other_llama(num_hidden_layers=5).run_with_cache(TOKENS)[1]
    with pytest.raises(ValueRefusedError, match=r"must have the target's 3 layers. Got layer 4. Give layer_map="):
        mp.cross_patch(pair[0], cache, TOKENS, metric=METRIC)


def test_a_vocabulary_with_two_ids_exchanged_is_another(word_tokenizer):

    exchanged = copy.deepcopy(word_tokenizer)
    words = word_tokenizer.get_vocab()
    one, two = sorted(words, key=words.__getitem__)[-2:]
    exchanged.get_vocab = lambda: {**words, one: words[two], two: words[one]}
    same, other = (mp.HookedModel(tiny_model("llama"), t) for t in (word_tokenizer, exchanged))
    assert mp.compatibility(same, mp.HookedModel(tiny_model("llama", seed=1), word_tokenizer)).ok
    assert set(mp.compatibility(same, other).problems) == {"tokens"}


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (
            lambda: mp.LayerMap([1, 2]),  # pyright: ignore[reportArgumentType]
            KindError,
            r"must be \(target layer, donor layer\), from 0. Got \(1,\)",
        ),
        (
            lambda: mp.LinearMap.fit(np.ones(9), np.ones(9)),
            ShapeError,
            r"must have rows and columns. Got the shapes \(9,\)",
        ),
        (
            lambda: mp.LinearMap.fit(np.random.default_rng(0).normal(size=(50, 3)), np.full((50, 2), 0.1)),
            ValueRefusedError,
            "`y` must vary for R2 to be defined. Got 10 equal held-out rows",
        ),
    ],
)
def test_more_maps_that_are_none_are_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_prompts_that_the_models_cut_otherwise_teach_no_map(word_tokenizer):

    swapped = copy.deepcopy(word_tokenizer)
    swapped.encode = lambda text, **how: word_tokenizer.encode(text, **how)[::-1]
    target, donor = (mp.HookedModel(tiny_model("llama"), t) for t in (word_tokenizer, swapped))
    with pytest.raises(KindError, match=r"`prompts` must have the same tokens in both .* prompt 1. Pass token ids"):
        mp.cross.fit_maps(target, donor, ["w01 w05 w01", "w03 w04 w05"])


PROMPTS = [TOKENS[:, :4], TOKENS, TOKENS[:, 2:5]]


def test_a_list_of_prompts_is_each_alone(pair):
    base, other = pair
    many = mp.cross_patch(base, other, PROMPTS, metric=METRIC)
    alone = [mp.cross_patch(base, other, prompt, metric=METRIC).values[:, 0] for prompt in PROMPTS]
    assert (many.values == np.stack(alone, axis=1)).all()
    assert many.provenance["donor"]["tokens"] == [prompt[0].tolist() for prompt in PROMPTS]
    caches = other.run_each_with_cache(PROMPTS)[1]
    assert (mp.cross_patch(base, caches, PROMPTS, metric=METRIC).values == many.values).all()


def test_a_batch_is_each_of_its_rows(pair):
    base, other = pair
    rows = mx.concatenate([TOKENS, TOKENS[:, ::-1]])
    many = mp.cross_patch(base, other, rows, metric=METRIC)
    alone = [mp.cross_patch(base, other, row[None], metric=METRIC).values[:, 0] for row in rows]
    assert np.abs(many.values - np.stack(alone, axis=1)).max() < 1e-5


def test_several_sites_are_each_its_own(pair):
    base, other = pair
    both = mp.cross_patch(base, other, TOKENS, ["attn_out", "mlp_out"], over=("site", "layer"), metric=METRIC)
    for values, site in zip(both.values, ("attn_out", "mlp_out"), strict=True):
        alone = mp.cross_patch(base, other, TOKENS, site, metric=METRIC).values
        assert same(values, alone, base, largest_logit(base, TOKENS))


def test_each_prompt_of_a_list_has_its_own_alignment(pair):
    base, other = pair
    theirs = [TOKENS[:, :3], TOKENS[:, 1:]]
    ours = [TOKENS[:, :4], TOKENS]
    maps = [mp.align(a, b) for a, b in zip(theirs, ours, strict=True)]
    many = mp.cross_patch(base, other, ours, metric=METRIC, donor_tokens=theirs, alignment=maps)
    for n, (a, b, alignment) in enumerate(zip(theirs, ours, maps, strict=True)):
        one = mp.cross_patch(base, other, b, metric=METRIC, donor_tokens=a, alignment=alignment)
        assert (many.values[:, n] == one.values[:, 0]).all()


def test_texts_are_taken_as_a_sweep_takes_them(word_tokenizer):
    base = mp.HookedModel(tiny_model("llama"), word_tokenizer)
    other = mp.HookedModel(tiny_model("llama", seed=1), word_tokenizer)
    texts = ["w05 w07", "w05 w07 w09"]
    many = mp.cross_patch(base, other, texts, metric=METRIC)
    ids = mp.cross_patch(base, other, [base.tokenize(text) for text in texts], metric=METRIC)
    assert (many.values == ids.values).all()
    assert mp.two_by_two(base, other, texts, METRIC).cells.shape == (3, 2, 2, 2)


MANY_REFUSED = {
    "other prompts": (ShapeError, r"as many prompts as `tokens`, 3\. Got 1\.", {"donor_tokens": [TOKENS]}),
    "another length": (
        ShapeError,
        r"the 4 positions of `tokens`\. Got 5 in prompt 0\. Give alignment=",
        {"donor_tokens": [TOKENS[:, :5], *PROMPTS[1:]]},
    ),
    "a file": (ValueRefusedError, r"`file` must be None for several prompts", {"file": "donor.safetensors"}),
    "one alignment": (
        ValueRefusedError,
        r"`alignment` must hold one alignment per prompt, 3\. Got 1\.",
        {"alignment": mp.align(TOKENS, TOKENS)},
    ),
    "a map for several sites": (
        ValueRefusedError,
        r"`linear_map` must be None for several sites",
        {"at": ["mlp_out", "attn_out"], "linear_map": mp.LinearMap(np.eye(64))},
    ),
    "no site": (KindError, r"`at` must be a site that layers have, or several\. Got \[\]", {"at": []}),
    "a place outside the layers": (KindError, r"that layers have\. Got 'embed'", {"at": ["mlp_out", "embed"]}),
}


@pytest.mark.parametrize("name", MANY_REFUSED)
def test_what_fits_no_list_is_refused(pair, name):
    error, message, more = MANY_REFUSED[name]
    with pytest.raises(error, match=message):
        mp.cross_patch(*pair, PROMPTS, metric=METRIC, **more)


def test_caches_are_one_a_prompt(pair):
    base, other = pair
    caches = other.run_each_with_cache(PROMPTS)[1]
    with pytest.raises(ValueRefusedError, match=r"`donor` must hold a cache for each of 3 prompts\. Got 2\."):
        mp.cross_patch(base, caches[:2], PROMPTS, metric=METRIC)
    with pytest.raises(ValueRefusedError, match=r"if each has its own alignment\. Got one cache for all"):
        mp.cross_patch(base, caches[0], PROMPTS, metric=METRIC, alignment=[mp.align(p, p) for p in PROMPTS])


@pytest.mark.parametrize("name", ["target", "donor", "base", "other", "model"])
def test_a_model_that_is_not_wrapped_is_refused(pair, name):
    base, other = pair
    calls = {
        "target": lambda: mp.cross_patch(base.model, other, TOKENS, metric=METRIC),
        "donor": lambda: mp.cross_patch(base, other.model, TOKENS, metric=METRIC),
        "base": lambda: mp.two_by_two(base.model, other, TOKENS, METRIC),
        "other": lambda: mp.two_by_two(base, other.model, TOKENS, METRIC),
        "model": lambda: mp.sweep(base.model, TOKENS, mp.Scale(0.0), "z", metric=METRIC),
    }
    message = (
        rf"`{name}` must be a HookedModel.*Got Model of mlx_lm\.models\.llama\. Wrap it: mp\.HookedModel\({name}, "
    )
    with pytest.raises(KindError, match=message):
        calls[name]()
