"""Jobs of long work that is stopped and goes on, of files, and of models that are made and dropped."""

import copy
import pickle
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from hostile.world import A, B, World

import mlx_patch as mp
from mlx_patch.testing import tiny_model
from soaking.jobs import Job, Place, Planned, named

CELLS = {"at": "resid_post", "over": ("layer", "pos"), "memory": 1}
PROMPTS = [[(7 * n + 3 * p * p) % 95 + 1 for p in range(1 + (5 * n) % 7)] for n in range(11)]


def stopped_after(n: int):
    """A progress that raises at its n-th call."""
    calls = iter(range(n))

    def progress(done, total):
        if next(calls, None) is None:
            raise Planned(f"after {n} calls")

    return progress


def sweeps(place: Place) -> Any:
    """A sweep with each executor, with and without a bound on memory, and what its plan says."""
    ask = {"metric": [mp.metrics.LogitDiff(7, 30), mp.metrics.Entropy()], "progress": False}
    results = [
        mp.sweep(place.model, [A], mp.Replace(place.world.cache), executor=executor, **{**CELLS, **bound}, **ask)
        for executor in ("auto", "rows", "reference")
        for bound in ({"memory": 1}, {"memory": None})
    ]
    del ask["progress"]
    return results, str(mp.plan(place.model, [A], mp.Replace(place.world.cache), **CELLS, **ask))


def resumed_sweep(place: Place) -> Any:
    """A sweep that fails twice, goes on from its checkpoint, and one that was never stopped: the same bytes."""
    ask = {"metric": mp.metrics.LogProb(3), **CELLS}
    whole, path = place.work / "whole.npz", place.work / "night.npz"
    mp.sweep(place.model, [A], mp.Replace(place.world.cache), checkpoint=whole, progress=False, **ask)
    for n in (1, 2):
        try:
            how = {"checkpoint": path, "progress": stopped_after(n)}
            mp.sweep(place.model, [A], mp.Replace(place.world.cache), **how, **ask)
        except Planned:
            pass
    result = mp.sweep(place.model, [A], mp.Replace(place.world.cache), checkpoint=path, progress=False, **ask)
    same = path.read_bytes() == whole.read_bytes()
    emptied(place.work)
    return same, result


def seeded_sweep(place: Place) -> Any:
    """Noise that every run has, over seeds; and generated text as a metric."""
    noise = mp.Ablate("noise", scale=3.0).at("embed", pos=[0, 1])
    ask = {"at": "resid_post", "over": ("layer", "seed"), "seeds": range(2), "edits": [noise], "progress": False}
    seeded = mp.sweep(place.model, [A], mp.Replace(place.world.cache), metric=mp.metrics.LogProb(3), **ask)
    written = mp.metrics.GenerateMatches("w07", max_tokens=2)
    return seeded, mp.sweep(place.model, [A], mp.Scale(0.5), "resid_post", "layer", written, progress=False)


def attribution(place: Place) -> Any:
    """Estimates by gradient and integrated, with some cells confirmed."""
    ask = {"at": "resid_post", "over": ("layer", "pos"), "metric": mp.metrics.LogitDiff(7, 30), "progress": False}
    replace = mp.Replace(place.world.cache)
    one = mp.attribute(place.model, [A], replace, confirm=2, sample=1, **ask)
    return one, mp.attribute(place.model, [A], replace, method="integrated", steps=2, **ask)


def circuits(place: Place) -> Any:
    """Edges, a circuit and how faithful it is."""
    world, metric = place.world, mp.metrics.LogitDiff(7, 30)
    edges = mp.circuits.edges(place.model, [A], world.cache, metric)
    circuit = edges.top(5)
    curve = mp.circuits.faithfulness(place.model, [A], world.cache, metric, edges, [0, 3])
    return edges, circuit.edges, mp.circuits.run(place.model, [A], world.cache, circuit), curve


def lenses(place: Place) -> Any:
    """A lens, read, fitted, saved and loaded."""
    texts = [A, B, [5, 6, 7], [9, 8, 7]]
    fitted = mp.lens.fit_tuned_lens(place.model, texts, steps=2, held_out=0.5, skip=0)
    fitted.save(place.work / "tuned.safetensors")
    loaded = mp.lens.TunedLens.load(place.work / "tuned.safetensors", place.model)
    emptied(place.work)
    read = mp.lens.logit_lens(place.model, [A], lens=loaded)
    return dict(loaded.matrices), read.top(2), mp.lens.logit_lens(place.model, [A]).kl()


