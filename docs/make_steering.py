"""Makes the numbers and the figure of docs/tutorials/steering.md, on SmolLM2-135M-Instruct.

python docs/make_steering.py     three minutes of processor time with OpenBLAS
"""

import re
import sys
from pathlib import Path

import mlx.core as mx
import numpy as np

import mlx_patch as mp
from mlx_patch.plot import layer_curve
from mlx_patch.testing import smollm2_folder

FIGURE = Path(__file__).parent / "figures" / "steering_smollm2.png"
LAYERS = (8, 11, 14, 16, 18, 20, 22, 24)
STRENGTHS = (0, 0.5, 1, 1.5, 2, 3, 4)
LISTS = ("List five fruits.", "Give me a list of three countries in Europe.", "List four colours.")
LISTS += ("Name five animals that live in the sea.", "List three sports.", "List the steps to make tea.")
LISTS += ("Give me five tips for a good night's sleep.", "List six vegetables.", "What are four ways to save money?")
LISTS += ("List three famous painters.", "Give me a list of five books for children.", "List four musical instruments.")
LISTS += ("List five kinds of trees.", "Give me three reasons to learn a language.", "List three rivers.")
LISTS += ("Name four things to take on a hike.", "What are five good habits?", "Give me a list of four desserts.")
PROSE = ("What is the capital of France?", "Describe an apple.", "Why is the sky blue?", "Tell me about the moon.")
PROSE += ("What does a baker do?", "Who wrote Hamlet?", "Explain what a river is.", "How does a bicycle work?")
PROSE += ("What is a dolphin?", "Describe the colour red.", "What is tea?", "Tell me about the city of Rome.")
PROSE += ("What is a volcano?", "Describe a cat.", "How does rain form?", "Who was Mozart?", "What is bread?")
PROSE += ("Tell me about the sea.",)
NUMBERED = mp.metrics.GenerateMatches(r"^1\. ", max_tokens=3)
FIRST = mp.metrics.LogProb("1")


def say(text: object) -> None:
    """Print a line."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def random_direction(vector: mx.array, seed: int) -> mx.array:
    """A direction of the same length."""
    drawn = mx.random.normal(vector.shape, key=mx.random.key(seed))
    return drawn * mx.linalg.norm(vector) / mx.linalg.norm(drawn)


def main() -> None:
    """Steer questions to lists, and take lists away."""
    model = mp.HookedModel.load(smollm2_folder("float32"))
    lists, prose = ([model.tokenize([{"role": "user", "content": text}]) for text in texts] for texts in (LISTS, PROSE))
    chosen_on = (lists[6:12], prose[6:12])
    found = mp.recipes.contrast_direction(model, lists[:6], prose[:6], FIRST, chosen_on, layers=LAYERS, progress=False)
    direction, layer = found.vector, found.layer
    say(f"layer {layer}: added {found.added.mean().round(1)}, ablated {found.ablated.mean().round(1)}")
    vectors = {"direction": direction} | {f"random {seed}": random_direction(direction, seed) for seed in range(3)}
    lists, prose = lists[12:], prose[12:]

    without = {name: mp.recipes.ablation_of(model, vector) for name, vector in vectors.items()}
    for name, edits in {"unpatched": [], **without}.items():
        texts = [model.generate(tokens, edits, max_tokens=20) for tokens in lists]
        numbered = [bool(re.search(r"(^|\n)1\. ", text)) for text in texts]
        say(f"without {name}: {np.mean(numbered):.2f} {mp.measure(model, lists, FIRST, edits).mean():.2f} {texts}")

    shares = {}
    for name, vector in vectors.items():
        cells = [mp.Add(vector, strength).at("resid_pre", layer=layer, pos=-1) for strength in STRENGTHS]
        shares[name] = [mp.measure(model, prose, NUMBERED, [cell]).mean() for cell in cells]
        say((name, np.round(shares[name], 2).tolist()))
    for strength in (0, 2):
        at_last = mp.Add(direction, strength).at("resid_pre", layer=layer, pos=-1)
        everywhere = mp.Add(direction, strength).at("resid_pre", layer=layer)
        for tokens in prose[:3]:
            texts = [model.generate(tokens, [edit], max_tokens=24) for edit in (at_last, everywhere)]
            say((strength, *texts))

    title = "The direction of lists, added at the last position of a question"
    panel = layer_curve(
        np.array(list(shares.values())),
        STRENGTHS,
        labels=list(shares),
        value_label='share of answers that begin "1. "',
        axis_label="strength",
        title=title,
    )
    panel.figure.savefig(FIGURE, dpi=80, bbox_inches="tight")
    say(f"wrote {FIGURE.name}")


if __name__ == "__main__":
    main()
