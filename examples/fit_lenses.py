"""Fits a tuned lens and a Jacobian lens to SmolLM2-135M-Instruct, and draws what docs/lenses.md shows of them.

    python examples/fit_lenses.py [folder]      some 30 minutes on 2 cores; what is in the folder is not fitted again

The corpus is English that is on every machine with Python: the pages of its help, `pydoc_data.topics`.
"""

import sys
from pathlib import Path
from pydoc_data.topics import topics

import mlx.core as mx
import numpy as np

import mlx_patch as mp
from mlx_patch.testing import smollm2_folder

FIGURE = Path(__file__).parents[1] / "docs" / "figures" / "fitted_lenses_smollm2.png"
PROMPT = "When John and Mary went to the shops, John gave a bottle of milk to"
LENGTH = 24
"""Tokens of each prompt."""

SITES = [mp.Site("resid_post", layer) for layer in range(0, 29, 4)]

TOKEN, LAYER = " Paris", 15
STEERED = ("My favourite city in the world is", "Last summer we spent a week in", "The train goes directly to")


def corpus(model: mp.HookedModel, n_prompts: int, seed: int = 0) -> list[mx.array]:
    """Paragraphs of Python's help, cut to one length. Each of shape `(pos,)`."""
    paragraphs = [text for page in topics.values() for text in page.split("\n\n") if len(text) > 5 * LENGTH]
    order = np.random.default_rng(seed).permutation(len(paragraphs))
    rows = (model.tokenize(" ".join(paragraphs[number].split()))[0] for number in order)
    long = (row[:LENGTH] for row in rows if len(row) >= LENGTH)
    return [row for row, _ in zip(long, range(n_prompts), strict=False)]


def fitted(model: mp.HookedModel, folder: Path) -> tuple[mp.lens.TunedLens, mp.lens.JacobianLens]:
    """Both lenses, fitted or read."""
    tuned_path, jacobian_path = folder / "tuned_lens.safetensors", folder / "jacobian_lens.safetensors"
    if not tuned_path.exists():
        mp.lens.fit_tuned_lens(model, corpus(model, 400), SITES, steps=120, positions=48, held_out=0.05).save(
            tuned_path
        )
    tuned = mp.lens.TunedLens.load(tuned_path, model)
    print(tuned.fit, flush=True)
    if not jacobian_path.exists():
        mp.lens.fit_jacobian_lens(model, corpus(model, 20), SITES, share=0.125, progress=report).save(jacobian_path)
    jacobian = mp.lens.JacobianLens.load(jacobian_path, model)
    print(jacobian.fit, flush=True)
    return tuned, jacobian


def report(done: int, total: int) -> None:
    """Say how far a fit is."""
    print(f"{done} of {total} prompts", flush=True)


def main(folder: Path) -> None:
    """Fit, print, draw."""
    model = mp.HookedModel.load(smollm2_folder("float32"))
    fitted(model, folder)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "."))
