"""What `load` refuses, what it leaves on disk, and what a dictionary says of its arguments."""

import json
import subprocess
import sys

import mlx.core as mx
import numpy as np
import pytest
from dictionary_files import arrays_of, saelens_folder, without, write_json, write_tensors

import mlx_patch as mp
from mlx_patch.errors import FileError, KindError, SelectionError, ShapeError, ValueRefusedError
from mlx_patch.fingerprints import fingerprint


@pytest.fixture
def draw():
    return np.random.default_rng(3)


@pytest.fixture
def arrays(draw):
    return without(arrays_of(draw), "threshold")


@pytest.fixture
def sae(tmp_path, arrays):
    return mp.dictionaries.load(saelens_folder(tmp_path / "sae", arrays))


def test_columns_are_read_some_rows_at_a_time(sae, tmp_path, arrays, monkeypatch):
    """Six rows, of which the last two make no whole group."""
    activation = mx.random.normal((1, 3, 6), key=mx.random.key(0))
    expected = sae.encode(activation)
    assert mx.any(expected != 0).item()
    monkeypatch.setattr("mlx_patch.dictionaries._stored._MAPPED_ROWS", 4)
    again = mp.dictionaries.load(saelens_folder(tmp_path / "again", arrays))
    assert mx.array_equal(again.encode(activation), expected)


def test_unknown_keys_are_refused(tmp_path, arrays):
    folder = saelens_folder(tmp_path, arrays, {"use_my_trick": True})
    with pytest.raises(FileError, match=r"must have known keys only.*Got 'use_my_trick'\. If they change nothing"):
        mp.dictionaries.load(folder)


def test_unknown_arrays_are_refused(tmp_path, arrays):
    folder = saelens_folder(tmp_path, {**arrays, "W_more": arrays["b_dec"]})
    with pytest.raises(FileError, match=r"must hold known arrays only.*Got 'W_more'"):
        mp.dictionaries.load(folder)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"architecture": "matching_pursuit"}, "must have one of .* for 'architecture'. Got 'matching_pursuit'"),
        ({"normalize_activations": "other"}, "for 'normalize_activations'. Got 'other', which mlx_patch does not know"),
        ({"d_in": "6"}, "must have int for 'd_in'. Got '6'"),
        ({"d_in": True}, "must have int for 'd_in'. Got True"),
        ({"d_in": 7}, r"must hold 'W_enc' as real numbers of shape \(7, 10\). Got float32, \(6, 10\)"),
        ({"architecture": "topk"}, "must have a k of 1 to 10. Got 0"),
        ({"architecture": "topk", "k": 11}, "must have a k of 1 to 10. Got 11"),
        ({"architecture": "jumprelu"}, "must hold 'threshold'. It has: "),
        (
            {"normalize_activations": "expected_average_only_in"},
            r"scaled to a mean length of sqrt\(6\).*`norm_factor=`",
        ),
        ({"finetuning_scaling_factor": True}, "for 'finetuning_scaling_factor'. Got True"),
        ({"rescale_acts_by_decoder_norm": True}, "'rescale_acts_by_decoder_norm' for topk only. Got standard"),
        ({"architecture": "transcoder", "d_out": 6}, "must not apply b_dec to the input of a transcoder"),
        ({"metadata": {"hook_head_index": 3}}, "must be of all heads together. Got one of head 3"),
        (
            {"metadata": {"model_from_pretrained_kwargs": {"center_writing_weights": True}}},
            "TransformerLens had centred",
        ),
    ],
)
def test_what_saelens_means_otherwise_is_refused(tmp_path, arrays, config, message):
    with pytest.raises(FileError, match=message):
        mp.dictionaries.load(saelens_folder(tmp_path, arrays, config))


def test_factors_fitted_after_training_are_refused(tmp_path, arrays):
    folder = saelens_folder(tmp_path, {**arrays, "scaling_factor": np.full(10, 1.5, np.float32)})
    with pytest.raises(
        FileError, match=r"no factors that were fitted after training. Got 'scaling_factor' other than 1"
    ):
        mp.dictionaries.load(folder)


