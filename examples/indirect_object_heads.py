"""Which heads of a model find the indirect object, and by which way: three effects of each head, and some paths.

The prompts are those of `indirect_object.py`. The corrupted prompts are run, and heads of the clean ones are put in.

    python examples/indirect_object_heads.py            # SmolLM2-135M-Instruct, made from a wheel of PyPI; no model hub
    python examples/indirect_object_heads.py --quick    # layers 20 and 23

It prints what each head writes to the logits, its exact direct effect and its total effect; then the effects of paths
between heads. With the extra `plot` it writes a figure. docs/tutorials/indirect-object.md tells the story.

Source:
    Wang et al. 2022, https://arxiv.org/abs/2211.00593, section 3.
"""

import argparse
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from indirect_object import NAMES, prompts, right_minus_wrong

import mlx_patch as mp
from mlx_patch.circuits import HeadEffects
from mlx_patch.testing import smollm2_folder

QUICK = (20, 23)
RIGHT, WRONG = [f" {name}" for _, name in NAMES], [f" {name}" for name, _ in NAMES]


def effects(model: mp.HookedModel, layers: Sequence[int] | None = None) -> HeadEffects:
    """The three effects of every head; None is all layers."""
    clean, corrupted = prompts(model)
    _, cache = model.run_with_cache(clean, sites="z", logits_at=-1)
    return mp.circuits.head_effects(model, corrupted, cache, RIGHT, WRONG, layers)


def paths(model: mp.HookedModel) -> Mapping[str, float]:
    """The mean effects of paths between the heads of the story, by what they say."""
    clean, corrupted = prompts(model)
    _, cache = model.run_with_cache(clean, sites="z", logits_at=-1)
    patch = mp.Replace(cache)
    notes, fetches, other = (patch.at("z", layer=layer, head=head) for layer, head in ((17, 4), (20, 0), (19, 2)))
    by_name = {
        "20.0 to the queries of layer 23": fetches.via("q", layer=23),
        "20.0 to the query of 23.3": fetches.via("q", layer=23, head=3),
        "20.0 to the keys of layer 23": fetches.via("k", layer=23),
        "20.0 to the values of layer 23": fetches.via("v", layer=23),
        "19.2 to the queries of layer 23": other.via("q", layer=23),
        "17.4 to the values of 20.0": notes.via("v", layer=20, head=0),
        "17.4 to the values of 20.0, to the queries of layer 23": notes.via("v", layer=20, head=0).via("q", layer=23),
        "17.4 to the query of 20.0": notes.via("q", layer=20, head=0),
        "17.4 to the key of 20.0": notes.via("k", layer=20, head=0),
    }
    result = mp.sweep(model, corrupted, over=list(by_name.values()), metric=right_minus_wrong(model), progress=False)
    means = np.mean(result.values - result.baseline, axis=-1)
    return dict(zip(by_name, means.tolist(), strict=True))


def write(found: HeadEffects, folder: Path) -> None:
    """The figure, if matplotlib is installed."""
    folder.mkdir(parents=True, exist_ok=True)
    if not find_spec("matplotlib"):
        print("No figure: matplotlib is not installed. Install the extra: pip install 'mlx-patch[plot]'")
        return
    import matplotlib as mpl

    mpl.use("Agg")
    figure = found.plot().get_figure(root=True)
    with mp.written_whole(folder / "head_effects_smollm2.png") as beside:
        if figure is not None:
            figure.savefig(beside, dpi=80)


def main() -> None:
    """Measure, print and draw."""
    parser = argparse.ArgumentParser(description="Heads and paths of SmolLM2's indirect-object task.")
    parser.add_argument("--quick", action="store_true", help=f"only layers {' and '.join(map(str, QUICK))}; no paths")
    parser.add_argument("--results", type=Path, default=Path("results"), help="the folder to write to")
    chosen = parser.parse_args()
    model = mp.HookedModel.load(smollm2_folder("float32"))
    found = effects(model, QUICK if chosen.quick else None)
    print(found)
    if not chosen.quick:
        for name, effect in paths(model).items():
            print(f"{effect:>8.2f}  {name}")
    write(found, chosen.results)
    print(f"Saved: {chosen.results}")


if __name__ == "__main__":
    main()
