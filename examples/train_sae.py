"""Train a sparse autoencoder on the stream of SmolLM2, with mlx alone, and write it as SAELens does.

The texts are the topics of Python's own manual, which every Python brings along (`pydoc_data`). Each window of 128
tokens is a prompt. Its first position is left out: its norm is hundreds of times that of the others, and so are a few
others that attention uses as it uses the first. Features are the 16 largest of 1,024 per token (TopK). Features that
never fired are begun anew from tokens that are explained worst.

    python examples/train_sae.py           # on 2 CPU cores with OpenBLAS: 4 minutes; far more without; 2.3 MB
    python examples/train_sae.py --quick   # a few steps, to see that it runs

It writes `cfg.json` and `sae_weights.safetensors`, and prints what share of the variance of held-out activations is
explained, how many features fire, and the tokens of a few. docs/dictionaries.md uses the result.

Source:
    Gao et al. 2024, https://arxiv.org/abs/2406.04093, for TopK; Bricken et al. 2023,
    https://transformer-circuits.pub/2023/monosemantic-features, for features that are begun anew.
"""

import argparse
import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from pydoc_data.topics import topics

import mlx.core as mx
import mlx.optimizers as optim
import numpy as np

import mlx_patch as mp
from mlx_patch.testing import smollm2_folder

FOLDER = Path(__file__).parent / "models" / "smollm2_sae_layer_12"
SITE = mp.Site("resid_post", 12)
WINDOW = 128
HELD_OUT = 20
"""Every 20th window is held out."""


@dataclass(frozen=True)
class Recipe:
    """What is trained.

    Attributes:
        windows: The most windows of text.
        n_features: The number of features.
        k: How many of them a token has.
        epochs: How often each token is seen.
        batch: Tokens a step.
        rate: The learning rate at the start; it falls to 0.
        seed: Of the order of tokens, and of what is begun anew.
    """

    windows: int = 880
    n_features: int = 1024
    k: int = 16
    epochs: int = 8
    batch: int = 1024
    rate: float = 1e-3
    seed: int = 0


QUICK = Recipe(windows=40, n_features=64, epochs=1)


