"""A sweep that is killed again and again goes on to the same file, and its file is whole at every moment."""

import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from mlx_patch.errors import FileError
from mlx_patch.files import Format, read_archive

ARRAYS = ("values", "done", "baseline", "token_layers", "skipped")

# Passes that take 10 ms, and a file that takes as long to be written, so that half of all moments lie in between.
SWEEP = """
import sys, time, zipfile
import mlx.core as mx
import mlx_patch as mp
from mlx_patch.testing import tiny_model


whole = zipfile.ZipFile.writestr

def slowly(self, *args):
    whole(self, *args)
    self.fp.flush()
    time.sleep(0.002)

def slow(*done):
    time.sleep(0.01)
    print(*done, flush=True)

zipfile.ZipFile.writestr = slowly
model = mp.HookedModel(tiny_model("falcon_h1"))
tokens = mx.array([[11, 48, 85, 26, 63, 4, 41, 78, 19, 56]])
_, cache = model.run_with_cache(tokens[:, ::-1], sites=("resid_post",))
print("ready", flush=True)
sys.stdin.readline()
for name in sys.argv[1:]:
    result = mp.sweep(
        model, tokens, mp.Replace(cache), "resid_post", over=("layer", "pos"), metric=mp.metrics.LogProb(3), memory=1,
        checkpoint=name, progress=slow,
    )
    result.save(f"{name}.npz")
"""
KILLS = 20
FORMAT = Format("mlx_patch.sweep.checkpoint", 1)


class Watcher(threading.Thread):
    """Reads a file over and over, as soon as there is one."""

    def __init__(self, path):
        super().__init__()
        self.path, self.read, self.failed, self.over = path, 0, [], False

    def run(self):
        while not self.over:
            if self.path.exists():
                try:
                    read_archive(self.path, "", FORMAT, ARRAYS)
                    self.read += 1
                except FileError as error:
                    self.failed.append(error)
            time.sleep(0.001)


def started(name):
    return subprocess.Popen(
        [sys.executable, "-c", SWEEP, str(name)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={"PYTHONPATH": str(Path(__file__).parents[3]), "PATH": ""},
    )


def go(process):
    assert process.stdout.readline() == "ready\n"
    process.stdin.write("\n")
    process.stdin.flush()


def ended(process):
    """What a process said since, and how it ended."""
    with process:
        said = process.stdout.read().splitlines()
    return said, process.returncode


@pytest.mark.slow
def test_a_sweep_killed_20_times_resumes_to_the_same_file(tmp_path):
    whole, path = tmp_path / "whole", tmp_path / "killed"
    chance, kills, halves, at = random.Random(0), 0, 0, []
    now, following = started(whole), started(path)
    go(now)
    began = time.monotonic()
    said, code = ended(now)
    a_pass = (time.monotonic() - began) / len(said)
    assert (said[-1], code) == ("30 30", 0)
    watcher = Watcher(path)
    watcher.start()
    try:
        while kills < KILLS:
            now, following = following, started(path)  # which starts Python meanwhile
            go(now)
            for _ in range(chance.randrange(3)):  # from the start of the sweep, or from a pass
                now.stdout.readline()
            time.sleep(chance.uniform(0, 2 * a_pass))
            now.kill()
            if ended(now)[1] == -signal.SIGKILL:
                kills += 1
                halves += len(list(tmp_path.glob(".partial-killed-*")))
                at.append(cells_in(path))
            else:  # it was done: once more
                assert path.read_bytes() == whole.read_bytes()
                path.unlink()
        go(following)
        assert ended(following)[1] == 0
    finally:
        watcher.over = True
        watcher.join()
        following.kill()
        with following:  # which closes its pipes
            pass
    assert watcher.failed == []
    assert watcher.read > 100
    assert path.read_bytes() == whole.read_bytes()
    assert Path(f"{path}.npz").read_bytes() == Path(f"{whole}.npz").read_bytes()
    assert len(set(at)) > 5, "kills came at few stages"
    assert halves, "no kill came while the file was being written"
    assert list(tmp_path.glob(".partial-*")) == []


def cells_in(path):
    return int(read_archive(path, "", FORMAT, ARRAYS)[1]["done"].sum()) if path.exists() else 0
