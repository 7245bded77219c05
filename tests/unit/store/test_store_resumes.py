"""A capture that was stopped goes on to the same files, and whatever does not belong to it is refused."""

import json
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import mlx.core as mx
import pytest

from mlx_patch import ActivationStore, Add, Apply, HookedModel, Scale
from mlx_patch.errors import FileError, KindError
from mlx_patch.store import _capture, _index, _shards
from mlx_patch.testing import tiny_model

pytestmark = pytest.mark.slow

PROMPTS = [[(7 * n + 3 * p * p) % 95 + 1 for p in range(1 + (5 * n) % 7)] for n in range(17)]
HOW = {"sites": ("resid_post", "z"), "shard_mb": 0.04}


def contents(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.fixture(scope="module")
def captured(tiny, tmp_path_factory):
    """A finished store of four shards, which nobody touches."""
    folder = tmp_path_factory.mktemp("finished") / "store"
    ActivationStore.capture(tiny(), PROMPTS, folder, **HOW)
    assert len(list(folder.glob("shard-*"))) == 4
    return folder


@pytest.fixture
def folder(captured, tmp_path):
    """A finished store of four shards."""
    return Path(shutil.copytree(captured, tmp_path / "store"))


class Stopped(Exception):
    pass


def until(n):
    yield from PROMPTS[:n]
    raise Stopped


@pytest.mark.parametrize("n", [0, 1, 5, 9, 16, 17])
def test_a_capture_that_was_stopped_goes_on_to_the_same_files(tiny, tmp_path, folder, n, monkeypatch):
    path, ran = tmp_path / "stopped", []
    with pytest.raises(Stopped):
        ActivationStore.capture(tiny(), until(n), path, **HOW)
    done = len(list(path.glob("shard-*")))
    with pytest.raises(FileError, match=rf"`path` must be a finished store\. Got .*, with {done} shards so far\."):
        ActivationStore(path)
    run_rows = _capture.run_rows
    monkeypatch.setattr(_capture, "run_rows", lambda *args, **how: ran.append(1) or run_rows(*args, **how))
    store = ActivationStore.capture(tiny(), PROMPTS, path, **HOW)
    assert len(ran) == 4 - done
    assert contents(path) == contents(folder)
    assert len(store) == 17


def test_a_finished_capture_runs_nothing(tiny, folder, monkeypatch):
    before = contents(folder)
    monkeypatch.setattr(_capture, "run_rows", lambda *args, **how: pytest.fail("it ran"))
    monkeypatch.setattr(_capture, "write_shard", lambda *args: pytest.fail("it wrote"))
    assert len(ActivationStore.capture(tiny(), iter(PROMPTS), folder, **HOW)) == 17
    assert contents(folder) == before


def test_a_shard_that_is_not_in_the_index_is_made_again(tiny, tmp_path, folder):
    """As it is when a process was killed between the two."""
    index = json.loads((folder / "index.json").read_text())
    whole = contents(folder)
    rewrite(folder, shards=index["shards"][:2], complete=False)
    (folder / "shard-00002.safetensors").write_bytes(b"half of")
    (folder / ".partial-shard-00002.safetensors-abc.safetensors").write_bytes(b"half")
    (folder / ".partial-index.json-abc.json").write_bytes(b"half")
    ActivationStore.capture(tiny(), PROMPTS, folder, **HOW)
    assert contents(folder) == whole


def other_weights():
    model = tiny_model("llama")
    model.model.layers[1].mlp.down_proj.weight += 0.01
    return HookedModel(model)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": other_weights}, r"which has another model \(weights\)\. Give another path, or delete the folder"),
        (
            {"model": lambda: HookedModel(tiny_model("gpt2"))},
            r"another model \(architecture: 'llama' in the file, 'gpt2' he",
        ),
        (
            {"model": lambda: HookedModel(tiny_model("llama", "bfloat16"))},
            r"dtype: 'float32' in the file, 'bfloat16' here",
        ),
        ({"sites": "resid_post"}, r"another site \(6 in the file, 3 here\)"),
        (
            {"sites": ("resid_post", "q")},
            r"another site \(number 4 and 5, 6 of 6: blocks\.0\.attn\.hook_z in the file, bl",
        ),
        ({"pos": -1}, r"another choice of positions \(pos: 'None' in the file, '\(-1,\)' here\)"),
        ({"edits": [Scale(0.5).at("embed")]}, r"another edit \(0 in the file, 1 here\)"),
        ({"shard_mb": 0.5}, r"another size of shards \(shard_mb: 0\.04 in the file, 0\.5 here\)"),
        ({"batch_size": 3}, r"another size of batches \(batch_size: 8 in the file, 3 here\)"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_folder_of_another_capture_is_refused(tiny, folder, change, message):
    """With the difference."""
    before = contents(folder)
    change = dict(change)
    model = change.pop("model", tiny)()
    with pytest.raises(FileError, match=rf"`path` must belong to this capture\. Got .*{message}"):
        ActivationStore.capture(model, PROMPTS, folder, **{**HOW, **change})
    assert contents(folder) == before


def test_a_folder_of_another_version_is_refused(tiny, folder, monkeypatch):
    monkeypatch.setattr("mlx_patch.store._identity.versions", lambda: {"mlx_patch": "9", "mlx": "1", "mlx_lm": "1"})
    with pytest.raises(FileError, match=r"another library version \(mlx_patch: '0.*' in the file, '9' here"):
        ActivationStore.capture(tiny(), PROMPTS, folder, **HOW)


def test_a_folder_of_the_base_is_refused_to_its_adapter(folder, tmp_path, save_adapter):
    save_adapter(tiny_model("llama"), tmp_path)
    donor = HookedModel(tiny_model("llama")).with_adapter(tmp_path)
    with pytest.raises(
        FileError, match=r"another model \(adapter: '' in the file, 'lora [0-9a-f]{16}' here, weights\)"
    ):
        ActivationStore.capture(donor, PROMPTS, folder, **HOW)
    store = ActivationStore.capture(donor, PROMPTS, tmp_path / "donor", **HOW)
    assert store.model == store[0].model == donor.identity


def test_edits_are_told_apart_by_what_they_hold(tiny, tmp_path):
    def made(value, function):
        edits = [Add(mx.full((64,), value)).at("embed"), Apply(function).at("resid_post", layer=0)]
        ActivationStore.capture(tiny(), PROMPTS, tmp_path / "store", edits=edits)

    made(1.0, lambda own, site: own * 2)
    made(1.0, lambda own, site: own * 2)
    with pytest.raises(FileError, match=r"another edit \(number 1 of 2: "):
        made(2.0, lambda own, site: own * 2)
    with pytest.raises(FileError, match=r"another edit \(number 2 of 2: "):
        made(1.0, lambda own, site: own * 3)


def changed(n, prompt):
    return [*PROMPTS[:n], prompt, *PROMPTS[n + 1 :]]


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        (
            changed(9, [*PROMPTS[9][:-1], 96 - 1 - PROMPTS[9][-1]]),
            r"another prompt \(number 10: 4 tokens, which differ\)",
        ),
        (changed(2, [1] * 9), r"another prompt \(number 3: 4 tokens in the folder, 9 here\)"),
        (PROMPTS[::-1], r"another prompt \(number 1: 1 tokens in the folder, 4 here\)"),
        (PROMPTS[:16], r"17 prompts up to there, but fewer were given"),
        (PROMPTS[:5], r"\d+ prompts up to there, but fewer were given|more prompts than the 5 that were given"),
        ([*PROMPTS, [3]], r"17 prompts up to there, but more were given"),
        ([*PROMPTS, *PROMPTS], r"17 prompts up to there, but more were given"),
        ([], r"more prompts than the 0 that were given"),
    ],
)
def test_a_folder_of_other_prompts_is_refused(tiny, folder, prompts, message):
    """With the first that differs."""
    before = contents(folder)
    with pytest.raises(
        FileError, match=rf"`path` must be a store of these prompts\. Got .*{message}.*Give another path"
    ):
        ActivationStore.capture(tiny(), prompts, folder, **HOW)
    assert contents(folder) == before


