"""A store's index leads nowhere but to the store's own shards, as they were written."""

import json
import os
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import mlx.core as mx
import pytest

from mlx_patch import Ablate, ActivationStore, Replace
from mlx_patch.errors import FileError
from mlx_patch.store import _index, _shards

PROMPTS = [[n + 1, n + 2, n + 3] for n in range(6)]


@pytest.fixture(scope="module")
def captured(tiny, tmp_path_factory):
    """A finished store of six prompts in three shards and one of other prompts, which nobody touches."""
    folder = tmp_path_factory.mktemp("finished")
    for name, prompts in (("store", PROMPTS), ("other", [prompt[::-1] for prompt in PROMPTS])):
        ActivationStore.capture(tiny(), prompts, folder / name, sites=("resid_post", "embed"), shard_mb=0.005)
        assert len(list((folder / name).glob("shard-*"))) == 3
    return folder


@pytest.fixture
def folder(captured, tmp_path):
    """A finished store of three shards, with another one beside it."""
    shutil.copytree(captured, tmp_path / "copy")
    return tmp_path / "copy" / "store"


def index_of(folder):
    return json.loads((folder / "index.json").read_text())


def put(folder, index, seal):
    if seal:
        index.pop("checksum", None)
        index["checksum"] = _index._checksum(index)
    (folder / "index.json").write_text(json.dumps(index))


def shard(n, **changes):
    return lambda index: index["shards"][n].update(changes)


def site(n, **changes):
    return lambda index: index["sites"][n].update(changes)


def says(**changes):
    return lambda index: index.update(changes)


def reordered(name):
    return lambda index: index.update({name: index[name][::-1]})


def twice(name, n=0):
    return lambda index: index[name].append(index[name][n])


def lacks(name, n=None):
    return lambda index: index.pop(name) if n is None else index[name].pop(n)


