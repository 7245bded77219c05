"""What goes wrong with a rank: `faults.py SCENARIO FOLDER` is as `program.py`."""

import os
import resource
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from subprocess import Popen
from typing import Any, cast

import mlx.core as mx
import numpy as np
from program import RIGHT_MINUS_WRONG, TOKENS, bits, caught, donor, main, seen, wrapped

import mlx_patch as mp
from mlx_patch import execution
from mlx_patch.testing import ZOO

Found = dict[str, Any]


def swept(model: mp.HookedModel, source: mp.HookedModel | None = None, **changed: Any) -> mp.SweepResult:
    """Six cells, one a pass."""
    patch = mp.Replace(donor(source or model))
    given = {"tokens": TOKENS, "metric": RIGHT_MINUS_WRONG, "memory": 1} | changed
    return mp.sweep(model, intervention=patch, at="resid_post", over=("layer", "pos"), positions=(2, 5), **given)


def counted(calls: list[int], act: Any, at: int = 2) -> Any:
    """A metric that does something when it is called for a time of some number."""

    def metric(logits: mx.array) -> mx.array:
        calls.append(1)
        if len(calls) == at:
            act()
        return logits[:, -1, 3]

    return metric


def awake() -> None:
    """Do nothing."""


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def halt() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def nap() -> None:
    """Stop, until another process continues this one after a second."""
    Popen(["/bin/sh", "-c", f"sleep 1; kill -CONT {os.getpid()}"])
    halt()


def killed(group: mx.distributed.Group, folder: Path) -> Found:
    """Rank 1 dies in the middle of a sweep with a checkpoint, right after its first pass is on disk."""
    model = wrapped()
    if group.rank() == 1:
        dies_once_written(2)
    return {"raised": caught(lambda: swept(model, group=group, checkpoint=folder / "night.npz"))}


def dies_once_written(number: int) -> None:
    """Make this process die once a checkpoint has been written so many times."""
    checkpoint, written = execution.progress._checkpoint, []
    write = checkpoint.write_members

    def write_and_die(*given: Any) -> None:
        write(*given)
        written.append(1)
        if len(written) == number:
            die()

    checkpoint.write_members = write_and_die


def early(group: mx.distributed.Group, folder: Path) -> Found:
    """Rank 1 dies before it meets any other."""
    model = wrapped()
    if group.rank() == 1:
        die()
    return {"raised": caught(lambda: swept(model, group=group))}


def late(group: mx.distributed.Group, folder: Path) -> Found:
    """Rank 1 dies when all that is left is to send what it has found."""
    model = wrapped()
    if group.rank() == 1:
        execution._execute.packed = lambda numbers: die()
    return {"raised": caught(lambda: swept(model, group=group))}


def in_pass(group: mx.distributed.Group, folder: Path) -> Found:
    """Rank 1 of a sharded model dies between two passes, or in one."""
    model = wrapped()
    cast("Any", model.model).shard(group)
    whole = swept(model, wrapped())
    if group.rank() == 1:
        dies_once_written(3)
    raised = caught(lambda: swept(model, wrapped(), checkpoint=folder / "sharded.npz"))
    with np.load(folder / "sharded.rank0of2.npz") as archive:
        values, done = archive["values"], archive["done"][0]
    right = bits(values[done][:, 0, 0]) == bits(whole.values.reshape(-1)[done])
    return {"raised": raised, "done": int(done.sum()), "right": right}


def stopped(group: mx.distributed.Group, folder: Path) -> Found:
    """Rank 1 is stopped in a pass, and nobody continues it."""
    execution.ranks._heartbeats.SILENCE, execution.ranks._heartbeats.HEARTBEAT, execution.ranks._waiting.PATIENCE = (
        1.5,
        0.1,
        0.3,
    )
    model = wrapped()
    metric = counted([], halt if group.rank() == 1 else awake)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        raised = caught(lambda: swept(model, group=group, metric=metric))
    again = caught(lambda: swept(model, group=group))
    return {"raised": raised, "warned": [str(one.message) for one in warned], "again": again}


def interrupted(group: mx.distributed.Group, folder: Path) -> Found:
    """Rank 1 is stopped before the first meeting, and Ctrl-C comes to rank 0, which waits."""
    execution.ranks._waiting.GRACE = 0.2
    model = wrapped()
    if group.rank() == 1:
        halt()
    threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGINT)).start()
    return {"raised": caught(lambda: swept(model, group=group))}


