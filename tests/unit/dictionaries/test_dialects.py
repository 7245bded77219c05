"""Each dialect on synthetic files, against the numbers that its own code gives, written out in numpy."""

import mlx.core as mx
import numpy as np
import pytest
from dictionary_files import LLAMA_SCOPE, arrays_of, saelens_folder, without, write_json, write_tensors

import mlx_patch as mp

RELU = lambda x: np.maximum(x, 0)  # noqa: E731


@pytest.fixture
def draw():
    return np.random.default_rng(7)


@pytest.fixture
def x(draw):
    """Activations. Shape `(2, 5, 6)`."""
    return draw.normal(size=(2, 5, 6)).astype(np.float32)


def check(sae, x, features, decoded):
    """All features, some of them, and what they decode to."""
    assert (sae.n_features, sae.d_model) == (features.shape[-1], x.shape[-1])
    np.testing.assert_allclose(sae.encode(mx.array(x)), features, atol=2e-5)
    some = [3, 0, 7]
    np.testing.assert_allclose(sae.encode(mx.array(x), some), features[..., some], atol=2e-5)
    np.testing.assert_allclose(sae.decode(mx.array(features), mx.array(x)), decoded, atol=2e-5)
    assert np.count_nonzero(features) > 3


def top_k(before, k):
    lowest = np.sort(before, axis=-1)[..., -k, None]
    return np.where(before >= lowest, before, 0)


def jump(before, threshold):
    return before * (before > threshold)


def test_saelens_standard(tmp_path, draw, x):
    arrays = without(arrays_of(draw), "threshold")
    sae = mp.dictionaries.load(saelens_folder(tmp_path, arrays))
    f = RELU((x - arrays["b_dec"]) @ arrays["W_enc"] + arrays["b_enc"])
    check(sae, x, f, f @ arrays["W_dec"] + arrays["b_dec"])
    assert sae.site is None


def test_saelens_jumprelu_at_its_site(tmp_path, draw, x):
    arrays = arrays_of(draw)
    arrays["threshold"][2] = -0.5  # then what is below 0 is rectified all the same
    metadata = {"hook_name": "blocks.4.hook_resid_pre"}
    config = {"architecture": "jumprelu", "apply_b_dec_to_input": False, "metadata": metadata}
    sae = mp.dictionaries.load(saelens_folder(tmp_path, arrays, config))
    f = RELU(jump(x @ arrays["W_enc"] + arrays["b_enc"], arrays["threshold"]))
    check(sae, x, f, f @ arrays["W_dec"] + arrays["b_dec"])
    assert sae.site == mp.Site("resid_pre", 4)
    assert repr(sae) == "Dictionary(SAELens autoencoder, 10 features of width 6 at blocks.4.hook_resid_pre)"


def test_saelens_gated(tmp_path, draw, x):
    arrays = without(arrays_of(draw), "threshold", "b_enc")
    arrays |= {name: draw.normal(size=10).astype(np.float32) for name in ("b_gate", "b_mag", "r_mag")}
    sae = mp.dictionaries.load(saelens_folder(tmp_path, arrays, {"architecture": "gated"}))
    read = x - arrays["b_dec"]
    gate = read @ arrays["W_enc"] + arrays["b_gate"] > 0
    f = gate * RELU(read @ (arrays["W_enc"] * np.exp(arrays["r_mag"])) + arrays["b_mag"])
    check(sae, x, f, f @ arrays["W_dec"] + arrays["b_dec"])


@pytest.mark.parametrize("rescaled", [False, True])
def test_saelens_topk(tmp_path, draw, x, rescaled):
    arrays = without(arrays_of(draw), "threshold")
    arrays["b_enc"] -= 1.0  # so that some of the largest are below 0
    config = {"architecture": "topk", "k": 4, "rescale_acts_by_decoder_norm": rescaled}
    sae = mp.dictionaries.load(saelens_folder(tmp_path, arrays, config))
    norm = np.linalg.norm(arrays["W_dec"], axis=1) if rescaled else np.ones(10, np.float32)
    f = RELU(top_k(((x - arrays["b_dec"]) @ arrays["W_enc"] + arrays["b_enc"]) * norm, 4))
    check(sae, x, f, f / norm @ arrays["W_dec"] + arrays["b_dec"])
    np.testing.assert_allclose(sae.directions([5, 1]), (arrays["W_dec"] / norm[:, None])[[5, 1]], atol=1e-6)