# Each of these has the checksum that its contents ask for.
WRONG = {
    "a shard of the folder beside": (shard(0, file="../other/shard-00000.safetensors"), "shard 0 must be shard-00000"),
    "a shard by its whole path": (shard(0, file="/tmp/shard-00000.safetensors"), "shard 0 must be shard-00000"),
    "a shard by a longer path": (shard(0, file="./shard-00000.safetensors"), "shard 0 must be shard-00000"),
    "a device": (shard(1, file="/dev/zero"), r"shard 1 must be shard-00001\.safetensors, but is '/dev/zero'"),
    "a shard of no name": (shard(0, file=""), "shard 0 must be shard-00000"),
    "a name with a zero byte": (shard(0, file="shard-00000.safetensors\0"), "shard 0 must be shard-00000"),
    "a name that is a number": (shard(0, file=3), "shard 0 must be shard-00000"),
    "a shard twice": (twice("shards"), "shard 3 must be shard-00003"),
    "a shard in place of another": (shard(1, file="shard-00000.safetensors"), "shard 1 must be shard-00001"),
    "shards the other way round": (reordered("shards"), "shard 0 must be shard-00000"),
    "a first shard that is lost": (lacks("shards", 0), "shard 0 must be shard-00000"),
    "a shard between that is lost": (lacks("shards", 1), "shard 1 must be shard-00001"),
    "every shard lost": (says(shards=[]), "it has no site, or no shard"),
    "shards that are a number": (says(shards=3), "is inconsistent"),
    "shards that are texts": (says(shards=["shard-00000.safetensors"]), "is inconsistent"),
    "shards by name": (says(shards={"a": 1}), "is inconsistent"),
    "no prompt": (shard(0, prompts=0), "has 0 prompts"),
    "-1 prompts": (shard(0, prompts=-1), "has -1 prompts"),
    "2.0 prompts": (shard(0, prompts=2.0), "has 2.0 prompts"),
    "true prompts": (shard(0, prompts=True), "has True prompts"),
    "fewer rows than prompts": (shard(0, rows=1), "2 prompts, 1 rows"),
    "rows that are a text": (shard(0, rows="6"), "'6' rows"),
    "bytes of nothing": (shard(0, bytes=0), "0 bytes"),
    "bytes that are null": (shard(0, bytes=None), "None bytes"),
    "other bytes": (shard(0, bytes=10), r"shard-00000\.safetensors has \d+ bytes instead of 10"),
    "a checksum that is a number": (shard(0, crc32=12345678), "has the checksum 12345678"),
    "a checksum that is too short": (shard(0, crc32="abc"), "has the checksum 'abc'"),
    "something more of a shard": (shard(0, offset=4), "offset"),
    "something less of a shard": (lambda index: index["shards"][0].pop("rows"), "rows"),
    "a site twice": (twice("sites"), "it names a site twice"),
    "no site": (says(sites=[]), "it has no site, or no shard"),
    "sites that are texts": (says(sites=["hook_embed"]), "is inconsistent"),
    "sites that are null": (says(sites=None), "is inconsistent"),
    "an unknown site": (site(0, site="hook_embedding"), "is inconsistent"),
    "a site that is a number": (site(0, site=3), "is inconsistent"),
    "a site in short": (site(0, site="embed"), "'embed' is not the full name of a site"),
    "a site of a layer that the model lacks": (
        site(0, site="blocks.3.hook_resid_post"),
        "not the full name of a site in 3",
    ),
    "a dtype that is a function": (site(0, dtype="mean"), "'mean' is not a dtype"),
    "a dtype that is a number": (site(0, dtype=32), "32 is not a dtype"),
    "a dtype that is a path": (site(0, dtype="core.float32"), "'core.float32' is not a dtype"),
    "a negative width": (site(0, shape=[-64]), r"has rows of shape \(-64,\)"),
    "a width of 0": (site(0, shape=[0]), r"has rows of shape \(0,\)"),
    "a width that is a text": (site(0, shape=["64"]), "has rows of shape"),
    "a width that is no list": (site(0, shape=64), "is inconsistent"),
    "no layers": (says(n_layers=0), "its model has 0 layers"),
    "layers that are a text": (says(n_layers="3"), "its model has '3' layers"),
    "no number of layers": (lacks("n_layers"), "is inconsistent"),
    "a model of numbers": (says(model={"bits": 4}), "its model and its identity"),
    "a model that is a list": (says(model=[]), "its model and its identity"),
    "an identity that is null": (says(identity=None), "its model and its identity"),
    "complete by a number": (says(complete=1), "it is complete: 1"),
    "something more": (says(more=1), "more"),
}


@pytest.mark.parametrize(("change", "message"), WRONG.values(), ids=WRONG)
def test_an_index_that_cannot_be_is_refused(folder, change, message):
    """Whatever its checksum."""
    index = index_of(folder)
    change(index)
    put(folder, index, seal=True)
    with pytest.raises(FileError, match=rf"Got {folder}, wh.*{message}"):
        ActivationStore(folder)


# What could be: only the checksum tells it from what was written.
PLAUSIBLE = {
    "a last shard that is lost": lacks("shards", 2),
    "a site that is lost": lacks("sites", 0),
    "sites the other way round": reordered("sites"),
    "another model": says(model={}),
    "another identity": says(identity={}),
    "more layers": says(n_layers=4),
    "a checksum of nothing": says(checksum=""),
    "no checksum": lacks("checksum"),
    "a capture that is not finished": says(complete=False),
}


@pytest.mark.parametrize("change", PLAUSIBLE.values(), ids=PLAUSIBLE)
def test_an_index_that_could_be_but_was_not_written_is_refused(tiny, folder, change):
    index = index_of(folder)
    change(index)
    put(folder, index, seal=False)
    message = rf"Got {folder}, whose index\.json is inconsistent: it is not what was written: its checksum differs"
    for use in (ActivationStore, lambda path: ActivationStore.capture(tiny(), PROMPTS, path)):
        with pytest.raises(FileError, match=message):
            use(folder)


def test_an_index_that_is_laid_out_anew_is_taken(folder):
    put(folder, dict(sorted(index_of(folder).items())), seal=False)
    assert len(ActivationStore(folder)) == 6


