"""`mp.Features`: edits of features, the error kept, against plain numpy; the axis `feature`; refusals."""

import mlx.core as mx
import numpy as np
import pytest
from dictionary_files import arrays_of, saelens_folder, without

import mlx_patch as mp
from mlx_patch.errors import KindError, SelectionError, ShapeError, ValueRefusedError
from mlx_patch.fingerprints import fingerprint
from mlx_patch.interventions import Span

SITE = mp.Site("resid_post", 1)
METRIC = mp.metrics.LogitDiff(7, 30)


@pytest.fixture
def draw():
    return np.random.default_rng(5)


@pytest.fixture
def arrays(draw, tiny):
    return without(arrays_of(draw, tiny().d_model, 20), "threshold")


@pytest.fixture
def make(tmp_path, arrays):
    """Loads the arrays under a configuration."""

    def load(name="a", **config):
        return mp.dictionaries.load(saelens_folder(tmp_path / name, arrays, config))

    return load


@pytest.fixture
def sae(make):
    return make()


@pytest.fixture
def x(tiny, tokens):
    """The stream of a run. Shape `(1, 8, d_model)`."""
    _, cache = tiny().run_with_cache(tokens, str(SITE))
    return np.array(cache[SITE])


def close(got, expected):
    """Equal up to the rounding of float32 sums of the largest number."""
    np.testing.assert_allclose(got, expected, atol=3e-6 * np.abs(expected).max())


def features_of(arrays, x):
    return np.maximum((x - arrays["b_dec"]) @ arrays["W_enc"] + arrays["b_enc"], 0)


def edited(edit, x, span=None):
    """The activation after an edit."""
    return np.array(edit.apply(mx.array(x), SITE, span or Span(0, x.shape[1], x.shape[1])))


def test_what_features_write_is_taken_away(sae, arrays, x):
    f = features_of(arrays, x)
    features = [3, 11, 0]
    expected = x - f[..., features] @ arrays["W_dec"][features]
    got = edited(mp.Features(sae, mp.Scale(0.0), features).at("resid_post", layer=1), x)
    close(got, expected)
    assert np.abs(got - x).max() > 0.1


def test_of_all_features_the_error_is_left(sae, arrays, x):
    f = features_of(arrays, x)
    expected = x - f @ arrays["W_dec"]
    got = edited(mp.Features(sae, mp.Ablate("zero")).at("resid_post", layer=1), x)
    close(got, expected)


@pytest.mark.parametrize(
    ("intervention", "change"),
    [
        (mp.Scale(3.0), lambda f: 3 * f),
        (mp.Clamp(2.0, 2.0), lambda f: 0 * f + 2),
        (mp.Add(np.array([1.0, -2.0])), lambda f: f + np.array([1.0, -2.0])),
        (mp.Scale(2.0) | mp.Clamp(high=1.0), lambda f: np.minimum(2 * f, 1)),
        (mp.Apply(lambda values, site: mx.square(values)), lambda f: f**2),
        (mp.Ablate("mean"), lambda f: 0 * f + f.mean(axis=(0, 1))),
        (mp.Replace(mx.ones((1, 1, 2))), lambda f: 0 * f + 1),
    ],
)
def test_interventions_act_on_values_of_features(sae, arrays, x, intervention, change):
    f = features_of(arrays, x)[..., [4, 9]]
    expected = x + (change(f) - f) @ arrays["W_dec"][[4, 9]]
    got = edited(mp.Features(sae, intervention, [4, 9]).at("resid_post", layer=1), x)
    close(got, expected)


@pytest.mark.parametrize("kind", ["constant_norm_rescale", "layer_norm"])
def test_each_token_keeps_its_own_scale(make, arrays, x, kind):
    sae = make(normalize_activations=kind)
    values, scaled = np.array(sae.encode(mx.array(x))), x - x.mean(axis=-1, keepdims=True)
    scale = np.linalg.norm(x, axis=-1, keepdims=True) / x.shape[-1] ** 0.5
    if kind == "layer_norm":
        scale = np.sqrt(np.sum(scaled**2, axis=-1, keepdims=True) / (x.shape[-1] - 1))
    expected = x - scale * (values[..., [2, 6]] @ arrays["W_dec"][[2, 6]])
    got = edited(mp.Features(sae, mp.Scale(0.0), [2, 6]).at("resid_post", layer=1), x)
    close(got, expected)