def normalised(kind, x, factor):
    """What the encoder reads, and the way back of decoded values."""
    if kind == "constant_norm_rescale":
        coefficient = 6**0.5 / np.linalg.norm(x, axis=-1, keepdims=True)
        return x * coefficient, lambda decoded: decoded / coefficient
    if kind == "layer_norm":
        mean = x.mean(axis=-1, keepdims=True)
        std = x.std(axis=-1, keepdims=True, ddof=1)
        return (x - mean) / (std + 1e-5), lambda decoded: decoded * std + mean
    return x * factor, lambda decoded: decoded / factor


@pytest.mark.parametrize("kind", ["constant_norm_rescale", "layer_norm", "expected_average_only_in"])
def test_saelens_normalisations(tmp_path, draw, x, kind):
    arrays = without(arrays_of(draw), "threshold")
    factor = 0.5 if kind == "expected_average_only_in" else None
    folder = saelens_folder(tmp_path, arrays, {"normalize_activations": kind})
    sae = mp.dictionaries.load(folder, norm_factor=factor)
    read, back = normalised(kind, x, factor)
    f = RELU((read - arrays["b_dec"]) @ arrays["W_enc"] + arrays["b_enc"])
    check(sae, x, f, back(f @ arrays["W_dec"] + arrays["b_dec"]))


@pytest.mark.parametrize("kind", ["transcoder", "skip_transcoder", "jumprelu_transcoder", "jumprelu_skip_transcoder"])
def test_saelens_transcoders(tmp_path, draw, x, kind):
    arrays = arrays_of(draw, d_out=4)
    if "jumprelu" not in kind:
        arrays = without(arrays, "threshold")
    skip = np.zeros((4, 6), np.float32)
    if "skip" in kind:
        skip = arrays["W_skip"] = draw.normal(size=(4, 6)).astype(np.float32)
    metadata = {"hook_name": "blocks.1.ln2.hook_normalized", "hook_name_out": "blocks.1.hook_mlp_out"}
    config = {"architecture": kind, "d_out": 4, "apply_b_dec_to_input": False, "metadata": metadata}
    sae = mp.dictionaries.load(saelens_folder(tmp_path, arrays, config))
    f = RELU(jump(x @ arrays["W_enc"] + arrays["b_enc"], arrays.get("threshold", 0.0)))
    check(sae, x, f, f @ arrays["W_dec"] + arrays["b_dec"] + x @ skip.T)
    assert sae.is_transcoder
    assert (sae.site, sae.site_out) == (None, mp.Site("mlp_out", 1))


def test_saelens_before_version_6(tmp_path, draw, x):
    """Keys under their old names, beside the rest; factors of 1 that change nothing."""
    arrays = without(arrays_of(draw), "threshold") | {"scaling_factor": np.ones(10, np.float32)}
    write_tensors(tmp_path / "sae_weights.safetensors", arrays)
    config = {
        "model_name": "gpt2-small",
        "hook_point": "blocks.1.hook_resid_pre",
        "hook_point_layer": 1,
        "hook_point_head_index": None,
        "d_in": 6,
        "d_sae": 10,
        "dtype": "torch.float32",
        "activation_fn_str": "topk",
        "activation_fn_kwargs": {"k": 3},
        "normalize_activations": False,
    }
    write_json(tmp_path / "cfg.json", config)
    sae = mp.dictionaries.load(tmp_path)
    f = RELU(top_k((x - arrays["b_dec"]) @ arrays["W_enc"] + arrays["b_enc"], 3))
    check(sae, x, f, f @ arrays["W_dec"] + arrays["b_dec"])
    assert sae.site == mp.Site("resid_pre", 1)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("order", ["C", "F"])