def test_prompts_beyond_a_full_last_shard_are_refused(tiny, tmp_path):
    ActivationStore.capture(tiny(), PROMPTS[:3], tmp_path / "store", shard_mb=1e-6)
    with pytest.raises(FileError, match="which holds 3 prompts, but more were given"):
        ActivationStore.capture(tiny(), PROMPTS[:4], tmp_path / "store", shard_mb=1e-6)


def test_a_folder_of_something_else_is_refused(tiny, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(
        FileError, match=r"`path` must be an empty folder, or one that .* which holds notes\.txt\. Choose"
    ):
        ActivationStore.capture(tiny(), PROMPTS, tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["notes.txt"]


def test_a_folder_that_is_being_captured_to_is_refused(tiny, tmp_path):
    def prompts():
        yield PROMPTS[0]
        with pytest.raises(
            FileError, match=r"`path` must be a folder that no other capture writes to\. Got .* Wait for"
        ):
            ActivationStore.capture(tiny(), PROMPTS, tmp_path / "store")
        yield PROMPTS[1]

    assert len(ActivationStore.capture(tiny(), prompts(), tmp_path / "store")) == 2


def test_a_shard_that_is_gone_or_cut_off_is_refused_at_once(tiny, folder):
    shard = folder / "shard-00002.safetensors"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-100])
    message = (
        rf"`path` must be a folder whose shards are whole\. .*shard-00002\.safetensors has {len(whole) - 100} bytes"
    )
    with pytest.raises(FileError, match=message):
        ActivationStore(folder)
    with pytest.raises(FileError, match=message):
        ActivationStore.capture(tiny(), PROMPTS, folder, **HOW)
    shard.unlink()
    with pytest.raises(FileError, match=r"shard-00002\.safetensors cannot be read: No such file.*Delete the folder"):
        ActivationStore(folder)