def test_topk_features_compete_with_all_others(make, arrays, x):
    sae = make(architecture="topk", k=3)
    all_features = np.array(sae.encode(mx.array(x)))
    features = np.argsort(-np.count_nonzero(all_features, axis=(0, 1)))[:2].tolist()
    expected = x - all_features[..., features] @ arrays["W_dec"][features]
    got = edited(mp.Features(sae, mp.Scale(0.0), features).at("resid_post", layer=1), x)
    close(got, expected)


@pytest.mark.parametrize("pos", [None, -1, [1, 2, 5]])
def test_features_of_another_run_are_put_in(tiny, tokens, sae, arrays, pos):
    """`Replace(cache)`: the cache holds the stream, and is encoded."""
    model, others = tiny(), (tokens + 17) % 96
    _, own = model.run_with_cache(tokens, str(SITE))
    _, other = model.run_with_cache(others, str(SITE))
    edit = mp.Features(sae, mp.Replace(other), [1, 8]).at("resid_post", layer=1, pos=pos)
    x, y = np.array(own[SITE]), np.array(other[SITE])
    change = (features_of(arrays, y) - features_of(arrays, x))[..., [1, 8]] @ arrays["W_dec"][[1, 8]]
    expected = np.array(x)
    places = slice(None) if pos is None else pos
    expected[:, places] += change[:, places]
    close(edited(edit, x), expected)
    logits = model.run(tokens, [mp.Replace(mx.array(expected)).at("resid_post", layer=1)])
    np.testing.assert_allclose(model.run(tokens, [edit]), logits, atol=1e-4)


def test_a_part_of_the_way_and_alignments(tiny, tokens, sae, arrays, x):
    model = tiny()
    _, cache = model.run_with_cache((tokens + 5) % 96, str(SITE))
    f, g = features_of(arrays, x)[..., [7]], features_of(arrays, np.array(cache[SITE]))[..., [7]]
    half = mp.Features(sae, mp.Interpolate(cache, 0.5), 7)
    expected = x + 0.5 * (g - f) @ arrays["W_dec"][[7]]
    close(edited(half.at("resid_post", layer=1), x), expected)
    result = mp.sweep(model, tokens, half, "resid_post", "alpha", METRIC, layers=1, alphas=[0.0, 0.5])
    assert result.values[0, 0] == result.baseline[0]
    one = model.run(tokens, [half.at("resid_post", layer=1)])[0, -1]
    np.testing.assert_allclose(result.values[1, 0], (one[7] - one[30]).item(), rtol=1e-5)


def test_features_of_a_shorter_prompt_are_aligned(tiny, tokens, sae, arrays, x):
    model, short = tiny(), tokens[:, 2:]
    alignment = mp.align(short, tokens)
    _, cache = model.run_with_cache(short, str(SITE))
    change = features_of(arrays, np.array(cache[SITE]))[..., [7]] - features_of(arrays, x[:, 2:])[..., [7]]
    expected = np.array(x)
    expected[:, 2:] += change @ arrays["W_dec"][[7]]
    edit = mp.Features(sae, mp.Replace(cache), 7).aligned(alignment)
    close(edited(edit.at("resid_post", layer=1), x), expected)


def test_heads_are_flattened(tmp_path, draw, tiny, tokens):
    model = tiny()
    site = mp.Site("z", 1)
    _, cache = model.run_with_cache(tokens, str(site))
    z = np.array(cache[site])
    arrays = without(arrays_of(draw, z.shape[2] * z.shape[3], 12), "threshold")
    config = {"reshape_activations": "hook_z", "metadata": {"hook_name": str(site)}}
    sae = mp.dictionaries.load(saelens_folder(tmp_path, arrays, config))
    flat = z.reshape(*z.shape[:2], -1)
    expected = flat - features_of(arrays, flat)[..., [2]] * arrays["W_dec"][2]
    edit = mp.Features(sae, mp.Ablate("zero"), 2).at("z", layer=1)
    patched = model.run(tokens, [mp.Replace(mx.array(expected.reshape(z.shape))).at("z", layer=1)])
    np.testing.assert_allclose(model.run(tokens, [edit]), patched, atol=1e-5)
    with pytest.raises(SelectionError, match="`head` and `neuron` must be None for Features"):
        model.run(tokens, [mp.Features(sae, mp.Ablate("zero"), 2).at("z", layer=1, head=0)])


