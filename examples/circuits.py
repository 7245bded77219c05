"""Circuits on a real model: how many of SmolLM2's edges does the indirect-object task need?

The prompts are those of `indirect_object.py`, with four more pairs of names. The clean prompts are run, and edges that
are off carry the corrupted prompts' values. `mp.circuits.edges` scores all edges, from gradients of the host's run and
from integrated ones. `mp.circuits.faithfulness` then runs circuits of the best edges exactly, of either ranking.

    python examples/circuits.py             # SmolLM2-135M-Instruct, made from a wheel of PyPI; no model hub
    python examples/circuits.py --quick     # four circuits, ranked by gradients

It prints both curves, and which edges of a small circuit pruning keeps. It writes `circuit_smollm2.json` in the format
of EAP-IG, `circuit_smollm2.html` and, with the extra `plot`, two figures. docs/circuits.md shows them.

Source:
    Wang et al. 2022, https://arxiv.org/abs/2211.00593, section 2, for the task; Hanna et al. 2024,
    https://arxiv.org/abs/2403.17806, and Mueller et al. 2025, https://arxiv.org/abs/2504.13151, for the curve.
"""

import argparse
import time
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

import mlx.core as mx
import numpy as np
from indirect_object import NAMES, TEXT

import mlx_patch as mp
from mlx_patch.circuits import Circuit, EdgeScores, FaithfulnessCurve
from mlx_patch.testing import smollm2_folder

PAIRS = (*NAMES, ("Mark", "Lisa"), ("Peter", "Sarah"), ("Jack", "Emma"), ("Alice", "Robert"))
SHARES = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
QUICK = (0.001, 0.02, 0.2, 1.0)
STEPS = 16
DRAWN = 50


class Task:
    """The prompts and the metric of the task.

    Args:
        model: The model.
        pairs: Names, each of one token.
    """

    def __init__(self, model: mp.HookedModel, pairs: Sequence[tuple[str, str]] = PAIRS):
        clean, corrupted = ([model.tokenize(TEXT.format(*names, names[giver])) for names in pairs] for giver in (0, 1))
        self.host, corrupted_tokens = mx.concatenate(clean), mx.concatenate(corrupted)
        wrong, right = ([f" {name}" for name in side] for side in zip(*pairs, strict=True))
        self.metric = mp.metrics.LogitDiff(right, wrong).resolve(model.tokenizer)
        self.model = model
        _, self.cache = model.run_with_cache(corrupted_tokens, sites=mp.circuits.writer_sites(model))

    def edges(self, method: str, steps: int | None = None) -> EdgeScores:
        """The scores of all edges."""
        return mp.circuits.edges(self.model, self.host, self.cache, self.metric, method=method, steps=steps)

    def curve(self, edges: EdgeScores, shares: Sequence[float], complements: bool = False) -> FaithfulnessCurve:
        """Faithfulness of circuits that grow from the logits."""
        sizes = sorted({round(share * edges.graph.n_edges) for share in shares})
        return mp.circuits.faithfulness(
            self.model, self.host, self.cache, self.metric, edges, sizes, complements=complements, connected=True
        )

    def measure(self, circuit: Circuit) -> float:
        """The mean metric of a circuit."""
        logits = mp.circuits.run(self.model, self.host, self.cache, circuit)
        return float(np.mean(np.array(self.metric(logits))))


def table(curves: Mapping[str, FaithfulnessCurve]) -> str:
    """Faithfulness by size, with 95 % intervals over examples."""
    lines = []
    for name, curve in curves.items():
        low, high = curve.interval()
        lines.append(f"{name}: metric {curve.host.mean():.2f} with all edges, {curve.source.mean():.2f} with none")
        lines.append(f"{'edges':>8}{'f':>8}{'interval':>18}{'others':>9}")
        others = np.full(len(curve.sizes), np.nan)
        if curve.complement is not None:
            others = curve.f_complement
        for row, size in enumerate(curve.sizes):
            interval = f"{low[row]:.2f} to {high[row]:.2f}"
            lines.append(f"{size:>8,}{curve.f_absolute[row]:>8.3f}{interval:>18}{others[row]:>9.3f}")
    return "\n".join(lines)


