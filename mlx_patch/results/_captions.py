"""Short names for plots and lines of text: of a metric, and of what was patched where."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mlx_patch.results._axes import known_axes
from mlx_patch.results._coordinates import label_text

_LONGEST = 32
"""How many characters of a metric's name, or of an intervention's text, are short."""

_CALL = re.compile(r"(\w+)\(.*\)", re.DOTALL)


def short_metrics(names: Sequence[str]) -> list[str]:
    """The names of metrics without long arguments; with them, where that would make two the same.

    Example:
        >>> short_metrics(["logit_diff([' Mary', ' John', ' Kate'], [' Tom', ' Anna', ' Paul'])", "prob(' Mary')"])
        ['logit_diff', "prob(' Mary')"]
    """
    short = [_without_arguments(name) for name in names]
    if len(set(short)) < len(short):
        return list(names)
    return short


def short_metric(names: Sequence[str], default: str) -> str:
    """The short name of a result's only metric, or a default."""
    return next(iter(short_metrics(names)), default)


def what_was_patched(provenance: Mapping[str, Any], over: Sequence[str]) -> str:
    """What a sweep did where, from its provenance: the intervention, its sites, and what was fixed for all cells.

    Args:
        provenance: Of the result; one that was written by hand may say nothing.
        over: The axes of the cells.

    Example:
        >>> provenance = {"intervention": "Replace(ActivationCache(z 0-29; ...))", "at": ["z"], "pos": [13]}
        >>> what_was_patched(provenance, ["layer"])
        'Replace at z, pos 13'
    """
    intervention = provenance.get("intervention")
    if not isinstance(intervention, str) or not intervention:
        return ""
    title = _without_sources(intervention)
    sites = provenance.get("at")
    if isinstance(sites, list) and sites and "site" not in over:
        title += f" at {', '.join(map(str, sites))}"
    return ", ".join([title, *_fixed(provenance, over)])


def _fixed(provenance: Mapping[str, Any], over: Sequence[str]) -> Iterator[str]:
    """What was the same in all cells, axis by axis."""
    for axis in known_axes():
        if axis in provenance and axis not in over:
            label = provenance[axis]
            if isinstance(label, list):
                label = tuple(label)
            text = label_text(label)
            if len(text) <= _LONGEST:
                yield f"{axis} {text}"


def _without_arguments(name: str) -> str:
    call = _CALL.fullmatch(name)
    if call is None or len(name) <= _LONGEST:
        return name
    return call[1]


def _without_sources(text: str) -> str:
    """An intervention's text, or where that is long, the names of what it is made of."""
    if len(text) <= _LONGEST and "\n" not in text:
        return text
    names = re.findall(r"(?:^|\| )(\w+)", text)
    return " | ".join(dict.fromkeys(names)) or text[:_LONGEST]