def test_half_types_round_once(sae, arrays, x):
    """The change is added in float32, and the sum is rounded to the stream's own type."""
    half = mx.array(x).astype(mx.bfloat16)
    edit = mp.Features(sae, mp.Scale(0.0), [3, 5]).at("resid_post", layer=1)
    got = edit.apply(half, SITE, Span(0, 8, 8))
    wide = np.array(half.astype(mx.float32))
    exact = wide - features_of(arrays, wide)[..., [3, 5]] @ arrays["W_dec"][[3, 5]]
    assert got.dtype == mx.bfloat16
    rounded = np.array(mx.array(exact).astype(mx.bfloat16).astype(mx.float32))
    assert np.mean(np.array(got.astype(mx.float32)) == rounded) > 0.98


def test_a_negative_zero_stays_one(sae, x):
    signed = np.where(np.arange(x.shape[-1]) % 2 == 0, np.float32(-0.0), x)
    for feature in range(sae.n_features):
        got = edited(mp.Features(sae, mp.Scale(1.0), feature).at("resid_post", layer=1), signed)
        np.testing.assert_array_equal(np.signbit(got), np.signbit(signed))


@pytest.mark.parametrize(
    "inner",
    [
        mp.Scale(0.0),
        mp.Ablate("resample"),
        mp.Ablate("noise"),
        mp.Ablate("mean"),
        mp.Apply(lambda values, site: values),
    ],
    ids=repr,
)
def test_an_edit_needs_of_a_run_what_the_inner_one_needs(sae, inner):
    """Which positions, rows and pieces, and whether it draws."""
    edit = mp.Features(sae, inner, 3)
    for name in ("by_position", "by_row", "in_pieces", "draws", "covers"):
        assert getattr(edit, name) == getattr(inner, name)
    assert not edit.overwrites
    assert not edit.elementwise


def test_the_axis_equals_runs_one_by_one(tiny, tokens, sae):
    model = tiny()
    batch = mx.concatenate([tokens, (tokens + 3) % 96])
    ablate = mp.Features(sae, mp.Ablate("zero"))
    result = mp.sweep(
        model,
        batch,
        ablate,
        "resid_post",
        ("feature", "pos"),
        METRIC,
        layers=1,
        features=[2, (5, 6)],
        positions=[1, -1],
    )
    assert result.axes[:2] == ("feature", "pos")
    assert result.coords["feature"] == (2, (5, 6))
    for row, features in enumerate([[2], [5, 6]]):
        for column, pos in enumerate([1, 7]):
            edit = mp.Features(sae, mp.Ablate("zero"), features).at("resid_post", layer=1, pos=pos)
            logits = np.array(model.run(batch, [edit])[:, -1])
            np.testing.assert_allclose(result.values[row, column], logits[:, 7] - logits[:, 30], atol=1e-5)
    reference = mp.sweep(
        model, batch, ablate, "resid_post", "feature", METRIC, layers=1, features=[2, 5], executor="reference"
    )
    fast = mp.sweep(model, batch, ablate, "resid_post", "feature", METRIC, layers=1, features=[2, 5])
    np.testing.assert_allclose(fast.values, reference.values, atol=1e-5)
    np.testing.assert_array_equal(fast.sel(feature=5).values, fast.values[1])


def test_the_axis_takes_the_features_of_the_intervention(tiny, tokens, sae):
    some = mp.Features(sae, mp.Ablate("zero"), [4, 1])
    result = mp.sweep(tiny(), tokens, some, "resid_post", "feature", METRIC, layers=1)
    assert result.coords["feature"] == (4, 1)
    chain = mp.Features(sae, mp.Ablate("zero")) | mp.Scale(1.0)
    chosen = mp.sweep(tiny(), tokens, chain, "resid_post", "feature", METRIC, layers=1, features=[4, 1])
    np.testing.assert_allclose(chosen.values, result.values, atol=1e-6)