def stored(place: Place) -> Any:
    """A capture that is stopped and goes on, and the store of it, read in every way."""
    path, how = place.work / "store", {"sites": ("resid_post",), "shard_mb": 0.01}

    def until(n: int) -> Iterator[list[int]]:
        yield from PROMPTS[:n]
        raise Planned

    for n in (3, 8):
        try:
            mp.ActivationStore.capture(place.model, until(n), path, **how)
        except Planned:
            pass
    store = mp.ActivationStore.capture(place.model, PROMPTS, path, **how)
    site = ("resid_post", 1)
    rows = [values for values, _ in store.batches(site, 4, seed=1)]
    means = store.mean(skip=1)
    parts = [list(store), rows, means, store.array(site)[:2], store[0]]
    emptied(place.work)
    return parts


def saved_results(place: Place) -> Any:
    """Results and caches to every kind of file and back, the pages of them, and tables."""
    world, folder = place.world, place.work
    world.result.save(folder / "r.npz")
    world.estimate.save(folder / "e.npz")
    world.pair_result.save(folder / "p.npz")
    world.cache.save(folder / "c.safetensors")
    world.result.to_json(folder / "r.json")
    world.result.to_html(folder / "r.html")
    world.edges.to_html(folder / "g.html", world.circuit)
    files = {file.name: file.read_bytes() for file in folder.iterdir()}
    loaded = [
        mp.SweepResult.load(folder / "r.npz"),
        mp.Estimate.load(folder / "e.npz"),
        type(world.pair_result).load(folder / "p.npz").denoising,
        mp.ActivationCache.load(folder / "c.safetensors"),
    ]
    emptied(folder)
    pages = [value._repr_html_() for value in (world.model, world.result, world.estimate, world.cache, world.edges)]
    tables = [world.result.to_pandas().to_csv(), str(world.result.to_xarray())]
    report = files.pop("r.json").decode()
    digests = {name: mx.array(np.frombuffer(content, np.uint8)) for name, content in files.items()}
    return loaded, digests, pages, tables, report


def emptied(folder: Path) -> None:
    """Take away what a job wrote."""
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


# Garbage


def dropped_model(place: Place) -> Any:
    """A model of its own, with blocks of edits that are never closed, in a circle of references."""
    model = mp.HookedModel(tiny_model("llama", seed=3), place.model.tokenizer)
    stack, circle = ExitStack(), [model]
    circle.append(circle)
    stack.enter_context(model.editing(mp.Scale(2.0).at("resid_post", layer=0)))
    inside = np.array(model.model(mx.array([A])))
    circle.append(stack.pop_all())
    return inside, model.run([A], logits_at=-1)


def dropped_block(place: Place) -> Any:
    """A block on the shared model that a generator opened, which is dropped."""

    def opened():
        with place.model.editing(mp.Ablate("zero").at("resid_post", layer=0)):
            yield np.array(place.model.model(mx.array([A])).astype(mx.float32))

    def hidden():
        generator = opened()
        return next(generator)

    inside = hidden()
    return inside, place.model.model(mx.array([A]))


def dropped_stream(place: Place) -> Any:
    """A stream of generated text that is read once and dropped, and a cache that holds itself."""
    stream = place.model.stream(A, [mp.Scale(0.5).at("resid_post", layer=1)], max_tokens=20)
    first = next(stream).token
    circle: list[Any] = list(place.model.run_with_cache([A], "resid_post"))
    circle.append(circle)
    return first


def copies(place: Place) -> Any:
    """A model, an edit and a cache, copied and pickled."""
    model = pickle.loads(pickle.dumps(mp.HookedModel(tiny_model("llama"))))
    edit = copy.deepcopy(place.world.edit)
    return model.run([A], [edit], logits_at=-1), copy.copy(place.model).run([A], [edit], logits_at=-1)


def dropped_world(place: Place) -> Any:
    """All results, lenses, stores and dictionaries of a model made anew."""
    folder = place.work / "world"
    (folder / "out").mkdir(parents=True)
    world = World(folder, place.model)
    world.make_everything()
    emptied(place.work)
    return world.result, world.tuned, world.estimate


def jobs_of_work(model: str) -> list[Job]:
    """All of these, on one model."""
    functions = {
        "sweeps": sweeps,
        "a sweep that goes on": resumed_sweep,
        "a sweep over seeds": seeded_sweep,
        "attribution": attribution,
        "circuits": circuits,
        "lenses": lenses,
        "a store": stored,
        "files and pages": saved_results,
    }
    garbage = {
        "a model": dropped_model,
        "a block": dropped_block,
        "a stream": dropped_stream,
        "copies": copies,
    }
    rare = {"a world": dropped_world}
    return [
        *named("work:", model, functions),
        *named("dropped:", model, garbage),
        *named("dropped:", model, rare, rarely=True),
    ]
