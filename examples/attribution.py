"""Attribution on a real model: which heads, MLP outputs and neurons carry the name, and are the estimates right?

The prompts are those of `indirect_object.py`. The corrupted prompts are run, and activations of the clean prompts are
put in. `mp.attribute` estimates, from gradients, what a sweep would measure of three sets of cells:

* heads: the 270 heads of `z`, at all positions;
* mlp_out: what each MLP adds to the stream, by layer and position;
* neurons: the 46,080 neurons of `mlp_post`, at the last position.

Of each set, the 50 cells with the strongest estimates and 50 others, drawn at random, are then swept exactly.

    python examples/attribution.py             # SmolLM2-135M-Instruct, made from a wheel of PyPI; no model hub
    python examples/attribution.py --quick     # the heads and MLP outputs of six layers
    python examples/attribution.py --method integrated    # gradients along the way between the prompts; more passes

It prints the strongest cells, estimated and exact, and how far the two agree. It writes an `.npz` of each set (for
`Estimate.load`) and, with the extra `plot`, figures of exact against estimated effects. docs/attribution.md shows them.

Source:
    Wang et al. 2022, https://arxiv.org/abs/2211.00593, section 2, for the task; Syed et al. 2023,
    https://arxiv.org/abs/2310.10348, for the estimates.
"""

import argparse
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from indirect_object import QUICK, prompts, right_minus_wrong

import mlx_patch as mp
from mlx_patch.testing import smollm2_folder

CELLS: Mapping[str, Mapping[str, Any]] = {
    "heads": {"at": "z", "over": ("layer", "head")},
    "mlp_out": {"at": "mlp_out", "over": ("layer", "pos")},
    "neurons": {"at": "mlp_post", "over": ("layer", "neuron"), "positions": -1},
}
CONFIRM = SAMPLE = 50
SHOWN = 8
"""Rows of a table."""


def estimated(
    model: mp.HookedModel,
    names: Sequence[str] = tuple(CELLS),
    layers: Sequence[int] | None = None,
    method: str = "gradient",
    confirm: int = CONFIRM,
    sample: int = SAMPLE,
) -> dict[str, mp.Estimate]:
    """The estimates of some sets of cells, by name, with those that were confirmed; None is all layers."""
    clean, corrupted = prompts(model)
    metric = right_minus_wrong(model)
    estimates = {}
    for name in names:
        _, cache = model.run_with_cache(clean, sites=CELLS[name]["at"])
        estimates[name] = mp.attribute(
            model,
            corrupted,
            mp.Replace(cache),
            metric=metric,
            layers=layers,
            method=method,
            confirm=confirm,
            sample=sample,
            **CELLS[name],
        )
    return estimates


def table(estimate: mp.Estimate, n_rows: int = SHOWN) -> str:
    """The confirmed cells with the largest exact effects, each beside its estimate."""
    exact = estimate.mean() - estimate.baseline_mean()
    first_order = estimate.estimated.mean(axis=-1) - estimate.baseline_mean()
    order = np.argsort(-np.where(estimate.exact, np.abs(exact), -1.0), axis=None)
    lines = [f"{'':<28}{'estimated':>11}{'exact':>9}"]
    for number in order[:n_rows]:
        cell = np.unravel_index(number, exact.shape)
        places = [f"{axis} {estimate.coords[axis][index]}" for axis, index in zip(estimate.over, cell, strict=True)]
        lines.append(f"{', '.join(places):<28}{first_order[cell]:>11.3f}{exact[cell]:>9.3f}")
    return "\n".join(lines)


def report(name: str, estimate: mp.Estimate) -> str:
    """The strongest cells of a set, and how far the estimates agree with the sweep."""
    heading = f"{name}: {estimate.exact.size:,} cells, {estimate.seconds or 0:.0f} s"
    return f"{heading}\n{table(estimate)}\n{estimate.agreement}\n"


def write(estimates: Mapping[str, mp.Estimate], folder: Path) -> None:
    """The numbers, and the figures if matplotlib is installed."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, estimate in estimates.items():
        estimate.save(folder / f"attribution_{name}.npz")
    if not find_spec("matplotlib"):
        print("No figures: matplotlib is not installed. Install the extra: pip install 'mlx-patch[plot]'")
        return
    draw(estimates, folder)


def draw(estimates: Mapping[str, mp.Estimate], folder: Path) -> None:
    """Exact effects against estimated ones, a panel a set."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(1, len(estimates), figsize=(4.6 * len(estimates), 4.2), squeeze=False)
    for panel, (name, estimate) in zip(panels[0], estimates.items(), strict=True):
        estimate.plot_agreement(ax=panel)
        panel.set_title(f"{name}: {panel.get_title()}", fontsize="small")
        panel.set_xlabel("estimated change of the logit difference")
        panel.set_ylabel("exact change of the logit difference")
    figure.tight_layout()
    with mp.written_whole(folder / "attribution_smollm2.png") as beside:
        figure.savefig(beside, dpi=80)
    plt.close(figure)


def main() -> None:
    """Estimate, confirm, print and write."""
    parser = argparse.ArgumentParser(description="Attribution on SmolLM2's indirect-object prompts, confirmed.")
    parser.add_argument("--quick", action="store_true", help=f"no neurons; only layers {', '.join(map(str, QUICK))}")
    parser.add_argument("--method", default="gradient", help="as of mp.attribute: gradient or integrated")
    parser.add_argument("--results", type=Path, default=Path("results"), help="the folder to write to")
    chosen = parser.parse_args()
    model = mp.HookedModel.load(smollm2_folder("float32"))
    names, layers = tuple(CELLS), None
    if chosen.quick:
        names, layers = ("heads", "mlp_out"), QUICK
    estimates = estimated(model, names, layers, chosen.method)
    for name, estimate in estimates.items():
        print(report(name, estimate))
    write(estimates, chosen.results)
    print(f"Saved: {chosen.results}")


if __name__ == "__main__":
    main()