def test_an_attribution_is_the_derivative_of_the_sweep(tiny, tokens, make):
    """Slope 2: with a change of half the size, the estimate's error is a quarter."""
    model, sae = tiny(), make(architecture="topk", k=5)
    _, cache = model.run_with_cache((tokens + 11) % 96, str(SITE))

    def both(towards):
        edit = mp.Features(sae, towards)
        places = {"at": "resid_post", "over": "feature", "metric": METRIC, "layers": 1, "features": [1, 4, 7]}
        exact, estimate = mp.sweep(model, tokens, edit, **places), mp.attribute(model, tokens, edit, **places)
        assert estimate.coords == exact.coords
        return exact.values - exact.baseline, estimate.values - estimate.baseline

    for towards in (lambda step: mp.Scale(1 - step), lambda step: mp.Interpolate(cache, step)):
        errors = []
        for step in (0.004, 0.002):
            exact, estimate = both(towards(step))
            assert np.abs(estimate).max() > 0.001
            errors.append(np.abs(estimate - exact).max())
        assert 3 < errors[0] / errors[1] < 5


REFUSED = [
    (lambda sae: mp.Features("sae", mp.Scale(0.0)), KindError, "`dictionary` must be a Dictionary. Got str"),
    (lambda sae: mp.Features(sae, 0.0), KindError, "`intervention` must be an Intervention of the values of features"),
    (lambda sae: mp.Features(sae, mp.Knockout()), KindError, r"Got Knockout\(\)"),
    (lambda sae: mp.Features(sae, mp.Scale(1.0) | mp.Features(sae, mp.Scale(0.0))), KindError, r"Got Features\("),
    (lambda sae: mp.Features(sae, mp.Scale(0.0), 20), SelectionError, "`features` must lie in 0 to 19"),
]


@pytest.mark.parametrize(("make_edit", "error", "message"), REFUSED)
def test_what_means_nothing_is_refused(sae, make_edit, error, message):
    with pytest.raises(error, match=message):
        make_edit(sae)


def test_transcoders_are_refused_with_what_to_do(tmp_path, arrays, draw, tiny, tokens):
    """The remedy is done here: what a feature writes is added at the output."""
    metadata = {"hook_name": "blocks.1.hook_resid_mid", "hook_name_out": "blocks.1.hook_mlp_out"}
    config = {"architecture": "transcoder", "apply_b_dec_to_input": False, "metadata": metadata}
    sae = mp.dictionaries.load(saelens_folder(tmp_path, arrays, {**config, "d_out": tiny().d_model}))
    with pytest.raises(KindError, match=r"must be an autoencoder.*features are of blocks\.1\.hook_resid_mid.*mp\.Add"):
        mp.Features(sae, mp.Scale(0.0), 1)
    _, cache = tiny().run_with_cache(tokens, ("resid_mid", "mlp_out"))
    values = sae.encode(cache[sae.site], 3)
    edit = mp.Add(-values * sae.directions(3)).at(str(sae.site_out))
    expected = np.array(cache[sae.site_out]) - np.array(values) * arrays["W_dec"][3]
    replaced = tiny().run(tokens, [mp.Replace(mx.array(expected)).at(str(sae.site_out))])
    np.testing.assert_allclose(tiny().run(tokens, [edit]), replaced, atol=1e-4)


def test_another_site_than_its_own_is_refused(make, tiny, tokens):
    sae = make(metadata={"hook_name": "blocks.1.hook_resid_post"})
    edit = mp.Features(sae, mp.Scale(0.0), 1)
    with pytest.raises(
        ValueRefusedError, match=r"made for, blocks\.1\.hook_resid_post\. Got blocks\.0\.hook_resid_post"
    ):
        tiny().run(tokens, [edit.at("resid_post", layer=0)])
    here = tiny().run(tokens, [edit.at("resid_post", layer=1)])
    if tiny().n_layers > 2:  # the stream between two blocks has two names
        assert mx.array_equal(tiny().run(tokens, [edit.at("resid_pre", layer=2)]), here).item()
    anywhere = mp.Features(sae.at_any_site(), mp.Scale(0.0), 1)
    tiny().run(tokens, [anywhere.at("resid_post", layer=0)])


