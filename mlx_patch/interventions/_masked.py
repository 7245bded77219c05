"""Attention sites have masked entries, and an edit that fills them in lets a token see the future.

So whatever would do that is refused at them: the numbers would look like any others.
"""

from collections.abc import Iterable

from mlx_patch.errors import ValueRefusedError
from mlx_patch.sites import SITES, Site

SCORES = frozenset({"attn_scores"})
"""Where masked entries are the lowest finite number, and would not be after an edit."""

BY_KEY = frozenset(name for name, kind in SITES.items() if kind.axes[-1] == "key_pos")
"""Every site where some entries are masked."""


def refuse_masked(what: str, sites: Iterable[Site], refused: frozenset[str], remedy: str) -> None:
    """Refuse an intervention at sites where it would unmask what is masked.

    Raises:
        ValueRefusedError: One of `sites` is among the refused.
    """
    for site in sites:
        if site.name in refused:
            raise ValueRefusedError(
                f"`site` must not be {site.name!r} for {what}: the masked entries would not stay masked. "
                f"Got {site}. {remedy}"
            )
