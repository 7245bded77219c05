"""Every writer on a full disk: what stood there stays, the error names the file, and the work can go on.

A limit of the system on the size of files stands for the disk. `FULL_DISK=<folder on a small disk of its own>` runs the
same on a real one, which the tests fill.
"""

import errno
import importlib
import inspect
import os
import pkgutil
import resource
import subprocess
import sys
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from tempfile import NamedTemporaryFile, TemporaryDirectory

import mlx.core as mx
import numpy as np
import pytest

import mlx_patch as mp
from mlx_patch.cli import main
from mlx_patch.errors import FileError
from mlx_patch.sweeps import sweep_pair

ROOT = Path(__file__).parents[3]
DISK = os.environ.get("FULL_DISK")
PROMPTS = [[int(token) for token in row] for row in np.random.default_rng(0).integers(1, 90, (10, 6))]
FILLED = (0.0, 0.01, 0.3, 0.7, 0.99)
"""How much of the file there is room for."""


def logit(logits):
    return logits[:, -1, 5]


@pytest.fixture(scope="module")
def made(tiny):
    """What there is to write, made once."""
    return cache(partial(values, tiny()))


def values(model, which):
    """What there is to write, by the method that writes it."""
    tokens, other = mx.array(PROMPTS[:1]), mx.array(PROMPTS[1:2])
    _, source = model.run_with_cache(other, "all")
    if which == "ActivationCache":
        return source
    if which == "CellResult":
        return mp.sweep(model, tokens, mp.Ablate("zero"), at="resid_post", over=("layer", "pos"), metric=logit)
    if which == "Agreement":
        how = {"at": "resid_post", "over": ("layer", "pos"), "metric": logit, "confirm": 4, "sample": 4}
        return mp.attribute(model, tokens, mp.Ablate("zero"), **how).agreement
    if which == "TwoByTwo":
        return mp.two_by_two(model, model, tokens, logit)
    if which == "DirectLogits":
        return mp.lens.direct_logits(model, tokens, 5, 6)
    if which == "HeadEffects":
        return mp.circuits.head_effects(model, tokens, source, 5, 6)
    if which == "FaithfulnessCurve":
        scores = mp.circuits.edges(model, tokens, source, logit)
        return mp.circuits.faithfulness(model, tokens, source, logit, scores, sizes=[3])
    if which == "PairResult":
        return sweep_pair(model, tokens, other, at="resid_post", over="layer", metric=logit)
    if which == "EdgeScores":
        return mp.circuits.edges(model, tokens, source, logit)
    if which == "LogitLens":
        return mp.lens.logit_lens(model, tokens)
    if which == "TunedLens":
        return mp.lens.fit_tuned_lens(model, PROMPTS, steps=0)
    assert which == "JacobianLens"
    return mp.lens.fit_jacobian_lens(model, PROMPTS, rows=2)


METHODS = {
    "ActivationCache.save": "cache.safetensors",
    "Agreement.to_html": "agreement.html",
    "CellResult.save": "result.npz",
    "CellResult.to_html": "result.html",
    "CellResult.to_json": "result.json",
    "DirectLogits.to_html": "direct.html",
    "EdgeScores.to_html": "circuit.html",
    "EdgeScores.to_json": "circuit.json",
    "FaithfulnessCurve.to_html": "curve.html",
    "HeadEffects.to_html": "heads.html",
    "JacobianLens.save": "jacobian.safetensors",
    "LogitLens.to_html": "lens.html",
    "PairResult.save": "pair.npz",
    "PairResult.to_html": "pair.html",
    "TunedLens.save": "tuned.safetensors",
    "TwoByTwo.save": "two.npz",
    "TwoByTwo.to_html": "two.html",
}
FUNCTIONS = {"ActivationStore.capture", "pattern_page", "sweep"}  # each has a test of its own


def test_no_writer_is_forgotten():
    """Found by what they are called and by the argument `path`; `checkpoint` is one of the sweep."""
    found = set()
    for module in pkgutil.walk_packages(mp.__path__, "mlx_patch."):
        if module.name.endswith("__main__") or ".zoo." in module.name:
            continue
        for owner in vars(importlib.import_module(module.name)).values():
            if inspect.isclass(owner) and owner.__module__ == module.name and not owner.__name__.startswith("_"):
                found |= {f"{owner.__name__}.{name}" for name, method in vars(owner).items() if writes(name, method)}
    assert found == {*METHODS, "ActivationStore.capture"}


def writes(name, method):
    method = getattr(method, "__func__", method)
    is_named = name.startswith(("save", "to_", "capture"))
    return is_named and inspect.isfunction(method) and "path" in inspect.signature(method).parameters


