"""A lens as text: a grid of the most likely tokens, as wide as the terminal."""

import shutil
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mlx_patch.plot import visible
from mlx_patch.sites import Site

_WIDTH = 10
"""Characters of a token."""


def lens_text(fields: Mapping[str, Any]) -> str:
    """The last layer at the top, and the last positions where not all have room.

    Args:
        fields: What `lens_fields` makes, or the same from a file.
    """
    texts = _texts(fields)
    labels = [_row_label(site) for site in fields["sites"]]
    margin = max(map(len, labels)) + 1
    n_shown = max(1, (shutil.get_terminal_size().columns - margin) // (_WIDTH + 1))
    columns = list(range(len(fields["positions"])))[-n_shown:]
    lines = [f"{label:>{margin}} {_row(row, columns)}" for label, row in zip(labels, texts, strict=True)]
    lines.reverse()
    lines.append(f"{'':>{margin}} {_row(_names(fields), columns)}")
    if len(columns) < len(fields["positions"]):
        hidden = len(fields["positions"]) - len(columns)
        lines.append(f"The first {hidden} positions have no room here. Choose with --positions, or write --html PATH.")
    return "\n".join([*lines, *_followed(fields, labels)])


def _texts(fields: Mapping[str, Any]) -> list[list[str]]:
    """The most likely token of each cell of the first prompt."""
    if fields["texts"]:
        return [[cell[0] for cell in site[0]] for site in fields["texts"]]
    return [[str(cell[0]) for cell in site[0]] for site in np.array(fields["ids"]).tolist()]


def _names(fields: Mapping[str, Any]) -> list[str]:
    if fields["str_tokens"]:
        return list(fields["str_tokens"])
    return list(map(str, fields["positions"]))


def _row(texts: Sequence[str], columns: Sequence[int]) -> str:
    return " ".join(f"{visible(texts[column], _WIDTH):<{_WIDTH}}" for column in columns).rstrip()


def _row_label(name: str) -> str:
    site = Site.parse(name)
    if site.name == "resid_post":
        return str(site.layer)
    return f"{site.name} {site.layer}"


def _followed(fields: Mapping[str, Any], labels: Sequence[str]) -> list[str]:
    """The probability and the rank of the chosen token at the last position, by site."""
    if "token" not in fields:
        return []
    lines = ["", f"{fields['token']!r} at position {fields['positions'][-1]}:"]
    probs, ranks = np.array(fields["token_prob"])[:, 0, -1], np.array(fields["token_rank"])[:, 0, -1]
    rows = zip(labels, probs.tolist(), ranks.tolist(), strict=True)
    lines += [f"  {label:>6}  probability {prob:.4f}  rank {rank}" for label, prob, rank in rows]
    return lines
