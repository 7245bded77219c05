"""How the D1 study is written down: the printed table, the JSON files with the original's keys, the figures."""

import json
from datetime import UTC, datetime
from pathlib import Path

from d1_data import Pair

import mlx_patch as mp
from mlx_patch.provenance import versions

_ARROWS = {"instruct_to_base": "instruct's stream put into base", "base_to_instruct": "base's stream put into instruct"}


def layer_line(layer: int, n_layers: int, numbers: dict) -> str:
    """One row of the table, with *** where the effect is larger than 0.01."""
    marker = "***" if abs(numbers["effect"]) > 0.01 else ""
    return (
        f"  Layer {layer:3d}/{n_layers} ({layer / n_layers * 100:5.1f}%): <tool_call>={numbers['tool_call_prob']:.6f} "
        f"(effect={numbers['effect']:+.6f}) {marker:3} [{numbers['time_s']:.1f}s]"
    )


def print_peaks(results: list[dict]) -> None:
    """One line a pair: where each direction peaks."""
    print(f"\n{'=' * 70}\nCOMPLETE")
    for result in results:
        s = result["summary"]
        print(
            f"  {result['display']} (D1={result['d1_group']}): "
            f"instruct to base peaks at layer {s['i2b_peak_layer']} ({s['i2b_peak_depth_pct']}%), "
            f"{s['i2b_peak_effect']:+.4f}; base to instruct at layer {s['b2i_peak_layer']} "
            f"({s['b2i_peak_depth_pct']}%), {s['b2i_peak_effect']:+.4f}"
        )


def result_of(
    name: str,
    pair: Pair,
    n_layers: int,
    n_tokens: int,
    positions: str,
    baselines: dict[str, dict],
    i2b: dict[int, dict],
    b2i: dict[int, dict],
    caches: dict[str, mp.ActivationCache],
) -> dict:
    """The record of one pair, with the original's keys and a few more."""
    return {
        "pair": name,
        "display": pair.display,
        "d1_group": pair.d1_group,
        "n_layers": n_layers,
        "n_tokens": n_tokens,
        "layers_tested": list(i2b),
        "positions": positions,
        "base_id": pair.base,
        "instruct_id": pair.instruct,
        "adapter": pair.adapter,
        "baselines": baselines,
        "instruct_to_base": {str(layer): r for layer, r in i2b.items()},
        "base_to_instruct": {str(layer): r for layer, r in b2i.items()},
        "summary": {**_peak("i2b", i2b, n_layers), **_peak("b2i", b2i, n_layers)},
        "provenance": {"versions": versions(), "models": {role: cache.model for role, cache in caches.items()}},
        "timestamp": datetime.now(UTC).isoformat(),
    }


def _peak(prefix: str, results: dict[int, dict], n_layers: int) -> dict:
    layer = max(results, key=lambda one: abs(results[one]["effect"]))
    return {
        f"{prefix}_peak_layer": layer,
        f"{prefix}_peak_effect": results[layer]["effect"],
        f"{prefix}_peak_depth_pct": round(layer / n_layers * 100, 1),
    }


def summary_of(results: list[dict]) -> dict:
    """The record over pairs, with the original's keys."""
    peaks = [f"{way}_peak_{what}" for way in ("i2b", "b2i") for what in ("layer", "depth_pct", "effect")]
    pairs = {
        r["pair"]: {
            **{key: r[key] for key in ("display", "d1_group", "n_layers")},
            **{key: r["summary"][key] for key in peaks},
            "instruct_baseline_tool_prob": r["baselines"]["instruct"]["tool_call_prob"],
            "base_baseline_tool_prob": r["baselines"]["base"]["tool_call_prob"],
        }
        for r in results
    }
    return {"n_pairs": len(results), "pairs": pairs, "timestamp": datetime.now(UTC).isoformat()}


def write_json(record: dict, path: Path) -> None:
    """Write a record, whole or not at all."""
    with mp.written_whole(path) as beside:
        beside.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"Saved: {path}")


def write_figures(results: list[dict], folder: Path, stamp: str) -> None:
    """One figure a pair and one of all pairs, if matplotlib is installed."""
    try:
        import matplotlib as mpl
    except ImportError:
        print("No figures: matplotlib is not installed. Install the extra: pip install 'mlx-patch[plot]'")
        return
    mpl.use("Agg")
    for result in results:
        _figure([result], folder / f"patching_{result['pair']}_{stamp}.png")
    if len(results) > 1:
        _figure(results, folder / "patching_summary.png")