@contextmanager
def room_for(folder, n_bytes):
    """A disk with so much room left."""
    if DISK is not None:
        free = os.statvfs(folder).f_bavail * os.statvfs(folder).f_frsize
        with NamedTemporaryFile(dir=DISK) as file:
            os.posix_fallocate(file.fileno(), 0, max(1, free - n_bytes))
            yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def disk(tmp_path):
    """A folder on the disk that is full."""
    if DISK is None:
        yield tmp_path
        return
    with TemporaryDirectory(dir=DISK) as folder:
        yield Path(folder)


def refused(folder, path, n_bytes, write):
    """Whether writing was refused for lack of room, with the name of the file."""
    with room_for(folder, n_bytes), pytest.raises(FileError) as caught:
        write(path)
    said = str(caught.value)
    assert path.name in said
    assert "room" in said
    return True


@pytest.mark.parametrize("filled", FILLED)
@pytest.mark.parametrize("method", METHODS)
def test_a_full_disk_leaves_the_old_file(made, disk, method, filled):
    which, name = method.split(".")
    write = getattr(made(which), name)
    path = disk / METHODS[method]
    write(path)
    whole = path.read_bytes()
    write(path)
    assert path.read_bytes() == whole
    path.write_bytes(b"what stood there")
    before = sorted(disk.iterdir())
    assert refused(disk, path, int(filled * len(whole)), write)
    assert sorted(disk.iterdir()) == before
    assert path.read_bytes() == b"what stood there"
    write(path)
    assert path.read_bytes() == whole


@pytest.mark.parametrize("filled", FILLED)
def test_a_page_of_patterns_on_a_full_disk(tiny, disk, filled):
    _, cache = tiny().run_with_cache(mx.array(PROMPTS[:1]), "pattern")
    path = disk / "patterns.html"
    page = mp.lens.pattern_page(cache, 0)
    n_bytes = int(filled * len(page.encode()))
    assert refused(disk, path, n_bytes, lambda path: mp.lens.pattern_page(cache, 0, path))
    assert not path.exists()


@pytest.mark.parametrize("filled", FILLED)
def test_a_capture_goes_on_once_there_is_room(tiny, disk, filled):
    """With the bytes that it would have written at once."""
    model, how = tiny(), {"sites": ("resid_post",), "shard_mb": 1e-3}
    mp.ActivationStore.capture(model, PROMPTS, disk / "whole", **how)
    whole = contents(disk / "whole")
    n_bytes = int(filled * max(map(len, whole.values())))
    with room_for(disk, n_bytes), pytest.raises(FileError, match="room"):
        mp.ActivationStore.capture(model, PROMPTS, disk / "store", **how)
    mp.ActivationStore.capture(model, PROMPTS, disk / "store", **how)
    assert contents(disk / "store") == whole


def contents(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.mark.parametrize("filled", FILLED)
def test_a_sweep_goes_on_once_there_is_room(tiny, disk, filled):
    """From the last pass whose numbers were written."""
    how = {"at": "resid_post", "over": ("layer", "pos"), "metric": logit, "memory": 1}
    model, tokens, ablate = tiny(), mx.array(PROMPTS[:1]), mp.Ablate("zero")
    expected = mp.sweep(model, tokens, ablate, **how)
    mp.sweep(model, tokens, ablate, checkpoint=disk / "whole.npz", **how)
    whole = (disk / "whole.npz").read_bytes()
    with room_for(disk, int(filled * len(whole))), pytest.raises(FileError, match=r"night\.npz.*room"):
        mp.sweep(model, tokens, ablate, checkpoint=disk / "night.npz", **how)
    result = mp.sweep(model, tokens, ablate, checkpoint=disk / "night.npz", **how)
    assert np.array_equal(result.values, expected.values)
    assert (disk / "night.npz").read_bytes() == whole


COMMAND = ["sweep", str(ROOT / "examples/models/tiny_base"), "--prompt", "Mars (planet 7, diameter", "--at", "mlp_out"]
COMMAND += ["--intervention", "zero", "--metric", "log_prob('7')", "--quiet"]


@pytest.mark.parametrize("option", ["--save r.npz", "--json r.json", "--html r.html", "--plot r.png"])
def test_a_command_on_a_full_disk_is_one_line(disk, capsys, option):
    """And status 2."""
    name, file = option.split()
    with room_for(disk, 40):
        status = main([*COMMAND, name, str(disk / file)])
    said = capsys.readouterr().err
    assert status == 2
    assert said.startswith("error: `path` must be on a disk with room for it. Got ")
    assert file in said
    assert said.count("\n") == 1
    assert list(disk.iterdir()) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the device is Linux's")
def test_output_that_cannot_be_written_is_one_line():
    command = [sys.executable, "-m", "mlx_patch", "sites", str(ROOT / "examples/models/tiny_base")]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, check=False, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 2
    assert done.stderr == f"error: the output cannot be read or written: {os.strerror(errno.ENOSPC)}.\n"