def outlived(group: mx.distributed.Group, folder: Path) -> Found:
    """Faults after which both ranks are there, and go on; first with what scenario `killed` left."""
    execution.ranks._heartbeats.HEARTBEAT = 0.1
    model, is_second = wrapped(), group.rank() == 1
    whole = swept(model, group=group, checkpoint=folder / "whole.npz")
    found: Found = {"whole": seen(whole)}
    kept = folder / f"whole.rank{group.rank()}of2.npz"

    def resumed(name: str) -> list[bool]:
        """Whether a sweep that goes on from a checkpoint gives the same bits, and leaves the same bytes."""
        again = seen(swept(model, group=group, checkpoint=folder / f"{name}.npz"))
        path = folder / f"{name}.rank{group.rank()}of2.npz"
        return [again["values"] == found["whole"]["values"], path.read_bytes() == kept.read_bytes()]

    found["killed"] = resumed("night")
    with full_disk(kept.stat().st_size - 1 if is_second else None):
        found["full disk"] = caught(lambda: swept(model, group=group, checkpoint=folder / "full.npz"))
    found["left"] = sorted(file.name for file in folder.glob("full.*"))
    found["room again"] = resumed("full")
    found |= differing(group, model)
    found["uneven"] = uneven(group, folder)
    with without_numbers_on_disk(is_second):
        found["first pass"] = caught(lambda: swept(model, group=group, checkpoint=folder / "first.npz"))
    found["more memory"] = seen(swept(model, group=group, checkpoint=folder / "first.npz", memory=10**9))
    found["in a pass"] = napping(lambda: swept(model, group=group, metric=counted([], nap if is_second else awake)))
    found["at a meeting"] = napping(lambda: (nap() if is_second else None, swept(model, group=group))[1])
    found["alone"] = [seen(swept(model, metric=metric))["values"] for metric in (counted([], awake), RIGHT_MINUS_WRONG)]
    return found


@contextmanager
def without_numbers_on_disk(is_lost: bool) -> Iterator[None]:
    """Let a rank be lost before a checkpoint of it has any number: its first pass cannot be written."""
    checkpoint = execution.progress._checkpoint
    write = checkpoint.write_members

    def write_plan(path: Path, members: dict[str, bytes]) -> None:
        if is_lost and np.load(BytesIO(members["done.npy"])).any():
            raise OSError("lost")
        write(path, members)

    checkpoint.write_members = write_plan
    yield
    checkpoint.write_members = write


def uneven(group: mx.distributed.Group, folder: Path) -> list[bool]:
    """Whether a sharded model's sweep goes on to the same bits where one rank has written fewer passes."""
    model = wrapped()
    cast("Any", model.model).shard(group)
    path = folder / "uneven.npz"
    checkpoint, written = execution.progress._checkpoint, []
    write = checkpoint.write_members

    def write_three(*given: Any) -> None:
        written.append(1)
        if group.rank() == 0 or len(written) <= 3:
            write(*given)

    checkpoint.write_members = write_three
    whole = seen(swept(model, wrapped(), checkpoint=path))
    checkpoint.write_members = write
    n_written = len(written)
    return [n_written > 3, seen(swept(model, wrapped(), checkpoint=path)) == whole]


def napping(sweep: Callable[[], mp.SweepResult]) -> list[Any]:
    """The values of a sweep in which a rank sleeps for a second, and what the other warns of."""
    execution.ranks._waiting.PATIENCE = 0.3
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always", RuntimeWarning)
        values = seen(sweep())["values"]
    execution.ranks._waiting.PATIENCE = 60.0
    return [values, [str(warning.message) for warning in warned if warning.category is RuntimeWarning]]


def differing(group: mx.distributed.Group, model: mp.HookedModel) -> Found:
    """What is refused because rank 1 has another model or other libraries, and how many passes that took."""
    is_second = group.rank() == 1
    module, config = ZOO["llama"]
    cast("dict[str, Any]", ZOO)["llama-short"] = (module, {**config, "num_hidden_layers": 2})
    heavier, wide = wrapped(), wrapped("llama-wide")
    norm = cast("Any", heavier.model.model).norm
    norm.weight = norm.weight * 2
    pairs = {
        "weights": (model, heavier),
        "layers": (model, wrapped("llama-short")),
        "bits": (wide, wrapped("llama-wide", "4bit")),
        "architecture": (model, wrapped("qwen3")),
    }
    runs: list[int] = []
    metric = counted(runs, awake)
    refused = {name: caught(lambda pair=pair: swept(pair[is_second], metric=metric, group=group))
               for name, pair in pairs.items()}  # fmt: skip
    versions = execution.ranks._ranks.versions
    for name in ("mlx_patch", "mlx_lm"):
        if is_second:
            execution.ranks._ranks.versions = lambda name=name: {**versions(), name: "9.9"}
        refused[name] = caught(lambda: swept(model, metric=metric, group=group))
        execution.ranks._ranks.versions = versions
    return {"refused": refused, "runs": len(runs), "versions": versions()}


@contextmanager
def full_disk(n_bytes: int | None) -> Iterator[None]:
    """A limit on the size of files stands for a disk without room; None has room."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes or soft, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


if __name__ == "__main__":
    main(globals(), *sys.argv[1:])