def test_pickles_are_refused(tmp_path):
    (tmp_path / "ae.pt").write_bytes(b"x")
    with pytest.raises(FileError, match=r"Got ae\.pt.*may run any code, and are never read"):
        mp.dictionaries.load(tmp_path)


def test_pickled_objects_in_a_zip_are_refused(tmp_path, draw):
    np.savez(tmp_path / "params.npz", **arrays_of(draw), more=np.array([{}, []], dtype=object))
    with pytest.raises(FileError, match=r"holds pickled objects, which may run any code and are never read, in 'more'"):
        mp.dictionaries.load(tmp_path)


def test_python_objects_in_yaml_are_refused(tmp_path, arrays):
    (tmp_path / "config.yaml").write_text("model_kind: !!python/object/apply:os.getcwd []\n", encoding="utf-8")
    write_tensors(tmp_path / "layer_0.safetensors", arrays)
    with pytest.raises(FileError, match=r"must hold a config\.yaml in YAML"):
        mp.dictionaries.load(tmp_path)


def test_a_cut_file_is_refused(tmp_path, arrays):
    path = saelens_folder(tmp_path, arrays) / "sae_weights.safetensors"
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(FileError, match=r"is cut off or too long"):
        mp.dictionaries.load(tmp_path)


def test_a_cut_zip_is_refused(tmp_path, draw):
    np.savez(tmp_path / "params.npz", **arrays_of(draw))
    path = tmp_path / "params.npz"
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(FileError, match=r"must hold a whole params\.npz"):
        mp.dictionaries.load(tmp_path)


def test_folders_are_told_apart(tmp_path, arrays):
    with pytest.raises(FileError, match=r"must be a folder with a dictionary's files"):
        mp.dictionaries.load(tmp_path / "absent")
    saelens_folder(tmp_path / "inner", arrays)
    with pytest.raises(FileError, match=r"Load one of its folders: inner\."):
        mp.dictionaries.load(tmp_path)
    write_tensors(tmp_path / "inner" / "sae.safetensors", arrays)
    with pytest.raises(FileError, match=r"must hold one dictionary. Got files of"):
        mp.dictionaries.load(tmp_path / "inner")


def test_a_layer_is_named_where_there_are_several(tmp_path, arrays):
    text = "model_kind: transcoder_set\nfeature_input_hook: a\nfeature_output_hook: b\n"
    (tmp_path / "config.yaml").write_text(text, encoding="utf-8")
    for layer in (0, 2):
        write_tensors(tmp_path / f"layer_{layer}.safetensors", arrays)
    with pytest.raises(SelectionError, match=r"`layer` must be one of 0, 2, .* Got None"):
        mp.dictionaries.load(tmp_path)
    with pytest.raises(SelectionError, match=r"Got 1. Pass `layer=`"):
        mp.dictionaries.load(tmp_path, layer=1)


def test_arguments_that_a_dialect_does_not_take_are_refused(sae):
    with pytest.raises(SelectionError, match=r"`layer` must be left out for SAELens"):
        mp.dictionaries.load(sae.folder, layer=1)
    with pytest.raises(FileError, match=r"`norm_factor` must be left out"):
        mp.dictionaries.load(sae.folder, norm_factor=2.0)
    with pytest.raises(ValueRefusedError, match=r"`norm_factor` must be above 0"):
        mp.dictionaries.load(sae.folder, norm_factor=0.0)
    with pytest.raises(KindError, match=r"`norm_factor` must be a number"):
        mp.dictionaries.load(sae.folder, norm_factor="2")


