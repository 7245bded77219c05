"""What other dialects than SAELens's mean otherwise, and files of dictionaries that cannot be read."""

import zipfile
from io import BytesIO

import mlx.core as mx
import numpy as np
import pytest
from dictionary_files import LLAMA_SCOPE, arrays_of, saelens_folder, without, write_json, write_tensors

import mlx_patch as mp
from mlx_patch.errors import FileError, ShapeError

GEMMA_SCOPE_2 = {"hf_hook_point_in": "model.layers.5.post_feedforward_layernorm.output", "architecture": "jump_relu"}


@pytest.fixture
def arrays():
    return arrays_of(np.random.default_rng(3))


def gemma_scope_2(folder, arrays):
    named = {name.replace("W", "w"): array for name, array in arrays.items()}
    write_tensors(folder / "params.safetensors", named | {"affine_skip_connection": np.eye(6, dtype=np.float32)})
    write_json(folder / "config.json", {**GEMMA_SCOPE_2, "affine_connection": True, "type": "sae"})


def sparsify(folder, arrays):
    write_tensors(folder / "sae.safetensors", arrays)
    write_json(folder / "cfg.json", {"d_in": 6, "k": 3, "num_latents": 10, "skip_connection": True})


def llama_scope(folder, arrays, norms=(4.0, 5.0)):
    write_tensors(folder / "checkpoints" / "final.safetensors", arrays)
    lengths = dict(zip(("in", "out"), norms, strict=True))
    write_json(folder / "hyperparams.json", {**LLAMA_SCOPE, "dataset_average_activation_norm": lengths})


def llama_scope_of_length_0(folder, arrays):
    llama_scope(folder, arrays, (0.0, 0.0))


def circuit_tracer(folder, arrays):
    text = "model_kind: transcoder_set\nfeature_input_hook: a\nfeature_output_hook: b\nactivation: topk\n"
    (folder / "config.yaml").write_text(text, encoding="utf-8")
    write_tensors(folder / "layer_0.safetensors", without(arrays, "threshold") | {"W_enc": arrays["W_enc"].T})


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (gemma_scope_2, r"config\.json must have an affine connection in a transcoder only\. Got 'sae'"),
        (sparsify, r"cfg\.json must have a skip connection in a transcoder only\. Got an autoencoder"),
        (llama_scope, r"must have one mean length .* for in and out\. Got \{'in': 4\.0, 'out': 5\.0\}"),
        (llama_scope_of_length_0, r"must have one mean length of activations, more than 0, for in and out\. Got"),
        (circuit_tracer, r"config\.yaml must say 'k' where the activation is 'topk'\. Fetch it again"),
    ],
)
def test_what_dialects_mean_otherwise_is_refused(tmp_path, arrays, write, message):
    write(tmp_path, arrays)
    with pytest.raises(FileError, match=message):
        mp.dictionaries.load(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", r"`folder` must hold a cfg\.json in JSON\. Got .*cfg\.json, which"),
        ("[1]", r"`folder` must hold a cfg\.json that maps keys to values\. Got .*cfg\.json"),
        ('{"architecture": "standard"}', r"cfg\.json must say 'd_in'\. It has: 'architecture'\. Fetch it again"),
    ],
)
def test_a_configuration_that_says_too_little_is_refused(tmp_path, arrays, text, message):
    folder = saelens_folder(tmp_path, without(arrays, "threshold"))
    (folder / "cfg.json").write_text(text, encoding="utf-8")
    with pytest.raises(FileError, match=message):
        mp.dictionaries.load(folder)


@pytest.mark.parametrize("name", ["cfg.json", "sae_weights.safetensors"])
def test_a_folder_in_the_place_of_a_file_is_refused(tmp_path, arrays, name):
    folder = saelens_folder(tmp_path, without(arrays, "threshold"))
    (folder / name).unlink()
    (folder / name).mkdir()
    with pytest.raises(FileError, match=rf"`folder` must hold .*{name}, which is not a regular file"):
        mp.dictionaries.load(folder)


@pytest.mark.parametrize(
    ("dtype", "message"),
    [
        (mx.int32, r"must hold 'W_enc' as real numbers of shape \(6, 10\)\. Got int32"),
        (
            mx.complex64,
            r"must hold a whole .*, which has numbers of C64 in '\w+', which is no dtype of weights",
        ),
    ],
)
def test_other_numbers_are_no_weights(tmp_path, arrays, dtype, message):
    folder = saelens_folder(tmp_path, without(arrays, "threshold"))
    others = {name: mx.array(array).astype(dtype) for name, array in without(arrays, "threshold").items()}
    mx.save_safetensors(str(folder / "sae_weights.safetensors"), others)
    with pytest.raises(FileError, match=message):
        mp.dictionaries.load(folder)


def zipped(path, members, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def npy(array):
    file = BytesIO()
    np.save(file, array)
    return file.getvalue()


def test_a_vector_is_no_matrix(tmp_path):
    zipped(tmp_path / "params.npz", {"W_enc.npy": npy(np.zeros(6))})
    with pytest.raises(FileError, match=r"'W_enc' as real numbers of shape \(any, any\)\. Got float64, \(6,\)"):
        mp.dictionaries.load(tmp_path)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"W_enc": b"x"}, r"params\.npz, which has 'W_enc', which is not one array"),
        ({"W_enc.npy": npy(np.zeros(6, np.uint8))}, r"has numbers of uint8 in 'W_enc', which is no dtype of"),
        ({"W_enc.npy": npy(np.zeros(6))[:-8]}, r"is damaged: 'W_enc' has not the bytes that its shape needs"),
    ],
)
def test_zips_of_something_else_are_refused(tmp_path, members, message):
    zipped(tmp_path / "params.npz", members)
    with pytest.raises(FileError, match=rf"`folder` must hold a whole params\.npz\. Got .*{message}"):
        mp.dictionaries.load(tmp_path)


def test_a_member_without_its_header_is_refused(tmp_path, arrays):
    np.savez(tmp_path / "params.npz", **arrays)
    path = tmp_path / "params.npz"
    with zipfile.ZipFile(path) as archive:
        begin = archive.getinfo("b_dec.npy").header_offset
    content = bytearray(path.read_bytes())
    content[begin : begin + 4] = b"PK\x03\x05"
    path.write_bytes(content)
    with pytest.raises(FileError, match=r"`folder` must hold a whole params\.npz"):
        mp.dictionaries.load(tmp_path)


def test_each_position_has_its_text(tmp_path, arrays):
    sae = mp.dictionaries.load(saelens_folder(tmp_path, without(arrays, "threshold")))
    with pytest.raises(ShapeError, match=r"`str_tokens` must have a text for each of 3 positions\. Got 2"):
        sae.top(mx.ones((1, 3, 6)), str_tokens=["a", "b"])