def test_sites_without_such_vectors_are_refused(sae, tiny, tokens):
    edit = mp.Features(sae, mp.Scale(0.0), 1)
    with pytest.raises(SelectionError, match="`site` must have a vector at each position to have features"):
        tiny().run(tokens, [edit.at("pattern", layer=1)])
    rotated = "model.layers.0.self_attn.rope:output[0]"  # (batch, head, pos, d_head): which axis is which, none knows
    with pytest.raises(SelectionError, match=r"at each position to have features\. Got model\.layers\.0"):
        tiny().run(tokens, [edit.at(rotated)])
    with pytest.raises(ShapeError, match="must have the dictionary's width of"):
        tiny().run(tokens, [edit.at("mlp_post", layer=1)])
    with pytest.raises(ShapeError, match="must have the dictionary's width of"):
        mp.plan(tiny(), tokens, edit, "mlp_post", metric=METRIC)
    with pytest.raises(SelectionError, match="`head` and `neuron` must be None for Features"):
        tiny().run(tokens, [edit.at("resid_post", layer=1, neuron=3)])


def test_the_axis_is_refused_where_it_means_nothing(sae, tiny, tokens):
    model, edit = tiny(), mp.Features(sae, mp.Scale(0.0))
    with pytest.raises(KindError, match="must edit features if `over` has 'feature'"):
        mp.sweep(model, tokens, mp.Scale(0.0), "resid_post", "feature", METRIC, features=[1])
    with pytest.raises(ValueRefusedError, match=r"`features` must be given if `over` has 'feature'.*mp\.Features"):
        mp.sweep(model, tokens, edit, "resid_post", "feature", METRIC)
    with pytest.raises(ValueRefusedError, match="`features` must be left out unless `over` has 'feature'"):
        mp.sweep(model, tokens, edit, "resid_post", "layer", METRIC, features=[1])
    with pytest.raises(SelectionError, match="`features` must lie in 0 to 19"):
        mp.sweep(model, tokens, edit, "resid_post", "feature", METRIC, features=[20], layers=1)


def test_what_an_edit_is_called_and_recognised_by(sae, make):
    edit = mp.Features(sae, mp.Scale(0.0), [3, 1])
    assert repr(edit).endswith("features of width 64), Scale(0.0), features=[3, 1])") or "Scale(0.0)" in repr(edit)
    again = mp.Features(make("b"), mp.Scale(0.0), [3, 1])
    assert fingerprint(edit) == fingerprint(again)
    assert fingerprint(edit) != fingerprint(mp.Features(sae, mp.Scale(0.0), [3, 2]))


def test_a_checkpoint_knows_its_features(tmp_path, sae, tiny, tokens):
    edit = mp.Features(sae, mp.Ablate("zero"), [3, 1])
    args = (tiny(), tokens, edit, "resid_post", "feature", METRIC)
    first = mp.sweep(*args, layers=1, checkpoint=tmp_path / "a.npz")
    again = mp.sweep(*args, layers=1, checkpoint=tmp_path / "a.npz")
    np.testing.assert_array_equal(first.values, again.values)


@pytest.mark.parametrize("config", [{}, {"architecture": "topk", "k": 4}])
def test_gradients_flow_through_an_edit(make, arrays, x, config):
    """Of a standing edit: by finite differences, where no feature begins or ends."""
    edit = mp.Features(make(**config), mp.Scale(0.5), [2, 9]).at("resid_post", layer=1)
    weights = mx.random.normal(x.shape)

    def total(array):
        return mx.sum(edit.apply(array, SITE, Span(0, 8, 8)) * weights)

    direction = mx.random.normal(x.shape)
    slope = mx.sum(mx.grad(total)(mx.array(x)) * direction).item()
    step = 1e-3
    difference = (total(mx.array(x) + step * direction) - total(mx.array(x) - step * direction)).item() / (2 * step)
    assert slope == pytest.approx(difference, rel=0.02)
