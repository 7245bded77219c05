"""`Replace(source, basis=B)`: `h + (s - h) B B^T`, and nothing else of the activation."""

import mlx.core as mx
import numpy as np
import pytest

import mlx_patch as mp
from mlx_patch.errors import KindError, PatchError, ShapeError, ValueRefusedError

WIDTH = 64  # of tiny llama's stream
METRIC = mp.metrics.LogitDiff(3, 7)
HOST, SOURCE = [[11, 48, 85, 26, 63, 4, 41, 78]], [[5, 9, 63, 2, 17, 33, 8, 70]]


def drawn(*shape, seed=0):
    return mx.random.normal(shape, key=mx.random.key(seed))


BASIS = mp.orthonormal(drawn(3, WIDTH))


@pytest.fixture
def cache(tiny):
    return tiny("llama").run_with_cache(SOURCE, ("resid_post", "z", "mlp_out"))[1]


def exchanged(own, source, basis):
    """By hand, in float64."""
    own, source, basis = (np.array(array.astype(mx.float32), dtype=np.float64) for array in (own, source, basis))
    return own + (source - own) @ basis @ basis.T


def test_only_the_component_in_the_subspace_is_replaced(tiny, cache):
    edit = mp.Replace(cache, basis=BASIS).at("resid_post", layer=1, pos=[2, -1])
    _, before = tiny("llama").run_with_cache(HOST, "resid_post")
    _, after = tiny("llama").run_with_cache(HOST, "resid_post", edit)
    expected = np.array(before["resid_post", 1])
    by_hand = exchanged(before["resid_post", 1], cache["resid_post", 1], BASIS)
    expected[:, [2, 7]] = by_hand[:, [2, 7]]
    np.testing.assert_allclose(np.array(after["resid_post", 1]), expected, atol=1e-5)
    assert (after["resid_post", 1][:, :2] == before["resid_post", 1][:, :2]).all()


def test_a_basis_of_heads_serves_each_head(tiny, cache):
    basis = mp.orthonormal(drawn(2, cache["z", 0].shape[-1]))
    edit = mp.Replace(cache, basis=basis).at("z", layer=0, head=[1, 3])
    _, before = tiny("llama").run_with_cache(HOST, "z")
    _, after = tiny("llama").run_with_cache(HOST, "z", edit)
    expected = np.array(before["z", 0])
    expected[:, :, [1, 3]] = exchanged(before["z", 0], cache["z", 0], basis)[:, :, [1, 3]]
    np.testing.assert_allclose(np.array(after["z", 0]), expected, atol=1e-5)


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16, mx.float16])
def test_equal_values_are_left_bit_for_bit(dtype):
    own = (100 * drawn(1, 3, WIDTH, seed=1)).astype(dtype)
    edit = mp.Replace(own, basis=BASIS).at("resid_post", layer=0)
    assert (edit.apply(own, mp.Site("resid_post", 0), mp.interventions.Span(0, 3, 3)) == own).all()


@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float16])
def test_half_types_are_rounded_once(dtype):
    own, source = (drawn(1, 3, WIDTH, seed=seed).astype(dtype) for seed in (1, 2))
    edit = mp.Replace(source, basis=BASIS).at("resid_post", layer=0)
    made = edit.apply(own, mp.Site("resid_post", 0), mp.interventions.Span(0, 3, 3))
    assert made.dtype == dtype
    exact = exchanged(own, source, BASIS)
    rounded = np.array(mx.array(exact.astype(np.float32)).astype(dtype).astype(mx.float32))
    error, best = np.abs(np.array(made.astype(mx.float32)) - exact), np.abs(rounded - exact)
    assert (error <= best + 1e-5).all()


def test_a_whole_basis_is_a_plain_replace(tiny, cache):
    whole = mp.orthonormal(drawn(WIDTH, WIDTH))
    by_basis, plain = (
        tiny("llama").run(HOST, edit.at("resid_post", layer=1, pos=-1))
        for edit in (mp.Replace(cache, basis=whole), mp.Replace(cache))
    )
    np.testing.assert_allclose(np.array(by_basis), np.array(plain), atol=1e-4)


def test_two_halves_make_the_whole(tiny, cache):
    whole = mp.orthonormal(drawn(WIDTH, WIDTH))
    halves = mp.Replace(cache, basis=whole[:, :20]) | mp.Replace(cache, basis=whole[:, 20:])
    both, plain = (tiny("llama").run(HOST, edit.at("mlp_out", layer=1, pos=3)) for edit in (halves, mp.Replace(cache)))
    np.testing.assert_allclose(np.array(both), np.array(plain), atol=1e-4)


def test_a_part_of_the_last_axis_has_a_basis_of_its_size(tiny, cache):
    patch = mp.Replace(cache, basis=mp.orthonormal(drawn(2, 8)))
    ask = {"at": "mlp_out", "over": ("layer", "neuron"), "neurons": [range(8), range(8, 16)], "metric": METRIC}
    quick, plain = (
        mp.sweep(tiny("llama"), HOST, patch, executor=executor, progress=False, **ask)
        for executor in ("auto", "reference")
    )
    np.testing.assert_allclose(quick.values, plain.values, atol=1e-4)


