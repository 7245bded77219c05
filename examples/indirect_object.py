"""The indirect-object task on a real model: where is the giver's name read, and where is the answer?

"When John and Mary went to the shops, John gave a bottle of milk to" asks for " Mary"; with the other giver, for
" John". `mp.sweep_pair` puts the residual stream of each prompt into the other, a layer and a position at a time, and
measures the logit of the right name minus that of the wrong one, as a fraction of what it is between the two prompts:

* denoising, clean put into corrupted: which layers and positions are enough to bring the answer back;
* noising, corrupted put into clean: which it cannot do without.

    python examples/indirect_object.py             # SmolLM2-135M-Instruct, made from a wheel of PyPI; no model hub
    python examples/indirect_object.py --quick     # six layers
    python examples/indirect_object.py --results docs/figures    # the figures of docs/plots.md

It prints the plan, the cells that are necessary or sufficient and the peaks, and writes `ioi_smollm2.json`,
`ioi_smollm2.npz` (for `PairResult.load`) and, with the extra `plot`, three figures. docs/plots.md shows them.

Source:
    Wang et al. 2022, https://arxiv.org/abs/2211.00593, section 2, for the task; Heimersheim and Nanda 2024,
    https://arxiv.org/abs/2404.15255, for the two directions.
"""

import argparse
import json
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import mlx.core as mx

import mlx_patch as mp
from mlx_patch.sweeps import PairResult
from mlx_patch.testing import smollm2_folder

NAMES = (("John", "Mary"), ("Tom", "James"), ("Paul", "David"), ("Anna", "Kate"))
TEXT = "When {0} and {1} went to the shops, {2} gave a bottle of milk to"
QUICK = (0, 6, 12, 18, 24, 29)
OVER = ("layer", "pos")


def prompts(model: mp.HookedModel) -> tuple[mx.array, mx.array]:
    """The clean prompts, where the first name gives, and the corrupted ones, where the second does.

    Returns:
        Token ids. Shape of both: `(batch, pos)`. Every name is one token, so that positions mean the same in all.
    """
    clean, corrupted = ([model.tokenize(TEXT.format(*names, names[giver])) for names in NAMES] for giver in (0, 1))
    return mx.concatenate(clean), mx.concatenate(corrupted)


def right_minus_wrong(model: mp.HookedModel) -> mp.metrics.LogitDiff:
    """The logit of the name that did not give, in the clean prompt, minus that of the other: a pair of names a prompt.

    Raises:
        TokenError: A name is not one token.
    """
    wrong, right = ([f" {name}" for name in side] for side in zip(*NAMES, strict=True))
    metric = mp.metrics.LogitDiff(right, wrong, name="logit of the right name minus the wrong one")
    return metric.resolve(model.tokenizer)


def measured(model: mp.HookedModel, layers: Sequence[int] | None = None, positions: object = None) -> PairResult:
    """Both directions, over layers and positions of the stream; None is all."""
    clean, corrupted = prompts(model)
    metric = right_minus_wrong(model)
    return mp.sweep_pair(
        model, clean, corrupted, "resid_post", metric=metric, over=OVER, layers=layers, positions=positions
    )


def write(pair: PairResult, folder: Path) -> None:
    """The numbers, and the figures if matplotlib is installed."""
    folder.mkdir(parents=True, exist_ok=True)
    pair.save(folder / "ioi_smollm2.npz")
    both = {"denoising": json.loads(pair.denoising.to_json()), "noising": json.loads(pair.noising.to_json())}
    with mp.written_whole(folder / "ioi_smollm2.json") as beside:
        beside.write_text(json.dumps(both, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    if not find_spec("matplotlib"):
        print("No figures: matplotlib is not installed. Install the extra: pip install 'mlx-patch[plot]'")
        return
    draw(pair, folder)


def draw(pair: PairResult, folder: Path) -> None:
    """Both directions; denoising by itself; and its last position."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    mpl.use("Agg")
    result = pair.denoising
    panels = {"ioi_smollm2": pair.plot()[0], "layer_pos": result.plot(), "layer": result.sel(pos=-1).plot()}
    for name, panel in panels.items():
        assert isinstance(panel.figure, Figure)
        with mp.written_whole(folder / f"{name}.png") as beside:
            panel.figure.savefig(beside, dpi=80)


def main() -> None:
    """Sweep, print and write."""
    parser = argparse.ArgumentParser(description="The indirect-object task on SmolLM2, patched both ways.")
    parser.add_argument("--quick", action="store_true", help=f"only layers {', '.join(map(str, QUICK))}")
    parser.add_argument("--results", type=Path, default=Path("results"), help="the folder to write to")
    chosen = parser.parse_args()
    model = mp.HookedModel.load(smollm2_folder("float32"))
    pair = measured(model, QUICK if chosen.quick else None)
    print(f"{pair.denoising.plan}\n\n{pair.summary()}\n")
    for name, result in (("denoising", pair.denoising), ("noising", pair.noising)):
        print(f"{name}: furthest from its baseline at {result.peak()}; {result.seconds or 0:.0f} s")
    write(pair, chosen.results)
    print(f"Saved: {chosen.results}")


if __name__ == "__main__":
    main()
