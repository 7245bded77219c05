"""Makes the figures of docs/plots.md: which layers and positions hold the name, in SmolLM2-135M-Instruct.

python docs/make_plots.py [folder]     960 runs of the model: a few minutes on 2 cores
"""

import sys
from pathlib import Path

import mlx.core as mx
import numpy as np

import mlx_patch as mp
from mlx_patch.provenance import versions
from mlx_patch.sweeps import PairResult, SweepResult
from mlx_patch.testing import smollm2_folder

FIGURES = Path(__file__).parent / "figures"
PAIRS = (("John", "Mary"), ("Tom", "James"), ("Paul", "David"), ("Anna", "Kate"))
TEXT = "When {0} and {1} went to the shops, {2} gave a bottle of milk to"
METRIC = "logit of the right name minus the wrong one (nats)"


def sweep(model: mp.HookedModel, tokens: mx.array, other: mx.array, metric: mp.metrics.Metric) -> SweepResult:
    """Each layer and position of a run, replaced by that of another run: the plain loop."""
    _, cache = model.run_with_cache(other, "resid_post", logits_at=-1)
    edit = mp.Replace(cache)
    values = [
        [
            np.array(metric(model.run(tokens, edit.at("resid_post", layer=layer, pos=pos), logits_at=-1)))
            for pos in range(tokens.shape[1])
        ]
        for layer in range(model.n_layers)
    ]
    token = tuple(model.tokenizer.decode([t]) for t in tokens[0].tolist())
    axes = ("layer", "pos", "example")
    coords = {axis: range(size) for axis, size in zip(axes, np.shape(values), strict=True)} | {"token": token}
    baseline = np.array(metric(model.run(tokens, logits_at=-1)))
    said = {"metrics": [METRIC], "versions": versions(), "tokens": tokens.tolist(), "executor": "loop"}
    return SweepResult(np.array(values), axes, coords, baseline, said)


def measured() -> PairResult:
    """Both directions, on four prompts."""
    model = mp.HookedModel.load(smollm2_folder("float32"))
    clean, corrupted = (
        mx.concatenate([model.tokenize(TEXT.format(a, b, (a, b)[second])) for a, b in PAIRS]) for second in (0, 1)
    )
    right, wrong = ([f" {pair[which]}" for pair in PAIRS] for which in (1, 0))
    metric = mp.metrics.LogitDiff(right, wrong).resolve(model.tokenizer)
    denoising, noising = sweep(model, corrupted, clean, metric), sweep(model, clean, corrupted, metric)
    gap = {"clean": noising.baseline, "corrupted": denoising.baseline}
    return PairResult(denoising.normalised(**gap), noising.normalised(**gap))


def main(folder: Path) -> None:
    """Measure, unless that was done, and draw."""
    kept = folder / "indirect_object.npz"
    if not kept.exists():
        measured().save(kept)
    pair = PairResult.load(kept)
    sys.stdout.write(f"{pair}\n\n{pair.summary()}\n")
    result = pair.denoising
    pair.plot()[0].figure.savefig(FIGURES / "pair.png", dpi=80)
    result.plot().figure.savefig(FIGURES / "layer_pos.png", dpi=80)
    result.sel(pos=-1).plot().figure.savefig(FIGURES / "layer.png", dpi=80)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "."))