def text_windows(model: mp.HookedModel, most: int) -> list[mx.array]:
    """Windows of the manual, topic after topic. Shape `(1, WINDOW)` each."""
    ids: list[int] = []
    for name in sorted(topics):
        ids += np.array(model.tokenize(topics[name]))[0].tolist()
    most = min(most, len(ids) // WINDOW)
    return [mx.array(ids[begin : begin + WINDOW])[None] for begin in range(0, most * WINDOW, WINDOW)]


def captured(model: mp.HookedModel, windows: Sequence[mx.array], folder: Path) -> np.ndarray:
    """The stream at all positions but the first. Shape `(token, d_model)`."""
    store = mp.ActivationStore.capture(model, windows, folder, sites=(str(SITE),), pos=slice(1, None), batch_size=16)
    return store.numpy(SITE)


def ordinary(activations: np.ndarray) -> np.ndarray:
    """Which tokens have a norm of less than 10 times the median. Shape `(token,)`, bool."""
    norms = np.linalg.norm(activations, axis=1)
    return norms < 10 * np.median(norms)


Weights = dict[str, mx.array]


def begun(activations: np.ndarray, recipe: Recipe) -> Weights:
    """Weights at the start: the rows of the decoder are the directions of some tokens, and the encoder's are too."""
    draw = np.random.default_rng(recipe.seed)
    centre = np.median(activations[:: max(1, len(activations) // 4096)], axis=0)
    rows = activations[draw.choice(len(activations), recipe.n_features, replace=False)] - centre
    rows = mx.array(rows / np.linalg.norm(rows, axis=1, keepdims=True))
    return {"W_enc": mx.array(rows.T), "W_dec": rows, "b_enc": mx.zeros(recipe.n_features), "b_dec": mx.array(centre)}


def features_of(weights: Weights, x: mx.array, k: int) -> mx.array:
    """The `k` largest features of each token. Shape `(token, n_features)`."""
    before = (x - weights["b_dec"]) @ weights["W_enc"] + weights["b_enc"]
    lowest = mx.min(mx.topk(mx.stop_gradient(before), k, axis=-1), axis=-1, keepdims=True)
    return mx.where(before >= lowest, mx.maximum(before, 0.0), 0.0)


def loss(weights: Weights, x: mx.array, k: int) -> tuple[mx.array, mx.array, mx.array]:
    """The share of variance that is not explained; of each token; and how often each feature fired."""
    features = features_of(weights, x, k)
    error = mx.sum((features @ weights["W_dec"] + weights["b_dec"] - x) ** 2, axis=-1)
    return mx.mean(error) / mx.mean(mx.var(x, axis=0) * x.shape[-1]), error, mx.sum(features > 0, axis=0)


def unit_rows(rows: mx.array) -> mx.array:
    """The decoder with rows of length 1: else features could be made small, and rows long."""
    return rows / mx.sqrt(mx.sum(rows * rows, axis=-1, keepdims=True))


def batches(activations: np.ndarray, recipe: Recipe) -> Iterator[mx.array]:
    """Tokens in a random order, in every epoch another."""
    draw = np.random.default_rng(recipe.seed + 1)
    for _ in range(recipe.epochs):
        order = draw.permutation(len(activations))
        for begin in range(0, len(order) - recipe.batch + 1, recipe.batch):
            yield mx.array(activations[order[begin : begin + recipe.batch]])


def train(activations: np.ndarray, recipe: Recipe) -> Weights:
    """A dictionary of activations whose mean length is `sqrt(d_model)`."""
    weights = begun(activations, recipe)
    n_steps = recipe.epochs * (len(activations) // recipe.batch)
    optimiser = optim.Adam(optim.linear_schedule(recipe.rate, 0.0, max(1, n_steps)))
    optimiser.init(weights)
    step_of = mx.value_and_grad(partial(loss, k=recipe.k))
    fired = mx.zeros(recipe.n_features)
    every = max(1, n_steps // 12)
    for step, x in enumerate(batches(activations, recipe), start=1):
        (unexplained, errors, counts), gradients = step_of(weights, x)
        weights = optimiser.apply_gradients(gradients, weights)
        weights["W_dec"] = unit_rows(weights["W_dec"])
        fired = fired + counts
        mx.eval(weights, optimiser.state, fired)
        if step % every == 0:
            if step < 0.6 * n_steps:
                renew(weights, optimiser, fired, x, errors)
            print(f"step {step} of {n_steps}: {unexplained.item():.3f} not explained, {int(mx.sum(fired > 0))} fired")
            fired = mx.zeros(recipe.n_features)
    return weights


def renew(weights: Weights, optimiser: optim.Adam, fired: mx.array, x: mx.array, errors: mx.array) -> None:
    """Point features that never fired at the tokens that are explained worst."""
    silent = np.flatnonzero(np.array(fired) == 0)[: x.shape[0]]
    if not len(silent):
        return
    worst = np.argsort(-np.array(errors))[: len(silent)]
    rows = unit_rows(x[mx.array(worst)] - weights["b_dec"])
    at = mx.array(silent)
    weights["W_dec"][at] = rows
    weights["W_enc"][:, at] = rows.T
    weights["b_enc"][at] = 0.0
    for moment in ("m", "v"):  # what the optimiser remembers of them is of another feature
        state = optimiser.state
        state["W_dec"][moment][at] = 0.0
        state["W_enc"][moment][:, at] = 0.0
        state["b_enc"][moment][at] = 0.0


def save(weights: Weights, scale: float, recipe: Recipe, folder: Path) -> None:
    """Write the dictionary as SAELens 6 does, for activations as they are: the scale is in the weights."""
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {
        "W_enc": weights["W_enc"] * scale,
        "W_dec": weights["W_dec"] / scale,
        "b_enc": weights["b_enc"],
        "b_dec": weights["b_dec"] / scale,
    }
    arrays = {name: array.astype(mx.float16) for name, array in arrays.items()}
    mx.save_safetensors(str(folder / "sae_weights.safetensors"), arrays)
    d_in, d_sae = weights["W_enc"].shape
    config = {
        "architecture": "topk",
        "d_in": d_in,
        "d_sae": d_sae,
        "k": recipe.k,
        "dtype": "float16",
        "apply_b_dec_to_input": True,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": {
            "model_name": "SmolLM2-135M-Instruct",
            "hook_name": str(SITE),
            "context_size": WINDOW,
            "text": "the topics of Python's manual, pydoc_data",
        },
    }
    (folder / "cfg.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def report(folder: Path, model: mp.HookedModel, windows: Sequence[mx.array], activations: np.ndarray) -> None:
    """What the written file explains of held-out activations, and the tokens of its most frequent features."""
    sae = mp.dictionaries.load(folder)
    usual = ordinary(activations)
    x = mx.array(activations[usual])
    features = sae.encode(x)
    error = mx.mean(mx.sum((sae.decode(features) - x) ** 2, axis=-1))
    explained = 1 - (error / mx.sum(mx.var(x, axis=0))).item()
    values = np.array(features)
    print(f"held out: {len(values)} tokens, {explained:.1%} of the variance explained")
    print(f"{np.sum(np.any(values > 0, axis=0))} of {sae.n_features} features fire")
    ids = np.concatenate([np.array(window)[0, 1:] for window in windows])[usual]
    for feature in np.argsort(-np.sum(values > 0, axis=0))[50:500:50]:
        largest = np.argsort(-values[:, feature])[:8]
        print(f"feature {feature}: {model.str_tokens(mx.array(ids[largest]))}")


def main() -> None:
    """Train, write and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where the dictionary is written")
    parser.add_argument("--quick", action="store_true", help="a few steps, to see that it runs")
    arguments = parser.parse_args()
    recipe = QUICK if arguments.quick else Recipe()
    model = mp.HookedModel.load(smollm2_folder())
    windows = text_windows(model, recipe.windows)
    learned = [window for number, window in enumerate(windows) if number % HELD_OUT]
    held_out = windows[::HELD_OUT]
    with tempfile.TemporaryDirectory() as folder:
        activations = captured(model, learned, Path(folder) / "learned")
        unseen = captured(model, held_out, Path(folder) / "held out")
    activations = activations[ordinary(activations)]
    print(f"{len(activations)} tokens to learn from")
    scale = float(activations.shape[1] ** 0.5 / np.linalg.norm(activations, axis=1).mean())
    weights = train(activations * np.float32(scale), recipe)
    save(weights, scale, recipe, arguments.folder)
    report(arguments.folder, model, held_out, unseen)


if __name__ == "__main__":
    main()
