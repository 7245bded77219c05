"""Fits a tuned lens and a Jacobian lens to SmolLM2-135M-Instruct, and measures what docs/lenses.md says of them.

    python examples/fit_lenses.py [--results folder]      some 20 minutes on 2 cores with OpenBLAS

A lens that is in the folder is read, and not fitted again. The corpus is English that is on every machine with Python:
the pages of its help, `pydoc_data.topics`.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from pydoc_data.topics import topics

import mlx.core as mx
import numpy as np

import mlx_patch as mp
from mlx_patch.plot import layer_curve, new_axes
from mlx_patch.testing import smollm2_folder

PROMPT = "When John and Mary went to the shops, John gave a bottle of milk to"
LENGTH = 24
"""Tokens of each prompt of the corpus."""

LAYERS = range(0, 29, 4)
SITES = [mp.Site("resid_post", layer) for layer in LAYERS]
CITIES = (" Paris", " London", " Rome", " Berlin")
TRIPS = ("My favourite city in the world is", "Last summer we spent a week in", "The train goes directly to")
CAPITAL = "The capital of France is"
BEHIND_FIRST = slice(1, None)
STEP = 0.1
"""What is added, as a share of the stream's mean length."""


def corpus(model: mp.HookedModel, n_prompts: int, seed: int = 0) -> list[mx.array]:
    """Paragraphs of Python's help, cut to one length. Each of shape `(pos,)`."""
    paragraphs = [text for page in topics.values() for text in page.split("\n\n") if len(text) > 5 * LENGTH]
    order = np.random.default_rng(seed).permutation(len(paragraphs))
    rows = (model.tokenize(" ".join(paragraphs[number].split()))[0] for number in order)
    long = (row[:LENGTH] for row in rows if len(row) >= LENGTH)
    return [row for row, _ in zip(long, range(n_prompts), strict=False)]


def fitted(
    model: mp.HookedModel, prompts: Sequence[mx.array], folder: Path
) -> tuple[mp.lens.TunedLens, mp.lens.JacobianLens]:
    """Both lenses, fitted or read. The Jacobian lens has a tenth of the prompts at most."""
    tuned_path, jacobian_path = folder / "tuned_lens.safetensors", folder / "jacobian_lens.safetensors"
    if not tuned_path.exists():
        mp.lens.fit_tuned_lens(model, prompts, SITES, steps=120, positions=48, held_out=0.05).save(tuned_path)
    if not jacobian_path.exists():
        few = prompts[:20]
        mp.lens.fit_jacobian_lens(model, few, SITES, share=0.125, progress=report).save(jacobian_path)
    return mp.lens.TunedLens.load(tuned_path, model), mp.lens.JacobianLens.load(jacobian_path, model)


def report(done: int, total: int) -> None:
    """Say how far a fit is."""
    print(f"{done} of {total} prompts", flush=True)


def divergences(model: mp.HookedModel, prompts: Sequence[mx.array], lens: mp.lens.FittedLens | None) -> np.ndarray:
    """KL(final distribution || lens) at each layer, in nats, as a mean over positions behind the first."""
    read = [mp.lens.logit_lens(model, prompt, SITES, pos=BEHIND_FIRST, lens=lens) for prompt in prompts]
    return np.mean([lens.kl()[:, 0] for lens in read], axis=(0, 2))


def log_probs(model: mp.HookedModel, prompt: str, edits: Sequence[mp.Edit] = ()) -> np.ndarray:
    """The log-probability of each city behind a prompt, in nats. Shape `(city,)`."""
    logits = model.run(prompt, edits, logits_at=-1)[0, 0]
    ids = mx.concatenate([model.tokenize(city)[0, -1:] for city in CITIES])
    return np.array((logits - mx.logsumexp(logits))[ids])


def steered(model: mp.HookedModel, direction: mx.array, layer: int) -> np.ndarray:
    """What a step along a direction adds to the log-probability of each city, as a mean over `TRIPS`."""
    site = mp.Site("resid_post", layer)
    changes = []
    for prompt in TRIPS:
        _, cache = model.run_with_cache(prompt, (site,), pos=BEHIND_FIRST, logits_at=-1)
        size = mx.linalg.norm(cache[site], axis=-1).mean()
        step = STEP * size * direction / mx.linalg.norm(direction)
        edit = mp.Add(step).at("resid_post", layer=layer, pos=BEHIND_FIRST)
        changes.append(log_probs(model, prompt, [edit]) - log_probs(model, prompt))
    return np.mean(changes, axis=0)


