"""The figures of the D1 study: P(<tool_call>) by patched layer, both ways, and what earlier and later layers bring."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import fill
from typing import Any

from d1_findings import MARKED, TARGET, finding_of

import mlx_patch as mp

TITLES = {"instruct_to_base": "instruct's stream put into base", "base_to_instruct": "base's stream put into instruct"}
SHARES = {
    "interaction": ("interaction: both together, beyond the sum", "o-", "C0"),
    "early": ("instruct's earlier layers", "^--", "0.35"),
    "late": ("instruct's later layers", "v:", "0.35"),
}
"""The curves of the third panel: the key of each in `two_by_two`, its label, marker and line, and colour."""

WIDTH = 68
"""Of a legend's lines, in letters: what stands below a panel is no wider than it."""

Results = Sequence[Mapping[str, Any]]


def write_figures(results: Results, paths: Sequence[Path], summary: Path | None) -> None:
    """One figure a pair, beside its record, and one of all pairs beside theirs, if matplotlib is installed.

    Args:
        results: The records of the pairs.
        paths: Their JSON files.
        summary: The JSON file over all pairs; None where there is one pair.
    """
    try:
        import matplotlib as mpl
    except ImportError:
        print("No figures: matplotlib is not installed. Install the extra: pip install 'mlx-patch[plot]'")
        return
    mpl.use("Agg")
    for result, path in zip(results, paths, strict=True):
        _write([result], path.with_suffix(".png"))
    if summary:
        _write(results, summary.with_suffix(".png"))


def _write(results: Results, path: Path) -> None:
    import matplotlib.pyplot as plt

    figure = draw(results)
    with mp.written_whole(path) as beside:
        figure.savefig(beside, dpi=150)
    plt.close(figure)
    print(f"Saved: {path}")


def draw(results: Results):
    """The figure of one pair, or of several: a panel a direction, and one of the 2 x 2.

    What is said of a curve stands in the legend below its panel, where no curve and no frame can cross it.
    """
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, 3, figsize=(15.5, 5.4), layout="constrained")
    for panel, way in zip(panels[:2], TITLES, strict=True):
        _draw_direction(panel, results, way)
    _draw_shares(panels[2], results)
    for panel in panels:
        _fit_x(panel, results)
        panel.grid(alpha=0.25)
        panel.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), fontsize=9, frameon=False)
    _fit_y(panels[:2], [0, 2 * MARKED])
    _fit_y(panels[2:], [-MARKED, MARKED])
    _explain_marks(figure)
    figure.suptitle(_title(results))
    return figure


def _draw_direction(panel, results: Results, way: str) -> None:
    for number, result in enumerate(results):
        _draw_curve(panel, result, way, f"C{number}", _places(results, result))
    panel.set(title=TITLES[way], ylabel="P(<tool_call>)")


def _draw_curve(panel, result: Mapping[str, Any], way: str, colour: str, places: dict[int, float]) -> None:
    finding, values = finding_of(result, way), {int(n): r["tool_call_prob"] for n, r in result[way].items()}
    alone = {role: result["baselines"][role]["tool_call_prob"] for role in ("base", "instruct")}
    label = f"{result['display']}, unpatched {alone[TARGET[way]]:.2g}: {finding.label}"
    panel.plot(
        [places[n] for n in values], list(values.values()), "o-", color=colour, markersize=4, label=fill(label, WIDTH)
    )
    panel.axhline(alone[TARGET[way]], color=colour, linewidth=0.9, linestyle="--", zorder=0)
    if finding.has_gap:
        panel.axhline(sum(alone.values()) / 2, color=colour, linewidth=0.9, linestyle=":", zorder=0)
    if finding.last in values:
        _mark(panel, places[finding.last], values[finding.last], colour, "o", 8, filled=False)
    if finding.layer is not None:
        _mark(
            panel, places[finding.layer], values[finding.layer], colour, "*", 15, filled=finding.layer != finding.last
        )