CELLS = {
    "whole streams": {"over": ("layer",)},
    "positions": {"over": ("layer", "pos"), "positions": [0, (2, 3), -1]},
}


@pytest.mark.parametrize("choices", CELLS.values(), ids=CELLS)
@pytest.mark.parametrize("name", ["llama", "gemma2", "mamba", "cohere"])
def test_sweeps_equal_one_run_a_cell(tiny, name, choices):
    """A whole stream too: an edit that overwrote it would need nothing of the host's."""
    model = tiny(name)
    _, cache = model.run_with_cache(SOURCE, "resid_post")
    ask = {"at": "resid_post", "metric": METRIC, "progress": False, **choices}
    patch = mp.Replace(cache, basis=mp.orthonormal(drawn(3, model.d_model)))
    quick, plain = (mp.sweep(model, [HOST[0], SOURCE[0]], patch, executor=e, **ask) for e in ("auto", "reference"))
    np.testing.assert_allclose(quick.values, plain.values, atol=1e-4)
    assert np.abs(quick.values[..., 0] - quick.baseline[0]).max() > 1e-3
    np.testing.assert_allclose(
        quick.values[..., 1], np.broadcast_to(quick.baseline[1], quick.values.shape[:-1]), atol=1e-5
    )
    assert plain.provenance["sources"] is None  # it is no patch of whole activations


def test_rows_of_a_batch_have_values_of_their_own(tiny):
    model = tiny("llama")
    batch = [HOST[0], SOURCE[0]]
    _, cache = model.run_with_cache(batch[::-1], "resid_post")
    logits = model.run(batch, mp.Replace(cache, basis=BASIS).at("resid_post", layer=0, pos=4))
    for row in (0, 1):
        alone = mp.Replace(cache["resid_post", 0][row : row + 1], basis=BASIS).at("resid_post", layer=0, pos=4)
        np.testing.assert_allclose(np.array(model.run([batch[row]], alone)[0]), np.array(logits[row]), atol=1e-5)


def test_an_aligned_source_has_a_basis(tiny):
    model = tiny("llama")
    _, cache = model.run_with_cache([[3, *SOURCE[0]]], "resid_post")
    alignment = mp.align(mx.array([3, *SOURCE[0]]), mx.array(SOURCE[0]))
    patch = mp.Replace(cache, positions=alignment, basis=BASIS)
    _, before = model.run_with_cache(SOURCE, "resid_post")
    _, after = model.run_with_cache(SOURCE, "resid_post", patch.at("resid_post", layer=0, pos=-1))
    expected = exchanged(before["resid_post", 0][:, -1], cache["resid_post", 0][:, -1], BASIS)
    np.testing.assert_allclose(np.array(after["resid_post", 0][:, -1]), expected, atol=1e-5)
    ask = {"at": "resid_post", "over": ("layer",), "metric": METRIC, "progress": False}
    by_keyword = mp.sweep(model, SOURCE, mp.Replace(cache, basis=BASIS), positions=alignment, **ask)
    by_patch = mp.sweep(model, SOURCE, patch, **ask)
    assert np.abs(by_patch.values - by_patch.baseline).max() > 1e-3
    np.testing.assert_allclose(by_keyword.values, by_patch.values, atol=1e-5)


def test_attribution_is_the_derivative_of_the_sweep(tiny, cache):
    ask = {"at": "resid_post", "over": ("layer",), "metric": METRIC, "positions": -1, "progress": False}
    estimate = mp.attribute(tiny("llama"), HOST, mp.Replace(cache, basis=BASIS), **ask)
    host = tiny("llama").run_with_cache(HOST, "resid_post")[1]
    step = 0.01
    for layer in range(tiny("llama").n_layers):
        target = host["resid_post", layer] + step * (cache["resid_post", layer] - host["resid_post", layer])
        two = [host["resid_post", layer] - step * (cache["resid_post", layer] - host["resid_post", layer]), target]
        low, high = (
            METRIC(tiny("llama").run(HOST, mp.Replace(a, basis=BASIS).at("resid_post", layer=layer, pos=-1))).item()
            for a in two
        )
        slope = (high - low) / (2 * step)
        assert estimate.values[layer, 0] - estimate.baseline[0] == pytest.approx(slope, rel=0.02, abs=2e-3)


def test_generation_exchanges_in_the_prompt_and_behind_it(tiny, word_tokenizer):
    model = mp.HookedModel(tiny("llama").model, word_tokenizer)
    vector = 50 * drawn(WIDTH, seed=4)
    patch = mp.Replace(vector, basis=BASIS).at("resid_post", layer=1)
    plain, edited = (model.generate("w11 w48 w85", edits=edits, max_tokens=6) for edits in ([], [patch]))
    assert plain != edited
    tokens = model.tokenize("w11 w48 w85")
    for _ in range(6):
        best = mx.argmax(model.run(tokens, patch)[:, -1:], axis=-1)
        tokens = mx.concatenate([tokens, best.astype(tokens.dtype)], axis=1)
    assert edited.split() == word_tokenizer.decode(tokens[0, -6:].tolist()).split()