def steer(model: mp.HookedModel, jacobian: mp.lens.JacobianLens, layer: int) -> None:
    """Print what directions of cities do, and random ones of the same length."""
    directions = jacobian.directions(CITIES, ("resid_post", layer))
    own = [steered(model, directions[number], layer)[number] for number in range(len(CITIES))]
    rows = [steered(model, row, layer)[number] for number, row in enumerate(model.directions(CITIES))]
    drawn = np.random.default_rng(0).normal(size=(10, model.d_model)).astype(np.float32)
    random = np.stack([steered(model, mx.array(row), layer) for row in drawn])
    print(f"layer {layer}, {CITIES}: directions {np.round(own, 2)}, rows of the unembedding {np.round(rows, 2)}, ")
    print(f"  random {np.round(random.mean(axis=0), 2)}, the best of 10 {np.round(random.max(axis=0), 2)}", flush=True)


def swap(model: mp.HookedModel, jacobian: mp.lens.JacobianLens, layer: int) -> None:
    """Print what becomes of two cities when their directions are swapped, or one is taken out, beside random ones."""
    place = {"layer": layer, "pos": BEHIND_FIRST}
    paris, london = jacobian.directions(CITIES[:2], ("resid_post", layer))
    first, second = map(mx.array, np.random.default_rng(0).normal(size=(2, model.d_model)).astype(np.float32))
    edits = {
        "nothing": [],
        "swap": [mp.Swap(paris, london).at("resid_post", **place)],
        "swap of random ones": [mp.Swap(first, second).at("resid_post", **place)],
        "Paris taken out": [mp.Project(paris).at("resid_post", **place)],
        "a random one taken out": [mp.Project(first).at("resid_post", **place)],
    }
    for name, edit in edits.items():
        print(f"layer {layer}, {CAPITAL!r}, {name}: {np.round(log_probs(model, CAPITAL, edit)[:2], 2)}", flush=True)


def draw(by_lens: dict[str, np.ndarray], ranks: dict[str, np.ndarray], path: Path) -> None:
    """Divergences and ranks by layer, a line a lens."""
    import matplotlib as mpl

    mpl.use("Agg")
    left, right = new_axes(10.5, 4.0, columns=2)
    labels = list(by_lens)
    kl = "KL from the final distribution (nats)"
    layer_curve(np.stack(list(by_lens.values())), LAYERS, labels=labels, value_label=kl, ax=left)
    layer_curve(
        1 + np.stack(list(ranks.values())),
        LAYERS,
        labels=labels,
        value_label='place of " Mary" (1: likeliest)',
        ax=right,
    )
    right.set_yscale("log")
    right.set_title(f"... {PROMPT.partition(', ')[2]}", fontsize="medium")
    with mp.written_whole(path) as beside:
        figure = left.get_figure(root=True)
        if figure is not None:
            figure.savefig(beside, dpi=80)


def main() -> None:
    """Fit, measure, print and draw."""
    parser = argparse.ArgumentParser(description="A tuned lens and a Jacobian lens of SmolLM2.")
    parser.add_argument("--results", type=Path, default=Path("results"), help="the folder to write to")
    folder = parser.parse_args().results
    folder.mkdir(parents=True, exist_ok=True)
    model = mp.HookedModel.load(smollm2_folder("float32"))
    prompts = corpus(model, 400)
    tuned, jacobian = fitted(model, prompts, folder)
    held_out = [prompts[number] for number in tuned.fit.held_out if number >= 20]
    lenses = {"logit lens": None, "tuned lens": tuned, "Jacobian lens": jacobian}
    by_lens = {name: divergences(model, held_out, lens) for name, lens in lenses.items()}
    ranks = {
        name: mp.lens.logit_lens(model, PROMPT, SITES, pos=-1, lens=lens).rank(" Mary")[:, 0, 0]
        for name, lens in lenses.items()
    }
    for name in lenses:
        print(f"{name}: KL {np.round(by_lens[name], 2)}, rank of ' Mary' {ranks[name]}")
    draw(by_lens, ranks, folder / "fitted_lenses_smollm2.png")
    for layer in (8, 20):
        steer(model, jacobian, layer)
    for layer in (24, 28):
        swap(model, jacobian, layer)


if __name__ == "__main__":
    main()
