"""What each rank runs: `program.py SCENARIO FOLDER` does one thing and writes what it saw to `FOLDER/rank0.json`."""

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

import mlx_patch as mp
from mlx_patch.sweeps import _ranks
from mlx_patch.testing import tiny_model

TOKENS = mx.array([[11, 48, 85, 26, 63, 4, 41, 78]])
OTHER = mx.array([[12, 47, 80, 21, 60, 9, 45, 70]])
SHORT = [7, 8, 9, 10, 11]
RIGHT_MINUS_WRONG = mp.metrics.LogitDiff(3, 5)


def wrapped(name: str = "llama", precision: Any = "float32") -> mp.HookedModel:
    mx.random.seed(0)  # some of mlx_lm's modules draw a part of their weights when they are made
    return mp.HookedModel(tiny_model(name, precision))


def donor(model: mp.HookedModel, *sites: str) -> mp.ActivationCache:
    return model.run_with_cache(OTHER, sites=sites or ("resid_post",))[1]


def seen(result: mp.SweepResult) -> dict[str, Any]:
    """Everything of a result that ranks must agree on, bit for bit."""
    counted = result.provenance["token_layers"]
    return {"values": bits(result.values), "baseline": bits(result.baseline), "token_layers": counted}


def bits(array: np.ndarray) -> str:
    return array.tobytes().hex()


def caught(call: Callable[[], object]) -> list[str]:
    """The class and the message of whatever a call raises."""
    try:
        call()
    except BaseException as error:
        return [type(error).__name__, str(error)]
    return ["", "nothing"]


def divided(group: mx.distributed.Group, folder: Path) -> dict[str, Any]:
    """The same sweeps, on this rank alone and divided."""
    found: dict[str, Any] = {}
    for name in ("llama", "jamba", "qwen3_next"):
        model = wrapped(name)
        calls: list[int] = []

        def last(logits: mx.array, calls: list[int] = calls) -> mx.array:
            calls.append(1)
            return logits[:, -1, 3]

        def both(group: mx.distributed.Group | None, model: Any = model, last: Any = last) -> mp.SweepResult:
            patch = mp.Replace(donor(model))
            return mp.sweep(
                model, TOKENS, patch, "resid_post", ("layer", "pos"), [RIGHT_MINUS_WRONG, last],
                positions=(1, 4, 7), memory=1, group=group,
            )  # fmt: skip

        alone = both(None)
        n_alone = len(calls)
        shared = both(group)
        shared.save(path := folder / f"{name}{group.rank()}.npz")
        n_shared = len(calls) - n_alone
        found[name] = {
            "alone": seen(alone),
            "shared": seen(shared),
            "calls": [n_alone, n_shared],
            "file": path.read_bytes().hex(),
        }
    return found


def prompts(group: mx.distributed.Group, folder: Path) -> dict[str, Any]:
    """Prompts of two lengths, a metric that is NaN on some rows, progress, and a group of one length alone."""
    model = wrapped()

    def undefined(logits: mx.array) -> mx.array:
        return mx.where(mx.argmax(logits[:, -1], axis=-1) % 2 == 0, logits[:, -1, 3], mx.nan)

    def run(group: mx.distributed.Group | None) -> tuple[mp.SweepResult, list[tuple[int, int]]]:
        told: list[tuple[int, int]] = []
        result = mp.sweep(
            model, [TOKENS[0].tolist(), SHORT, OTHER[0].tolist()], mp.Scale(3.0), "resid_post", ("layer", "pos"),
            [RIGHT_MINUS_WRONG, undefined], positions=(1, 3), group=group, memory=1,
            progress=lambda done, total: told.append((done, total)),
        )  # fmt: skip
        return result, told

    alone, _ = run(None)
    shared, told = run(group)
    some = bool(np.isnan(shared.values).any()) and not bool(np.isnan(shared.values[:, :, 0]).any())
    return {"alone": seen(alone), "shared": seen(shared), "told": told, "some NaN": some}


def failing(group: mx.distributed.Group, folder: Path) -> dict[str, Any]:
    """What goes wrong on one rank goes wrong on both, which afterwards can do something else together."""
    _ranks.EVERY = 0.0
    model, mine = wrapped(), group.rank() == 1
    patch = mp.Replace(donor(model))
    calls: list[int] = []

    def late(logits: mx.array) -> mx.array:
        calls.append(1)
        if mine and len(calls) == 4:
            raise ArithmeticError("the fourth cell is bad")
        return logits[:, -1, 3]

    def interrupted(logits: mx.array) -> mx.array:
        calls.append(1)
        if mine and len(calls) == 4:
            raise KeyboardInterrupt
        return logits[:, -1, 3]

    def at_once(logits: mx.array) -> mx.array:
        raise KeyboardInterrupt

    def told(done: int, total: int) -> None:
        if mine:
            raise ValueError("no screen")

    def sweep(**changed: Any) -> mp.SweepResult:
        calls.clear()
        given = {"tokens": TOKENS, "metric": RIGHT_MINUS_WRONG, "memory": 1, "group": group} | changed
        return mp.sweep(model, intervention=patch, at="resid_post", over=("layer", "pos"), positions=(2, 5), **given)

    found: dict[str, Any] = {"metric": caught(lambda: sweep(metric=late)), "ran": len(calls)}
    found["again"] = seen(sweep())
    found["set up"] = caught(lambda: sweep(layers=[99] if mine else None))
    found["progress"] = caught(lambda: sweep(progress=told))
    found["tokens"] = caught(lambda: sweep(tokens=OTHER if mine else TOKENS))
    found["cells"] = caught(lambda: sweep(layers=[1, 0] if mine else [0, 1]))
    found["least memory"] = seen(sweep(memory=1 if mine else 10**9))
    partial = sweep(metric=interrupted)
    found["interrupted"] = [seen(partial), partial.complete, int(np.isfinite(partial.values).sum())]
    found["at once"] = caught(lambda: sweep(metric=at_once))
    found["last"] = seen(sweep())
    return found


def killed(group: mx.distributed.Group, folder: Path) -> dict[str, Any]:
    """Rank 1 dies in the middle of a sweep."""
    _ranks.EVERY = 0.0
    calls: list[int] = []

    def deadly(logits: mx.array) -> mx.array:
        calls.append(1)
        if group.rank() == 1 and len(calls) == 4:
            os.kill(os.getpid(), signal.SIGKILL)
        return logits[:, -1, 3]

    model = wrapped()
    patch = mp.Replace(donor(model))
    return {"raised": caught(lambda: mp.sweep(model, TOKENS, patch, "resid_post", ("layer", "pos"), deadly,
                                              memory=1, group=group))}  # fmt: skip


def main(scenario: str, folder: Path) -> None:
    group = mx.distributed.init(strict=True, backend="ring")
    found = globals()[scenario](group, folder)
    (folder / f"rank{group.rank()}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