def test_a_long_prompt_goes_in_pieces(tiny):
    """Without `pos`, of a cache: piece by piece it is what one run gives."""
    model = tiny("llama")
    length = 300
    host, source = (mx.array(np.random.default_rng(seed).integers(0, 90, (1, length))) for seed in (0, 1))
    patch = mp.Replace(model.run_with_cache(source, "resid_post")[1], basis=BASIS)
    ask = {"at": "resid_post", "over": ("layer",), "metric": METRIC, "progress": False}
    quick, plain = (mp.sweep(model, host, patch, executor=executor, **ask) for executor in ("auto", "reference"))
    np.testing.assert_allclose(quick.values, plain.values, atol=1e-4)


def test_quantised_models_take_a_subspace(tiny):
    model = tiny("llama", "4bit")
    _, cache = model.run_with_cache(SOURCE, "resid_post")
    edit = mp.Replace(cache, basis=BASIS).at("resid_post", layer=1, pos=-1)
    _, before = model.run_with_cache(HOST, "resid_post")
    _, after = model.run_with_cache(HOST, "resid_post", edit)
    expected = exchanged(before["resid_post", 1], cache["resid_post", 1], BASIS)[:, -1]
    np.testing.assert_allclose(np.array(after["resid_post", 1][:, -1].astype(mx.float32)), expected, atol=0.02)


def test_a_checkpoint_is_of_one_basis(tiny, cache, tmp_path):
    ask = {"at": "resid_post", "metric": METRIC, "progress": False, "checkpoint": tmp_path / "sweep.npz"}
    mp.sweep(tiny("llama"), HOST, mp.Replace(cache, basis=BASIS), **ask)
    other = mp.orthonormal(drawn(3, WIDTH, seed=9))
    with pytest.raises(PatchError, match=r"another sweep|differ"):
        mp.sweep(tiny("llama"), HOST, mp.Replace(cache, basis=other), **ask)


def test_a_basis_spans_the_directions():
    rows = drawn(3, WIDTH)
    basis = np.array(mp.orthonormal(rows), dtype=np.float64)
    np.testing.assert_allclose(basis.T @ basis, np.eye(3), atol=1e-6)
    np.testing.assert_allclose(np.array(rows) @ basis @ basis.T, np.array(rows), atol=1e-5)
    assert mp.orthonormal(np.ones(4)).shape == (4, 1)


@pytest.mark.parametrize(
    ("basis", "error", "message"),
    [
        (drawn(WIDTH, 2), ValueRefusedError, r"`basis` must have orthonormal columns\. Got .* mp\.orthonormal\(basis"),
        (2 * BASIS, ValueRefusedError, r"products are off by 3\."),
        (mx.full((WIDTH, 1), float("nan")), ValueRefusedError, r"products are off by nan"),
        (BASIS.T, ShapeError, r"must have shape \(d_model, direction\), one vector a column\. Got \(3, 64\)\."),
        (BASIS[:, 0], ShapeError, r"one vector a column\. Got \(64,\)\. Make one with mp\.orthonormal"),
        ([1.0], KindError, r"`basis` must be an ActivationCache, an mx\.array or a numpy array\. Got list"),
    ],
)
def test_a_basis_must_be_orthonormal_columns(basis, error, message):
    with pytest.raises(error, match=message):
        mp.Replace(mx.zeros(WIDTH), basis=basis)


def test_a_cache_is_no_basis(cache):
    with pytest.raises(KindError, match=r"`basis` must be an mx\.array or a numpy array\. Got ActivationCache"):
        mp.Replace(cache, basis=cache)


def test_a_basis_must_fit_the_site(tiny, cache):
    with pytest.raises(ShapeError, match=r"`basis` must have as many rows as the last axis, 32, at .*hook_z\. Got 64"):
        tiny("llama").run(HOST, mp.Replace(cache, basis=BASIS).at("z", layer=0))


@pytest.mark.parametrize("site", ["pattern", "attn_scores"])
def test_keys_have_no_subspace(tiny, site):
    patch = mp.Replace(mx.zeros(8), basis=mp.orthonormal(mx.ones(8)))
    with pytest.raises(ValueRefusedError, match=rf"must not be '{site}' .* Exchange a subspace of 'q', 'k' or 'z'"):
        tiny("llama").run(HOST, patch.at(site, layer=0))


@pytest.mark.parametrize(("own", "written"), [(None, "Replace(array (64,) float32)"), (BASIS, None)])
def test_a_basis_is_written_where_there_is_one(own, written):
    assert repr(mp.Replace(mx.zeros(WIDTH), basis=own)) == (
        written or "Replace(array (64,) float32, basis=array (64, 3) float32)"
    )