def strongest(edges: EdgeScores, n_rows: int = 10) -> str:
    """The strongest edges, with their scores."""
    scores = edges.mean()
    circuit = edges.top(n_rows)
    by_name = dict(zip(circuit.edges, scores[circuit.has_edge].tolist(), strict=True))
    rows = sorted(by_name, key=lambda name: -abs(by_name[name]))
    return "\n".join(f"{name:<20}{by_name[name]:>8.2f}" for name in rows)


def draw(curves: Mapping[str, FaithfulnessCurve], folder: Path) -> None:
    """The curves, with their intervals."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(6.4, 4.2), layout="constrained")
    for number, (name, curve) in enumerate(curves.items()):
        low, high = curve.interval()
        axes.plot(curve.sizes, curve.f_absolute, marker="o", color=f"C{number}", label=f"best edges, {name}")
        axes.fill_between(curve.sizes, low, high, color=f"C{number}", alpha=0.2, linewidth=0)
        if curve.complement is not None:
            label = f"all other edges, {name}"
            axes.plot(curve.sizes, curve.f_complement, marker="o", color=f"C{number}", linestyle="dotted", label=label)
    axes.axhline(0, color="0.8", linewidth=0.8, zorder=0)
    axes.axhline(1, color="0.8", linewidth=0.8, zorder=0)
    axes.set_xscale("log")
    axes.set_xlabel("edges in the circuit")
    axes.set_ylabel("faithfulness")
    axes.legend(fontsize="small")
    with mp.written_whole(folder / "faithfulness_smollm2.png") as beside:
        figure.savefig(beside, dpi=80)
    plt.close(figure)


def write(curves: Mapping[str, FaithfulnessCurve], edges: EdgeScores, folder: Path) -> None:
    """The graph, and the figures if matplotlib is installed."""
    folder.mkdir(parents=True, exist_ok=True)
    circuit = edges.top(DRAWN, connected=True)
    edges.to_json(folder / "circuit_smollm2.json", circuit)
    edges.to_html(folder / "circuit_smollm2.html", circuit)
    if not find_spec("matplotlib"):
        print("No figures: matplotlib is not installed. Install the extra: pip install 'mlx-patch[plot]'")
        return
    draw(curves, folder)
    figure = edges.plot(circuit).get_figure(root=True)
    with mp.written_whole(folder / "circuit_smollm2.png") as beside:
        if figure is not None:
            figure.savefig(beside, dpi=75)


def main() -> None:
    """Score, run, print and write."""
    parser = argparse.ArgumentParser(description="Circuits of SmolLM2 for the indirect-object task.")
    parser.add_argument("--quick", action="store_true", help="four circuits, ranked by gradients")
    parser.add_argument("--results", type=Path, default=Path("results"), help="the folder to write to")
    chosen = parser.parse_args()
    start = time.perf_counter()
    task = Task(mp.HookedModel.load(smollm2_folder("float32")))
    scores, shares = {"gradient": task.edges("gradient")}, QUICK
    if not chosen.quick:
        scores["integrated"], shares = task.edges("integrated", STEPS), SHARES
    curves = {}
    for name, edges in scores.items():
        print(f"{name}: {edges}, {time.perf_counter() - start:.0f} s\n{strongest(edges)}")
        curves[name] = task.curve(edges, shares, complements=name == "integrated")
        print(f"{time.perf_counter() - start:.0f} s")
    print(table(curves))
    name, edges = list(scores.items())[-1]
    if "residual" in edges.provenance:
        print(f"{name}: residual {edges.provenance['residual']:.3f} after {edges.provenance['steps']} steps")
    write(curves, edges, chosen.results)
    print(f"Saved: {chosen.results}, {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