@pytest.mark.parametrize("at", [3, 200, -1])
def test_a_byte_that_was_not_written_is_refused_when_read(folder, at):
    """A byte that is not what was written."""
    shard = folder / "shard-00001.safetensors"
    content = bytearray(shard.read_bytes())
    content[at] ^= 1
    shard.write_bytes(bytes(content))
    store = ActivationStore(folder)
    assert store[0].n_positions == 1
    for read in (lambda: store[8], lambda: store.array("z.1"), store.mean, lambda: list(store), lambda: store.rows):
        with pytest.raises(FileError, match=r"shard-00001\.safetensors is not what was written: its checksum differs"):
            read()


def test_a_shard_of_another_store_is_refused(tiny, tmp_path, folder):
    ActivationStore.capture(tiny(), PROMPTS[::-1], tmp_path / "other", **HOW)
    shutil.copy(tmp_path / "other" / "shard-00001.safetensors", folder)
    with pytest.raises(FileError, match=r"shard-00001\.safetensors (is not what was written|has \d+ bytes instead of)"):
        list(ActivationStore(folder))


def rewrite(folder, **changes):
    index = json.loads((folder / "index.json").read_text())
    index.update(changes)
    del index["checksum"]
    (folder / "index.json").write_text(json.dumps({**index, "checksum": _index._checksum(index)}))


def edited(folder, name, value):
    index = json.loads((folder / "index.json").read_text())
    index["sites"][0][name] = value
    rewrite(folder, sites=index["sites"])


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("dtype", "float16", r"has float32 \(\d+, \d+\) for 'blocks\.0\.hook_resid_post', but the index says float16 "),
        (
            "shape",
            [63],
            r"has float32 \(\d+, 64\) for 'blocks\.0\.hook_resid_post', but the index says float32 \(\d+, 63\)",
        ),
        ("site", "blocks.0.hook_resid_pre", r"has nothing for 'blocks\.0\.hook_resid_pre'"),
    ],
)
def test_arrays_that_are_not_what_the_index_says_are_refused(folder, name, value, message):
    edited(folder, name, value)
    with pytest.raises(FileError, match=rf"shard-00000\.safetensors {message}"):
        next(iter(ActivationStore(folder)))


def test_counts_that_are_not_what_the_index_says_are_refused(folder):
    shards = json.loads((folder / "index.json").read_text())["shards"]
    shards[0]["prompts"] += 1
    rewrite(folder, shards=shards)
    with pytest.raises(FileError, match=r"shard-00000\.safetensors has .* for 'lengths'"):
        list(ActivationStore(folder))


def test_prompts_that_do_not_add_up_are_refused(folder):
    shard, index = folder / "shard-00000.safetensors", json.loads((folder / "index.json").read_text())
    arrays = mx.load(str(shard))
    arrays["kept"] = arrays["kept"] + 1
    mx.save_safetensors(str(shard), arrays)
    index["shards"][0] |= {"bytes": shard.stat().st_size, "crc32": _shards.crc_of(shard)}
    rewrite(folder, shards=index["shards"])
    with pytest.raises(FileError, match=r"shard-00000\.safetensors is inconsistent: its prompts do not add up"):
        list(ActivationStore(folder))


