"""The JSON files of the D1 study: a pair of models, or the summary over pairs."""

from collections.abc import Mapping
from typing import Any

_WAYS = {"instruct_to_base": "i2b", "base_to_instruct": "b2i"}


def is_study(fields: Mapping[str, Any]) -> bool:
    """Whether JSON is a file of the study."""
    return _is_pair(fields) or (isinstance(fields.get("pairs"), Mapping) and "n_pairs" in fields)


def _is_pair(fields: Mapping[str, Any]) -> bool:
    return {"pair", "baselines", "summary", *_WAYS} <= fields.keys()


def study_text(fields: Mapping[str, Any]) -> str:
    """A file of the study as text.

    Raises:
        KeyError, TypeError: Something is not there.
    """
    if _is_pair(fields):
        return _pair_text(fields)
    lines = [f"{fields['n_pairs']} pairs of models"]
    for name, pair in fields["pairs"].items():
        lines.append(f"{pair['display']} ({name}), {pair['n_layers']} layers")
        lines += [f"  {way.replace('_', ' ')}: {_peak(pair, short)}" for way, short in _WAYS.items()]
    return "\n".join(lines)


def _peak(summary: Mapping[str, Any], way: str) -> str:
    return f"largest change {summary[f'{way}_peak_effect']:+.4g} at layer {summary[f'{way}_peak_layer']}"


def _pair_text(record: Mapping[str, Any]) -> str:
    lines = [f"{record['display']} ({record['pair']}), {record['n_layers']} layers, {record['n_tokens']} tokens"]
    for role, baseline in record["baselines"].items():
        lines.append(f"  {role} by itself: probability of the call {baseline['tool_call_prob']:.4f}")
    for way, short in _WAYS.items():
        lines.append(f"{way.replace('_', ' ')}: {_peak(record['summary'], short)}")
        lines += [f"  layer {layer:>3}  {row['effect']:>+10.4f}" for layer, row in record[way].items()]
    return "\n".join(lines)