def test_gemma_scope(tmp_path, draw, x, save, order):
    arrays = {name: np.asarray(array, order=order) for name, array in arrays_of(draw).items()}
    save(tmp_path / "params.npz", **arrays)
    sae = mp.dictionaries.load(tmp_path)
    f = jump(x @ arrays["W_enc"] + arrays["b_enc"], arrays["threshold"])
    check(sae, x, f, f @ arrays["W_dec"] + arrays["b_dec"])


@pytest.mark.parametrize("affine", [False, True])
def test_gemma_scope_2(tmp_path, draw, x, affine):
    arrays = {name.replace("W", "w"): array for name, array in arrays_of(draw).items()}
    skip = np.zeros((6, 6), np.float32)
    if affine:
        skip = arrays["affine_skip_connection"] = draw.normal(size=(6, 6)).astype(np.float32)
    write_tensors(tmp_path / "params.safetensors", arrays)
    end = "post_feedforward_layernorm.output"
    config = {
        "hf_hook_point_in": f"model.layers.5.{'pre_feedforward_layernorm.output' if affine else end}",
        "hf_hook_point_out": f"model.layers.5.{end}",
        "width": 10,
        "model_name": "google/gemma-3-4b-pt",
        "architecture": "jump_relu",
        "l0": 20,
        "affine_connection": affine,
        "type": "transcoder" if affine else "sae",
    }
    write_json(tmp_path / "config.json", config)
    sae = mp.dictionaries.load(tmp_path)
    f = jump(x @ arrays["w_enc"] + arrays["b_enc"], arrays["threshold"])
    check(sae, x, f, f @ arrays["w_dec"] + arrays["b_dec"] + x @ skip)
    assert sae.site_out == mp.Site("mlp_out", 5)
    assert sae.is_transcoder is affine


def test_llama_scope(tmp_path, draw, x):
    """Features of activations at the mean length, and a threshold of features of activations as they are."""
    arrays = arrays_of(draw)
    tensors = {
        "encoder.weight": arrays["W_enc"].T,
        "encoder.bias": arrays["b_enc"],
        "decoder.weight": arrays["W_dec"].T,
        "decoder.bias": arrays["b_dec"],
    }
    write_tensors(tmp_path / "checkpoints" / "final.safetensors", tensors)
    config = {
        **LLAMA_SCOPE,
        "dataset_average_activation_norm": {"in": 4.0, "out": 4.0},
        "use_decoder_bias": True,
        "apply_decoder_bias_to_pre_encoder": False,
        "sparsity_include_decoder_norm": True,
        "top_k": 50,
    }
    write_json(tmp_path / "hyperparams.json", config)
    sae = mp.dictionaries.load(tmp_path)
    factor = 6**0.5 / 4.0
    before = x * factor @ arrays["W_enc"] + arrays["b_enc"]
    norm = np.linalg.norm(arrays["W_dec"], axis=1)
    f = RELU(before) * (before * norm > 0.25 * factor)
    check(sae, x, f, (f @ arrays["W_dec"] + arrays["b_dec"]) / factor)
    np.testing.assert_allclose(sae.directions(2), arrays["W_dec"][[2]] / factor, atol=1e-6)
    assert sae.site == mp.Site("resid_post", 19)


@pytest.mark.parametrize("skip", [None, False, True])
def test_sparsify(tmp_path, draw, x, skip):
    """An autoencoder (None), and transcoders without and with a skip connection."""
    arrays = arrays_of(draw)
    tensors = {"encoder.weight": arrays["W_enc"].T, "encoder.bias": arrays["b_enc"]}
    tensors |= {name: arrays[name] for name in ("W_dec", "b_dec")}
    added = 0.0
    if skip:
        tensors["W_skip"] = draw.normal(size=(6, 6)).astype(np.float32)
        added = x @ tensors["W_skip"].T
    folder = tmp_path / "layers.10"
    write_tensors(folder / "sae.safetensors", tensors)
    config = {"d_in": 6, "k": 3, "num_latents": 10, "expansion_factor": 32, "normalize_decoder": True}
    config |= {"multi_topk": False, "skip_connection": bool(skip), "transcode": skip is not None, "activation": "topk"}
    write_json(folder / "cfg.json", config)
    sae = mp.dictionaries.load(folder)
    read = x if skip is not None else x - arrays["b_dec"]
    f = top_k(RELU(read @ arrays["W_enc"] + arrays["b_enc"]), 3)
    check(sae, x, f, f @ arrays["W_dec"] + arrays["b_dec"] + added)
    assert sae.site_out == mp.Site("resid_post", 10)