def _figure(results: list[dict], path: Path) -> None:
    """Effect against depth, one panel a direction, one line a pair, peaks marked."""
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, 3, figsize=(15.5, 4.4), sharey=True, layout="constrained")
    effects = [abs(layer["effect"]) for result in results for way in _ARROWS for layer in result[way].values()]
    crossed = [abs(row["interaction"]) for result in results for row in result["two_by_two"]["tool_call_prob"].values()]
    top = 1.25 * max(*effects, *crossed, 0.016)  # what the table does not mark with *** must not look like an effect
    _interactions(panels[2], results)
    for panel, (way, arrow) in zip(panels[:2], _ARROWS.items(), strict=True):
        for result in results:
            _line(panel, result, way)
        panel.axhline(0, color="0.6", linewidth=0.8, zorder=0)
        panel.set(title=arrow, xlabel="depth of the patched layer (% of layers)", xlim=(-3, 103), ylim=(-top, top))
        panel.grid(alpha=0.25)
        panel.legend(loc="lower left" if way == "instruct_to_base" else "upper left", fontsize=8)
    panels[0].set_ylabel("change of P(<tool_call>)")
    figure.suptitle(_title(results))
    with mp.written_whole(path) as beside:
        figure.savefig(beside, dpi=150)
    plt.close(figure)
    print(f"Saved: {path}")


def _interactions(panel, results: list[dict]) -> None:
    """How much more instruct's later layers add on instruct's stream than on base's, one line a pair."""
    for result in results:
        crossed = result["two_by_two"]["tool_call_prob"]
        depths = [int(layer) / result["n_layers"] * 100 for layer in crossed]
        rows = list(crossed.values())
        [line] = panel.plot(depths, [row["interaction"] for row in rows], marker="o", markersize=4, label="interaction")
        if len(results) > 1:
            line.set_label(result["display"])
            continue
        panel.plot(depths, [row["early"] for row in rows], "--", color="0.35", label="instruct's earlier layers")
        panel.plot(depths, [row["late"] for row in rows], ":", color="0.35", label="instruct's later layers")
    panel.axhline(0, color="0.6", linewidth=0.8, zorder=0)
    title = "interaction of earlier and later layers" if len(results) > 1 else "who contributes: earlier, later, both"
    panel.set(title=title, xlabel="depth where the two halves meet (% of layers)", xlim=(-3, 103))
    panel.grid(alpha=0.25)
    panel.legend(loc="lower left", fontsize=8)


def _line(panel, result: dict, way: str) -> None:
    layers = [int(layer) for layer in result[way]]
    depths = [layer / result["n_layers"] * 100 for layer in layers]
    effects = [r["effect"] for r in result[way].values()]
    before = result["baselines"]["base" if way == "instruct_to_base" else "instruct"]["tool_call_prob"]
    [line] = panel.plot(
        depths, effects, marker="o", markersize=4, label=f"{result['display']} (unpatched {before:.2f})"
    )
    peak = max(range(len(effects)), key=lambda i: abs(effects[i]))
    panel.plot(depths[peak], effects[peak], marker="*", markersize=14, color=line.get_color(), zorder=3)
    size = f"{effects[peak]:+.2f}" if abs(effects[peak]) >= 0.005 else f"{effects[peak]:+.0e}"
    inwards = {"xytext": (-7, 9), "ha": "right"} if depths[peak] > 85 else {"xytext": (7, 9)}
    place = {"textcoords": "offset points", "fontsize": 8, **inwards}
    panel.annotate(f"layer {layers[peak]}: {size}", (depths[peak], effects[peak]), **place)


def _title(results: list[dict]) -> str:
    if len(results) > 1:
        return "D1: the stream of one layer, put from one model of a pair into the other"
    [result] = results
    demo = " (demonstration models)" if result["pair"].startswith("tiny_") else ""
    patched = "all positions" if result["positions"] == "all" else "the last position"
    plain = ", the base given plain text" if result["base_prompt"] == "plain" else ""
    return f"D1, {result['display']}{demo}: {patched} patched, {result['n_layers']} layers{plain}"