def test_an_index_that_names_a_thing_twice_is_refused(folder):
    text = (folder / "index.json").read_text()
    (folder / "index.json").write_text(text.replace('"complete"', '"complete": false, "complete"', 1))
    with pytest.raises(FileError, match=rf"Got {folder}, whose index\.json is damaged: it names 'complete' twice"):
        ActivationStore(folder)


def test_shards_that_changed_places_are_refused(folder):
    one, other = folder / "shard-00000.safetensors", folder / "shard-00001.safetensors"
    content = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(content)
    with pytest.raises(FileError, match=r"shard-00000\.safetensors (is not what was written|has \d+ bytes instead of)"):
        ActivationStore(folder)[0]


def linked(target):
    return lambda path: path.symlink_to(target)


NO_FILES = {
    "a link to another store": (lambda path: path.symlink_to(f"../other/{path.name}"), "is a symbolic link"),
    "a link to nothing": (linked("nothing"), "is a symbolic link"),
    "a link to a device": (linked("/dev/zero"), "is a symbolic link"),
    "a link to itself": (lambda path: path.symlink_to(path.name), "is a symbolic link"),
    "a pipe": (os.mkfifo, "is not a regular file"),
    "a folder": (Path.mkdir, "is not a regular file|Is a directory"),
}


@pytest.mark.parametrize("name", ["index.json", "shard-00001.safetensors"])
@pytest.mark.parametrize(("make", "message"), NO_FILES.values(), ids=NO_FILES)
def test_what_is_no_file_of_the_folder_is_not_opened(folder, name, make, message):
    (folder / name).unlink()
    make(folder / name)
    with pytest.raises(FileError, match=rf"Got {folder}.*{name}.*({message})"):
        ActivationStore(folder)


def test_a_link_that_comes_after_opening_is_not_followed(folder):
    """After the store was opened."""
    store = ActivationStore(folder)
    (folder / "shard-00001.safetensors").unlink()
    (folder / "shard-00001.safetensors").symlink_to("../other/shard-00001.safetensors")
    with pytest.raises(FileError, match=r"shard-00001\.safetensors is a symbolic link, which is not followed"):
        list(store)


def overwritten(path):
    """The file with another number in it and the size and the times that it had."""
    before = path.stat()
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def replaced(path):
    shutil.copy(path.parent.parent / "other" / path.name, path.with_name("new"))
    path.with_name("new").replace(path)


