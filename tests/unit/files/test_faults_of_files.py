"""The list of seeded faults, of files, threads and fingerprints: each put back, and seen.

Each test takes one mechanism away and sees that what it guards against comes back.
"""

import json
import os
from concurrent.futures import ThreadPoolExecutor

import mlx.core as mx
import pytest

from mlx_patch import ActivationCache, ActivationStore, HookedModel, Site, _cachefile, provenance
from mlx_patch.files import open_checked, read_header
from mlx_patch.fingerprints import _fingerprint, fingerprint
from mlx_patch.store import _index
from mlx_patch.testing import tiny_model

PROMPTS = [[1, 2, 3], [4, 5, 6]]


@pytest.fixture
def path(tmp_path):
    arrays = {Site("resid_post", 0): mx.arange(200_000.0).reshape(1, 4, 50_000)}
    ActivationCache(arrays, mx.array([[5, 6, 7, 8]]), (0, 1, 2, 3), 4).save(tmp_path / "cache.safetensors")
    return tmp_path / "cache.safetensors"


@pytest.fixture
def folder(tiny, tmp_path):
    ActivationStore.capture(tiny(), PROMPTS, tmp_path / "store", sites=("embed",), shard_mb=1e-6)
    return tmp_path / "store"


def elsewhere(function, *given):
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(function, *given).result()


def test_arrays_that_stay_on_the_disk_would_show(path, monkeypatch):
    def lazily(path):
        arrays, metadata = mx.load(str(path), return_metadata=True)
        return metadata, arrays

    monkeypatch.setattr(_cachefile, "_read", lazily)
    monkeypatch.setattr(_cachefile, "_refuse_other_checksum", lambda metadata, arrays: None)
    held = ActivationCache.load(path)
    with pytest.raises(RuntimeError, match="There is no Stream"):
        elsewhere(mx.eval, held["resid_post", 0])
    held = ActivationCache.load(path)
    path.write_bytes(bytes(path.stat().st_size))
    assert mx.max(held["resid_post", 0]).item() == 0


def test_swapped_positions_would_show_without_a_checksum(path, monkeypatch):
    content = path.read_bytes()
    path.write_bytes(content.replace(b'"[0, 1, 2, 3]"', b'"[1, 0, 2, 3]"'))
    monkeypatch.setattr(_cachefile, "_refuse_other_checksum", lambda metadata, arrays: None)
    assert ActivationCache.load(path).positions == (1, 0, 2, 3)


@pytest.mark.parametrize("check", ["_check_counts", "_check_tokens", "_check_positions", "_check_array"])
def test_a_part_of_a_cache_that_is_not_checked_would_show(path, monkeypatch, check):
    spoiled = {
        "_check_counts": {"n_positions": 4.0},
        "_check_tokens": {"tokens": mx.array([[5, 6, -7, 8]])},
        "_check_positions": {"positions": (1, 1, 2, 3)},
        "_check_array": {"positions": (1, 2)},
    }[check]
    whole = _cachefile.read_cache(path)
    contents = _cachefile.Contents(**{**vars(whole), **spoiled})
    with pytest.raises(_cachefile.Malformed):
        _cachefile._check(contents)
    monkeypatch.setattr(_cachefile, check, lambda *given: None)
    _cachefile._check(contents)


def test_a_shard_of_any_name_would_show(folder, monkeypatch):
    index = json.loads((folder / "index.json").read_text())
    other = folder.parent / "other.safetensors"
    (folder / "shard-00000.safetensors").rename(other)
    index["shards"][0]["file"] = f"../{other.name}"
    del index["checksum"]
    (folder / "index.json").write_text(json.dumps({**index, "checksum": _index._checksum(index)}))
    monkeypatch.setattr(_index, "_check_shard", lambda number, shard: None)
    assert ActivationStore(folder)[0].tokens.tolist() == [PROMPTS[0]]


def test_an_index_without_a_checksum_would_show(folder, monkeypatch):
    index = json.loads((folder / "index.json").read_text())
    index["shards"].pop()
    (folder / "index.json").write_text(json.dumps(index))
    monkeypatch.setattr(_index, "_checksum", lambda about: index["checksum"])
    assert len(ActivationStore(folder)) == 1


def test_a_shard_that_is_checked_once_for_ever_would_show(folder, monkeypatch):
    store = ActivationStore(folder)
    wanted = store[0]["embed"]
    shard = folder / "shard-00000.safetensors"
    with open_checked(shard) as file:
        at = read_header(file).entries["hook_embed"].start
    content = bytearray(shard.read_bytes())
    content[at + 2] ^= 64
    shard.write_bytes(bytes(content))
    monkeypatch.setattr("mlx_patch.store._shards._crc_of", lambda file: store._index.shards[0].crc32)
    assert not mx.array_equal(store[0]["embed"], wanted).item()


def test_parameters_that_are_not_evaluated_would_show(tmp_path, tokens, save_adapter, monkeypatch):
    save_adapter(tiny_model("llama"), tmp_path)
    base = HookedModel(tiny_model("llama"))
    mx.eval(base.model.parameters())
    monkeypatch.setattr("mlx_patch.model._loading.evaluate", lambda model: None)
    with pytest.raises(RuntimeError, match="There is no Stream"):
        elsewhere(base.with_adapter(tmp_path).run, tokens)


def test_buffers_that_are_not_evaluated_would_show(tokens, monkeypatch):
    raw = tiny_model("minicpm3")
    mx.eval(raw.parameters())
    monkeypatch.setattr("mlx_patch.model._hooked.evaluate_buffers", lambda model: None)
    with pytest.raises(RuntimeError, match="There is no Stream"):
        elsewhere(HookedModel(raw).run, tokens)


def test_a_random_half_of_an_adapter_that_counts_would_show(monkeypatch):
    def adapter():
        return {"a.lora_a": mx.random.normal((2, 2)), "a.lora_b": mx.zeros((2, 2))}

    assert provenance.digest_of(adapter()) == provenance.digest_of(adapter())
    monkeypatch.setattr(provenance, "_idle", lambda named: set())
    assert provenance.digest_of(adapter()) != provenance.digest_of(adapter())


def reading(n):
    """A function that reads a number through a module."""
    space = {"edits": type(os)("edits")}
    space["edits"].by = n
    exec("def f(x): return x * edits.by", space)
    return space["f"]


def test_a_module_that_counts_by_its_name_alone_would_show(monkeypatch):
    assert fingerprint(reading(1)) != fingerprint(reading(2))
    monkeypatch.setattr("mlx_patch.fingerprints._reads._follow_modules", lambda load, root: (load.name, root))
    assert fingerprint(reading(1)) != fingerprint(reading(2))  # the module as a whole
    monkeypatch.setattr(_fingerprint.Fingerprints, "_module", lambda self, module: module.__name__.encode())
    assert fingerprint(reading(1)) == fingerprint(reading(2))


def test_what_cannot_be_known_would_be_guessed(monkeypatch):
    space = {}
    exec("import time\ndef f(x): return x * time.time()", space)
    monkeypatch.setattr("mlx_patch.fingerprints._library._OUTSIDE", frozenset())
    assert fingerprint(space["f"]) == fingerprint(space["f"])