@pytest.mark.parametrize("activation", ["relu", "topk", "jump_relu"])
def test_circuit_tracer(tmp_path, draw, x, activation):
    arrays = arrays_of(draw, d_out=6)
    arrays["threshold"][2] = -0.5  # circuit-tracer does not rectify
    tensors = without(arrays, "threshold") | {"W_enc": arrays["W_enc"].T}
    tensors["W_skip"] = draw.normal(size=(6, 6)).astype(np.float32)
    text = (
        "model_kind: transcoder_set\nfeature_input_hook: hook_resid_mid\nfeature_output_hook: hook_mlp_out\nscan: a\n"
    )
    if activation == "topk":
        text += "activation: topk\nk: 4\n"
        tensors["b_enc"] = tensors["b_enc"] - 1.0
    if activation == "jump_relu":
        tensors["activation_function.threshold"] = arrays["threshold"]
    (tmp_path / "config.yaml").write_text(text, encoding="utf-8")
    write_tensors(tmp_path / "layer_0.safetensors", tensors)
    write_tensors(tmp_path / "layer_11.safetensors", tensors)
    sae = mp.dictionaries.load(tmp_path, layer=11)
    before = x @ arrays["W_enc"] + tensors["b_enc"]
    f = {"relu": RELU(before), "topk": top_k(before, 4), "jump_relu": jump(before, arrays["threshold"])}[activation]
    check(sae, x, f, f @ arrays["W_dec"] + arrays["b_dec"] + x @ tensors["W_skip"].T)
    assert (sae.site, sae.site_out) == (mp.Site("resid_mid", 11), mp.Site("mlp_out", 11))


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16])
def test_half_types_are_computed_in_float32(tmp_path, draw, x, dtype):
    arrays = {name: mx.array(array).astype(dtype) for name, array in without(arrays_of(draw), "threshold").items()}
    saelens_folder(tmp_path, {"W_enc": np.zeros((6, 10), np.float32)})
    mx.save_safetensors(str(tmp_path / "sae_weights.safetensors"), arrays)
    sae = mp.dictionaries.load(tmp_path)
    wide = {name: np.array(array.astype(mx.float32)) for name, array in arrays.items()}
    f = RELU((x - wide["b_dec"]) @ wide["W_enc"] + wide["b_enc"])
    check(sae, x, f, f @ wide["W_dec"] + wide["b_dec"])


def test_float64_is_read_as_float32(tmp_path, draw, x):
    arrays = {name: array.astype(np.float64) for name, array in arrays_of(draw).items()}
    np.savez(tmp_path / "params.npz", **arrays)
    sae = mp.dictionaries.load(tmp_path)
    f = jump(x @ arrays["W_enc"] + arrays["b_enc"], arrays["threshold"])
    check(sae, x, f.astype(np.float32), f @ arrays["W_dec"] + arrays["b_dec"])


def test_heads_lie_side_by_side(tmp_path, draw, x):
    arrays = without(arrays_of(draw), "threshold")
    config = {"reshape_activations": "hook_z", "metadata": {"hook_name": "blocks.0.attn.hook_z"}}
    sae = mp.dictionaries.load(saelens_folder(tmp_path, arrays, config))
    by_head = mx.array(x).reshape(2, 5, 3, 2)
    np.testing.assert_array_equal(sae.encode(by_head), sae.encode(mx.array(x)))
    assert sae.site == mp.Site("z", 0)