def test_transcoders_of_llama_scope_are_refused(tmp_path, arrays):
    config = {"act_fn": "jumprelu", "norm_activation": "dataset-wise"}
    config |= {"hook_point_in": "blocks.1.ln2.hook_normalized", "hook_point_out": "blocks.1.hook_mlp_out"}
    write_json(tmp_path / "hyperparams.json", config)
    write_tensors(tmp_path / "checkpoints" / "final.safetensors", arrays)
    with pytest.raises(FileError, match=r"must be of an autoencoder. Got a transcoder"):
        mp.dictionaries.load(tmp_path)


def test_a_file_that_changed_is_refused(sae):
    path = sae.folder / "sae_weights.safetensors"
    path.write_bytes(path.read_bytes()[::-1])
    with pytest.raises(FileError, match=r"has changed since the dictionary was loaded from it"):
        sae.encode(mx.zeros((1, 6)))
    path.unlink()
    with pytest.raises(FileError, match=r"cannot be read any more"):
        sae.directions(0)


def test_what_was_read_stays(sae):
    before = sae.encode(mx.ones((1, 6)))
    (sae.folder / "sae_weights.safetensors").unlink()
    assert mx.array_equal(sae.encode(mx.ones((1, 6))), before).item()


@pytest.mark.parametrize(
    ("features", "message"),
    [
        ([10], "must lie in 0 to 9, the dictionary's 10 features. Got 10"),
        ([-1], "Got -1"),
        ([1, 1], "must not name anything twice"),
        ([], "must choose something"),
        ("a", "must be an int or a list of ints"),
        ([True], "must be an int or a list of ints"),
    ],
)
def test_features_are_numbers_of_the_dictionary(sae, features, message):
    with pytest.raises(SelectionError, match=f"`features` {message}" if message.startswith("must") else message):
        sae.encode(mx.zeros((1, 6)), features)


def test_shapes_are_checked(sae):
    with pytest.raises(ShapeError, match=r"must have the dictionary's width of 6 .* Got \(1, 7\)"):
        sae.encode(mx.zeros((1, 7)))
    with pytest.raises(ShapeError, match=r"must have all 10 features along the last axis. Got \(1, 6\)"):
        sae.decode(mx.zeros((1, 6)))
    with pytest.raises(KindError, match=r"`activation` must be an mx.array. Got ndarray"):
        sae.encode(np.zeros((1, 6)))


def test_decoding_asks_for_what_it_depends_on(tmp_path, arrays):
    sae = mp.dictionaries.load(saelens_folder(tmp_path, arrays, {"normalize_activations": "layer_norm"}))
    with pytest.raises(ValueRefusedError, match=r"`activation` must be what the features were encoded from"):
        sae.decode(mx.zeros((1, 10)))


def test_top_features_of_a_prompt(sae, tiny, draw):
    x = mx.array(draw.normal(size=(2, 5, 6)).astype(np.float32))
    values = np.array(sae.encode(x))[:, 1:]
    top = sae.top(x, k=3, pos=slice(1, None), str_tokens=list("abcde"))
    by_size = np.argsort(-values.max(axis=(0, 1)))[:3]
    np.testing.assert_array_equal(top.features, by_size)
    np.testing.assert_allclose(top.values, values.max(axis=(0, 1))[by_size])
    at = values[top.rows, top.positions - 1, top.features]
    np.testing.assert_array_equal(at, top.values)
    assert repr(top).splitlines()[0].split() == ["feature", "value", "position", "row", "token"]
    assert top.texts == tuple("abcde"[position] for position in top.positions)
    last = sae.top(x, k=100, pos=-1)
    assert set(last.positions) == {4}
    assert len(last) == np.count_nonzero(np.any(values[:, -1] > 0, axis=0))