def test_a_file_that_is_no_safetensors_is_refused(folder):
    shard, index = folder / "shard-00000.safetensors", json.loads((folder / "index.json").read_text())
    shard.write_bytes(b"nothing of the kind")
    index["shards"][0] |= {"bytes": shard.stat().st_size, "crc32": _shards.crc_of(shard)}
    rewrite(folder, shards=index["shards"])
    with pytest.raises(FileError, match=r"shard-00000\.safetensors is not a safetensors file: "):
        list(ActivationStore(folder))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", r"whose index\.json is damaged: .*Capture into another folder"),
        ("[]", r"whose index\.json is of another kind"),
        ('{"format": "mlx_patch.Other/1"}', r"whose index\.json is of another kind"),
        (
            '{"format": "mlx_patch.ActivationStore/3"}',
            r"`path` must have format version 2\. Got .*, which has version 3\.",
        ),
        ('{"format": "mlx_patch.ActivationStore/2"}', r"whose index\.json is inconsistent: .*sites"),
        (
            '{"format": "mlx_patch.ActivationStore/2", "sites": '
            '[{"site": "hook_embed", "shape": [4], "dtype": "mean"}], "shards": [], '
            '"identity": {}, "model": {}, "n_layers": 2}',
            r"is inconsistent: 'mean' is not a dtype",
        ),
    ],
)
def test_an_index_that_is_none_is_refused(tiny, folder, text, message):
    (folder / "index.json").write_text(text)
    for use in (lambda: ActivationStore(folder), lambda: ActivationStore.capture(tiny(), PROMPTS, folder, **HOW)):
        with pytest.raises(FileError, match=message):
            use()


def test_what_is_no_path_is_refused():
    with pytest.raises(KindError, match=r"`path` must be a path\. Got 3"):
        ActivationStore(3)


def test_a_folder_without_an_index_is_refused(tmp_path):
    message = r"`path` must be a folder that ActivationStore\.capture wrote\. Got .*: index\.json: No such file"
    with pytest.raises(FileError, match=message):
        ActivationStore(tmp_path)


# Every write takes a few milliseconds more, so that many of all moments lie in the middle of one.
CAPTURE = """
import sys, time
import mlx.core as mx
import mlx_patch as mp
from mlx_patch.store import _capture, _identity, _index, _shards
from mlx_patch.testing import tiny_model

save, crc = mx.save_safetensors, _shards.crc_of

def slowly(file, *rest):
    file.write(b"half")
    file.flush()
    time.sleep(0.01)
    file.seek(0)
    file.truncate()
    save(file, *rest)

def later(path):
    time.sleep(0.01)
    return crc(path)

mx.save_safetensors, _shards.crc_of = slowly, later
model = mp.HookedModel(tiny_model("llama"))
prompts = [[(7 * n + 3 * p * p) % 95 + 1 for p in range(1 + (5 * n) % 7)] for n in range(60)]
print("ready", flush=True)
for name in sys.stdin:
    mp.ActivationStore.capture(
        model, prompts, name.strip(), sites=("resid_post", "z"), shard_mb=0.01,
        progress=lambda done, total: print(done, flush=True),
    )
    print("end", flush=True)
"""
KILLS = 6


def started():
    return subprocess.Popen(
        [sys.executable, "-c", CAPTURE],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={"PYTHONPATH": str(Path(__file__).parents[3]), "PATH": ""},
    )


def go(process, folder):
    assert process.stdout.readline() == "ready\n"
    process.stdin.write(f"{folder}\n")
    process.stdin.flush()


def done(process):
    process.stdin.close()
    with process:
        process.stdout.read()
    return process.returncode


@pytest.mark.slow
def test_a_capture_killed_again_and_again_ends_the_same(tmp_path):
    """In the same files."""
    whole, path, chance = tmp_path / "whole", tmp_path / "killed", random.Random(0)
    first = started()
    go(first, whole)
    began = time.monotonic()
    assert "end\n" in iter(first.stdout.readline, ""), "it ended before the capture did"
    took = time.monotonic() - began
    assert done(first) == 0
    whole_files, stages, partial = contents(whole), set(), 0
    shards = len(whole_files) - 1
    assert shards > 20
    kills = 0
    while kills < KILLS or not (partial and len(stages) > 2):
        assert kills < 5 * KILLS, "kills came at few stages, or none while a file was being written"
        now = started()
        go(now, path)
        time.sleep(chance.uniform(0, 1.5 * took / shards) + (kills > 0) * took / shards * chance.randrange(4))
        now.kill()
        assert done(now) == -signal.SIGKILL
        kills += 1
        there = contents(path) if path.exists() else {}
        stages.add(sum(name.startswith("shard") for name in there))
        partial += any(name.startswith(".partial-") for name in there)
        assert all(whole_files[name] == content for name, content in there.items() if name.startswith("shard"))
        if there.keys() == whole_files.keys():  # as good as done: once more
            shutil.rmtree(path)
    last = started()
    go(last, path)
    assert done(last) == 0
    assert contents(path) == whole_files
