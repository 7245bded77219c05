"""Folders of a model that are spoilt, in every way that a download or a slip can: a `FileError` with the "
"folder, or a model."""

import json
import shutil
from pathlib import Path

import pytest

from mlx_patch import HookedModel
from mlx_patch.errors import PatchError

WHOLE = Path(__file__).parents[3] / "examples" / "models" / "tiny_base"
CONFIG = json.loads((WHOLE / "config.json").read_text(encoding="utf-8"))
WEIGHTS = "model.safetensors"


def without(key):
    return lambda folder: write(folder / "config.json", {name: CONFIG[name] for name in CONFIG if name != key})


def with_value(key, value):
    return lambda folder: write(folder / "config.json", {**CONFIG, key: value})


def write(path, values):
    path.write_text(json.dumps(values), encoding="utf-8")


def text(name, content):
    return lambda folder: (folder / name).write_text(content, encoding="utf-8")


def raw(name, content):
    return lambda folder: (folder / name).write_bytes(content)


def cut(name, share):
    def act(folder):
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: int(share * len(content))])

    return act


def gone(name):
    return lambda folder: (folder / name).unlink()


def a_folder(name):
    def act(folder):
        (folder / name).unlink(missing_ok=True)
        (folder / name).mkdir()

    return act


def an_index(weight_map):
    def act(folder):
        (folder / WEIGHTS).unlink()
        write(folder / "model.safetensors.index.json", {"metadata": {}, "weight_map": weight_map})

    return act


HEADER = (64).to_bytes(8, "little")
SPOILT = {
    **{f"config without {key}": without(key) for key in CONFIG},
    **{
        f"{key} is {value!r:.12}": with_value(key, value)
        for key in ("num_hidden_layers", "hidden_size", "num_attention_heads", "vocab_size", "rms_norm_eps")
        for value in (None, "6", -1, 0, [6], 7)
    },
    "model_type is no text": with_value("model_type", 5),
    "model_type is None": with_value("model_type", None),
    "model_type leads up": with_value("model_type", "../../x"),
    "model_type is unknown": with_value("model_type", "no_such"),
    "quantization is a list": with_value("quantization", [4]),
    "quantization is empty": with_value("quantization", {}),
    "rope_scaling is a text": with_value("rope_scaling", "linear"),
    "config is a list": text("config.json", "[]"),
    "config is a number": text("config.json", "5"),
    "config is empty": text("config.json", ""),
    "config is null": text("config.json", "null"),
    "config is no UTF-8": raw("config.json", b"\xff\xfe\x00"),
    "config is deep": text("config.json", "[" * 20_000),
    "config is cut": cut("config.json", 0.5),
    "config is a folder": a_folder("config.json"),
    "weights are gone": gone(WEIGHTS),
    "weights are empty": raw(WEIGHTS, b""),
    "weights are cut in the header": cut(WEIGHTS, 0.0001),
    "weights are half": cut(WEIGHTS, 0.5),
    "weights lack the end": cut(WEIGHTS, 0.999),
    "weights are a folder": a_folder(WEIGHTS),
    "weights have no JSON": raw(WEIGHTS, HEADER + b"x" * 64),
    "weights have a long header": raw(WEIGHTS, (2**62).to_bytes(8, "little")),
    "weights are none": raw(WEIGHTS, (2).to_bytes(8, "little") + b"{}"),
    "weights are text": text(WEIGHTS, "version https://git-lfs.github.com/spec/v1"),
    "index of missing files": an_index({"model.embed_tokens.weight": "model-00001-of-00002.safetensors"}),
    "index is a list": an_index([]),
    "tokenizer is gone": gone("tokenizer.json"),
    "tokenizer is empty": text("tokenizer.json", ""),
    "tokenizer is a list": text("tokenizer.json", "[]"),
    "tokenizer is cut": cut("tokenizer.json", 0.5),
    "tokenizer is a folder": a_folder("tokenizer.json"),
    "tokenizer config is a list": text("tokenizer_config.json", "[]"),
    "tokenizer config is cut": cut("tokenizer_config.json", 0.5),
    "tokenizer class is unknown": text("tokenizer_config.json", '{"tokenizer_class": "NoSuchTokenizer"}'),
    "generation config is a list": text("generation_config.json", "[]"),
}


@pytest.mark.parametrize("spoil", SPOILT.values(), ids=SPOILT)
def test_a_spoilt_folder_is_refused_by_name_or_is_a_model(tmp_path, spoil):
    folder = tmp_path / "spoilt"
    shutil.copytree(WHOLE, folder)
    spoil(folder)
    refused = ""
    try:
        n_layers = HookedModel.load(folder).n_layers
    except PatchError as error:
        refused, n_layers = str(error), 0
    assert n_layers >= 1 or "spoilt" in refused
    assert len(refused) < 2000