def _mark(panel, x: float, y: float, colour: str, marker: str, size: int, filled: bool) -> None:
    face = colour if filled else "white"
    panel.plot([x], [y], marker, color=colour, markerfacecolor=face, markersize=size, zorder=3)


def _draw_shares(panel, results: Results) -> None:
    """Who brings how much, for one pair; for several how much both halves bring together, one line a pair."""
    for number, result in enumerate(results):
        crossed, places = result["two_by_two"]["tool_call_prob"], _places(results, result)
        for key, (label, style, colour) in SHARES.items():
            if len(results) == 1:
                shown = {"label": label, "color": colour}
            elif key == "interaction":
                shown = {"label": fill(result["display"], WIDTH), "color": f"C{number}"}
            else:
                continue
            values = [row[key] for row in crossed.values()]
            panel.plot([places[int(layer)] for layer in crossed], values, style, markersize=4, **shown)
    panel.axhline(0, color="0.6", linewidth=0.8, zorder=0)
    title = "who brings the call" if len(results) == 1 else "what earlier and later layers bring together only"
    panel.set(title=title, ylabel="change of P(<tool_call>)")


def _places(results: Results, result: Mapping[str, Any]) -> dict[int, float]:
    """Where each layer stands: at its number where all pairs have as many layers, else at its depth in percent."""
    scale = 1.0 if _same_depth(results) else 100 / result["n_layers"]
    return {layer: layer * scale for layer in range(result["n_layers"])}


def _same_depth(results: Results) -> bool:
    return len({result["n_layers"] for result in results}) == 1


def _fit_x(panel, results: Results) -> None:
    """Let the axis go from the first to the last layer that was patched, and no further."""
    from matplotlib.ticker import MaxNLocator

    shown = [_places(results, result)[layer] for result in results for layer in result["layers_tested"]]
    margin = 0.05 * (max(shown) - min(shown)) or 0.5
    panel.set_xlim(min(shown) - margin, max(shown) + margin)
    if _same_depth(results):
        panel.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        panel.set_xlabel(f"patched layer, of 0 to {results[0]['n_layers'] - 1}")
    else:
        panel.set_xlabel("depth of the patched layer (% of layers)")


def _fit_y(panels, least: list[float]) -> None:
    """Let the axes of some panels be one, and hold every point.

    Args:
        panels: Which.
        least: What they hold at the least: what the table does not mark with *** must not look like an effect.
    """
    import numpy as np

    values = np.concatenate([least, *(line.get_ydata() for panel in panels for line in panel.get_lines())])
    low, high = np.nanmin(values), np.nanmax(values)
    margin = 0.06 * (high - low)
    for panel in panels:
        panel.set_ylim(low - margin, high + margin)


def _explain_marks(figure) -> None:
    from matplotlib.lines import Line2D

    grey = {"color": "0.35", "markersize": 9}
    handles = [
        Line2D([], [], marker="*", linestyle="none", **{**grey, "markersize": 13}),
        Line2D([], [], marker="o", linestyle="none", markerfacecolor="white", **grey),
        Line2D([], [], linestyle="--", **grey),
        Line2D([], [], linestyle=":", **grey),
    ]
    names = [
        "half of the gap is crossed",
        "last layer: the donor's output by construction",
        "unpatched model",
        "half of the gap between the two models",
    ]
    figure.legend(handles, names, loc="outside lower center", ncols=4, fontsize=9, frameon=False)


def _title(results: Results) -> str:
    if len(results) > 1:
        return "D1: the stream after one layer, put from one model of a pair into the other"
    [result] = results
    demo = " (demonstration models)" if result["pair"].startswith("tiny_") else ""
    patched = "all positions" if result["positions"] == "all" else "the last position"
    plain = ", the base given plain text" if result["base_prompt"] == "plain" else ""
    return f"D1, {result['display']}{demo}: {patched} patched, {result['n_layers']} layers{plain}"
