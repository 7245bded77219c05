"""Refusal of interventions that would unmask entries of attention scores and patterns.

An edit that fills in masked entries lets a token see the future, and the wrong numbers would look like any others.
"""

from collections.abc import Iterable

from mlx_patch.errors import ValueRefusedError
from mlx_patch.sites import SITES, Site

SCORES = frozenset({"attn_scores"})
"""Sites where masked entries are the lowest finite number, which an edit may change."""

BY_KEY = frozenset(name for name, kind in SITES.items() if kind.axes[-1] == "key_pos")
"""Every site where some entries are masked."""


def refuse_masked(intervention: str, sites: Iterable[Site], refused: frozenset[str], remedy: str) -> None:
    """Refuse an intervention at sites where it would unmask masked entries.

    Raises:
        ValueRefusedError: One of `sites` is among the refused.
    """
    for site in sites:
        if site.name in refused:
            raise ValueRefusedError(
                f"`site` must not be {site.name!r} for {intervention}: the masked entries would not stay masked. "
                f"Got {site}. {remedy}"
            )