CHANGES = {
    "overwritten": overwritten,
    "replaced": replaced,
    "cut off": lambda path: os.truncate(path, 100),
    "lost": Path.unlink,
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_shard_that_changes_after_it_was_read_is_checked_again(folder, change):
    store = ActivationStore(folder)
    kept = store[1], store.array("resid_post.1"), next(store.batches("embed", 4))[0]
    before = [mx.array(array) for array in (kept[0]["resid_post", 1], *kept[1:])]
    mx.eval(before)
    change(folder / "shard-00000.safetensors")
    for read in (lambda: store[0], lambda: store.array("embed"), store.mean, lambda: store.rows, lambda: list(store)):
        with pytest.raises(FileError, match=rf"Got {folder}, where shard-00000\.safetensors "):
            read()
    assert all(mx.array_equal(a, b).item() for a, b in zip((kept[0]["resid_post", 1], *kept[1:]), before, strict=True))
    assert store[5].tokens.tolist() == [PROMPTS[5]]


def test_a_shard_that_changes_between_arrays_is_checked_again(folder):
    store = ActivationStore(folder)
    shard = store._open_shard(0)
    shard.arrays["blocks.0.hook_resid_post"]
    overwritten(folder / "shard-00000.safetensors")
    with pytest.raises(FileError, match="is not what was written: its checksum differs"):
        shard.arrays["hook_embed"]


def test_a_shard_that_was_only_touched_is_read(folder):
    store = ActivationStore(folder)
    wanted = store.array("embed")
    os.utime(folder / "shard-00000.safetensors")
    assert mx.array_equal(store.array("embed"), wanted).item()
    assert store[0].tokens.tolist() == [PROMPTS[0]]


def test_a_shard_is_checked_once_where_nothing_happens_to_it(folder, monkeypatch):
    checks = []
    crc = _shards._crc_of
    monkeypatch.setattr(_shards, "_crc_of", lambda file: checks.append(1) or crc(file))
    time.sleep(0.1)  # within one tick of its clock a file may change again unseen, and is checked each time
    store = ActivationStore(folder)
    for _ in range(2):
        store.mean()
        list(store)
    assert len(checks) == 3


def rewritten(folder, change):
    """The first shard with other arrays, and an index of it."""
    path, index = folder / "shard-00000.safetensors", index_of(folder)
    arrays = mx.load(str(path))
    change(arrays)
    mx.eval(list(arrays.values()))
    mx.save_safetensors(str(path), arrays)
    index["shards"][0] |= {"bytes": path.stat().st_size, "crc32": _shards.crc_of(path)}
    put(folder, index, seal=True)


def put_in(**arrays):
    return lambda held: held.update({name: mx.array(value, dtype=mx.int32) for name, value in arrays.items()})


MISFITS = {
    "an array too many": (put_in(more=[1]), "is inconsistent"),
    "an array too few": (lambda held: held.pop("hook_embed"), "has nothing for 'hook_embed'"),
    "no tokens": (lambda held: held.pop("tokens"), "is inconsistent"),
    "too few tokens": (put_in(tokens=[1, 2, 3, 4, 5]), "its prompts do not add up"),
    "tokens in rows": (put_in(tokens=[[1, 2, 3], [2, 3, 4]]), "its prompts do not add up"),
    "tokens that are none": (put_in(tokens=[-1, 2, 3, 2, 3, 4]), "its prompts do not add up"),
    "fractions for tokens": (lambda h: h.update(tokens=h["tokens"].astype(mx.float32)), "its prompts do not add up"),
    "a prompt of no token": (put_in(lengths=[6, 0]), "its prompts do not add up"),
    "a prompt of negative length": (put_in(lengths=[7, -1]), "its prompts do not add up"),
    "a prompt of no row": (put_in(kept=[6, 0]), "its prompts do not add up"),
    "positions past the end": (put_in(positions=[0, 1, 2, 0, 1, 3]), "its prompts do not add up"),
    "positions before the first": (put_in(positions=[-1, 1, 2, 0, 1, 2]), "its prompts do not add up"),
    "positions that are too few": (put_in(positions=[0, 1, 2, 0, 1]), "has int32 \\(5,\\) for 'positions'"),
}


@pytest.mark.parametrize(("change", "message"), MISFITS.values(), ids=MISFITS)
def test_a_shard_that_does_not_hold_together_is_refused(folder, change, message):
    """Whatever its checksum."""
    rewritten(folder, change)
    with pytest.raises(FileError, match=rf"shard-00000\.safetensors {message}|shard-00000\.safetensors .*{message}"):
        ActivationStore(folder)[0]


def test_what_a_store_gives_is_for_any_thread(tiny, folder):
    model, tokens = tiny(), mx.array([[3, 4, 5]])
    store = ActivationStore(folder)
    with ThreadPoolExecutor(1) as pool:
        there = pool.submit
        cache, mean = there(store.__getitem__, 4).result(), there(store.mean).result()
        positions = there(store.mean, "batch").result()
        array = there(store.array, "embed").result()
        batches = [values for values, _ in there(lambda: list(store.batches("embed", 5, seed=1))).result()]
    mx.eval(array + 1, [values + 1 for values in batches], mean.tokens)
    edits = [
        Replace(cache).at("resid_post", layer=1),
        Ablate("mean", mean).at("resid_post", layer=1),
        Ablate("mean", positions, over="batch").at("resid_post", layer=1),
    ]
    for edit in edits:
        assert mx.all(mx.isfinite(model.run(tokens, [edit]))).item()
    assert mx.array_equal(model.run(cache.tokens, edits[:1]), model.run(cache.tokens)).item()
    with ThreadPoolExecutor(4) as pool:
        assert [c.tokens.tolist() for c in pool.map(store.__getitem__, range(6))] == [[prompt] for prompt in PROMPTS]