def test_top_features_refuse(sae):
    cache = mp.ActivationCache({mp.Site("resid_post", 0): mx.zeros((1, 3, 6))}, mx.array([[1, 2, 3]]), (0, 1, 2), 3)
    with pytest.raises(ValueRefusedError, match=r"`site` must say where in the cache"):
        sae.top(cache)
    assert len(sae.top(cache, site="resid_post.0")) > 0
    with pytest.raises(SelectionError, match=r"`pos` must be positions of the activation, 0 to 2. Got 5"):
        sae.top(cache, site="resid_post.0", pos=5)
    with pytest.raises(ValueRefusedError, match=r"`k` must be 1 or more"):
        sae.top(cache, k=0, site="resid_post.0")
    with pytest.raises(ValueRefusedError, match=r"`site` must be left out"):
        sae.top(mx.zeros((1, 3, 6)), site="resid_post.0")
    with pytest.raises(KindError, match=r"must be an ActivationCache or an mx.array"):
        sae.top([1.0])
    with pytest.raises(KindError, match=r"must have the axes \(batch, pos, ...\)"):
        sae.top(mx.zeros((3, 6)))
    with pytest.raises(SelectionError, match=r"`pos` must choose something"):
        sae.top(mx.zeros((1, 3, 6)), pos=slice(3, None))


def test_a_copy_has_the_same_fingerprint(tmp_path, arrays, sae):
    copy = mp.dictionaries.load(saelens_folder(tmp_path / "copy", arrays))
    assert fingerprint(sae) == fingerprint(copy)
    other = mp.dictionaries.load(saelens_folder(tmp_path / "other", {**arrays, "b_dec": arrays["b_dec"] + 1}))
    assert fingerprint(sae) != fingerprint(other)
    assert fingerprint(sae) != fingerprint(mp.dictionaries.load(saelens_folder(tmp_path / "b", arrays, {"dtype": "a"})))
    assert len(sae.identity) == 32


def test_a_name_of_a_folder_is_no_part_of_a_fingerprint(tmp_path, arrays):
    """sparsify's configuration names no place: the folder does."""
    tensors = {"encoder.weight": arrays["W_enc"].T, "encoder.bias": arrays["b_enc"]}
    tensors |= {name: arrays[name] for name in ("W_dec", "b_dec")}
    copies = []
    for name in ("a", "b"):
        write_tensors(tmp_path / name / "sae.safetensors", tensors)
        write_json(tmp_path / name / "cfg.json", {"d_in": 6, "k": 3, "num_latents": 10})
        copies.append(mp.dictionaries.load(tmp_path / name))
    assert fingerprint(copies[0]) == fingerprint(copies[1])


LARGE = """
import json, resource, sys
import mlx.core as mx
import mlx_patch as mp

folder = sys.argv[1]
sae = mp.dictionaries.load(folder)
x = mx.random.normal((1, 1, 2304))
assert sae.is_large
assert sae.encode(x).shape == (1, 1, 65536)
assert sae.encode(x, [65535, 7]).shape == (1, 1, 2)
assert sae.directions([65535, 7]).shape == (2, 2304)
edit = mp.Features(sae, mp.Scale(0.0), [65535, 7]).at("resid_post", layer=0)
mx.eval(edit.apply(x, mp.Site("resid_post", 0), mp.interventions.Span(0, 1, 1)))
if sys.platform == "linux":  # where `getrusage` counts what the parent had when it forked
    lines = open("/proc/self/status", encoding="utf-8").read().splitlines()
    [peak] = [int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")]
else:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(peak)
"""


@pytest.mark.slow
def test_a_large_dictionary_stays_on_disk(tmp_path):
    """65,536 x 2,304 in float32: 1.2 GB of a file with holes, within 1 GiB of memory, with TopK too."""
    shapes = {"W_enc": (2304, 65536), "W_dec": (65536, 2304), "b_enc": (65536,), "b_dec": (2304,)}
    header, offset = {}, 0
    for name, shape in shapes.items():
        size = 4 * int(np.prod(shape))
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    saelens_folder(tmp_path, {"W_enc": np.zeros((2304, 65536), np.int8)}, {"architecture": "topk", "k": 32})
    text = json.dumps(header).encode()
    with (tmp_path / "sae_weights.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + offset)
    run = subprocess.run([sys.executable, "-c", LARGE, str(tmp_path)], check=False, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert int(run.stdout) < 2**30
