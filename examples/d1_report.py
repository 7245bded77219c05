"""How the D1 study is written down: the printed table and the JSON files with the original's keys."""

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from datetime import UTC, datetime
from itertools import chain, count
from pathlib import Path
from typing import Any

from d1_data import Pair
from d1_findings import DONOR, MARKED, finding_of
from d1_options import kind_of

import mlx_patch as mp
from mlx_patch.provenance import versions

Record = dict[str, Any]
"""What is known of one pair, as its JSON file has it."""


def print_heading(pair: Pair) -> None:
    """What pair comes now."""
    kind = kind_of(pair)
    print(f"\n{'=' * 70}\nACTIVATION PATCHING: {pair.display}{f' ({kind})' if kind else ''}\n{'=' * 70}")


def layer_line(layer: int, n_layers: int, numbers: Mapping[str, Any]) -> str:
    """One row of the table, with *** where the effect is larger than 0.01."""
    marker = "***" if abs(numbers["effect"]) > MARKED else ""
    note = "  the donor's output by construction" if layer == n_layers - 1 else ""
    row = (
        f"  Layer {layer:3d}/{n_layers} ({layer / n_layers * 100:5.1f}%): <tool_call>={numbers['tool_call_prob']:.6f} "
        f"(effect={numbers['effect']:+.6f}) {marker:3}{note}"
    )
    return row.rstrip()


def print_findings(results: list[Record]) -> None:
    """For each pair where each direction crosses half of the gap."""
    print(f"\n{'=' * 70}\nCOMPLETE")
    for result in results:
        base, instruct = (result["baselines"][role]["tool_call_prob"] for role in ("base", "instruct"))
        print(f"  {result['display']}: <tool_call> {base:.2g} in base, {instruct:.2g} in instruct")
        for way in DONOR:
            print(f"    {way.replace('_', ' ')}: {finding_of(result, way).words}")


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
) -> Record:
    """The record of one pair, with the original's keys and a few more."""
    record = {
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
    return {**record, "half_of_gap": {way: finding_of(record, way).as_dict() for way in DONOR}}


def _peak(prefix: str, results: dict[int, dict], n_layers: int) -> Record:
    layer = max(results, key=lambda tested: abs(results[tested]["effect"]))
    return {
        f"{prefix}_peak_layer": layer,
        f"{prefix}_peak_effect": results[layer]["effect"],
        f"{prefix}_peak_depth_pct": round(layer / n_layers * 100, 1),
    }


def summary_of(results: list[Record]) -> Record:
    """The record over pairs, with the original's keys."""
    peaks = [f"{way}_peak_{what}" for way in ("i2b", "b2i") for what in ("layer", "depth_pct", "effect")]
    pairs = {
        r["pair"]: {
            **{key: r[key] for key in ("display", "d1_group", "n_layers")},
            **{key: r["summary"][key] for key in peaks},
            "instruct_baseline_tool_prob": r["baselines"]["instruct"]["tool_call_prob"],
            "base_baseline_tool_prob": r["baselines"]["base"]["tool_call_prob"],
            "half_of_gap": r["half_of_gap"],
        }
        for r in results
    }
    return {"n_pairs": len(results), "pairs": pairs, "timestamp": datetime.now(UTC).isoformat()}


def write_pair(record: Record, folder: Path, stamp: str) -> Path:
    """Write the record of a pair under a name that no earlier result has, and return its path."""
    name = f"patching_{record['pair']}_{stamp}"
    return _write_json(record, folder, chain([name], _numbered(name)))


def write_summary(results: list[Record], folder: Path, stamp: str) -> Path:
    """Write the record over pairs; where an earlier summary is in the folder, under a name with the time in it."""
    name = f"patching_summary_{stamp}"
    return _write_json(summary_of(results), folder, chain(["patching_summary", name], _numbered(name)))


def _numbered(name: str) -> Iterator[str]:
    return (f"{name}-{number}" for number in count(2))


def _write_json(record: Record, folder: Path, names: Iterator[str]) -> Path:
    """Write a record, whole or not at all, under the first name that is free."""
    path = _claimed(folder, names)
    with ExitStack() as undo:
        undo.callback(path.unlink)
        with mp.written_whole(path) as beside:
            beside.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        undo.pop_all()
    print(f"Saved: {path}")
    return path


def _claimed(folder: Path, names: Iterator[str]) -> Path:
    """The path of the first name that neither a record nor a figure has, made as an empty file.

    A name that is only looked for could be taken by another process before this one writes.
    """
    return next(path for name in names if _claims(path := folder / f"{name}.json"))


def _claims(path: Path) -> bool:
    if path.with_suffix(".png").exists():
        return False
    try:
        path.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True
