"""`Edits`: one intervention at several sites of one run, as `.at([...])` makes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

from typing_extensions import override

from mlx_patch.errors import SelectionError, ValueRefusedError, listed
from mlx_patch.interventions._edit import Edit, Transformation, make_edit
from mlx_patch.interventions._steps import Steps
from mlx_patch.sites import SITES, Site

_OF_KV_HEADS = frozenset({"k", "v", "rot_k"})
"""Sites whose heads are the real KV heads, whose numbers are not those of query heads."""


class Edits(tuple[Edit, ...]):
    """The edits of one intervention at several sites, all in one run, in the order of the sites.

    A run takes them wherever it takes edits, and a sweep as one cell.

    Example:
        >>> from mlx_patch.interventions._scale import Scale
        >>> Scale(0.0).at(["attn_out", "mlp_out"], layer=3)
        Edits(Scale(0.0).at('attn_out', layer=3), Scale(0.0).at('mlp_out', layer=3))
    """

    def during(self, steps: Steps) -> Edits:
        """The same edits, which act only in some forward passes of a generation; as `Edit.during`.

        Raises:
            KindError: It is no choice of steps.
        """
        return Edits(edit.during(steps) for edit in self)

    def via(self, *receiver: Any, **where: Any) -> NoReturn:
        """Refused: what reaches a receiver from two senders at once is another thing than from each.

        Raises:
            ValueRefusedError: Always, with what to write.
        """
        del receiver, where
        raise ValueRefusedError(
            f"`via` must begin at one site. Got {len(self)}. Write [edit.via(...) for edit in edits], which are paths "
            "of their own."
        )

    @override
    def __repr__(self) -> str:
        return f"Edits({', '.join(map(repr, self))})"


def make_edits(intervention: Transformation, sites: Sequence[str | Site], **choices: Any) -> Edits:
    """The edits of several sites, as `Intervention.at` returns them.

    Args:
        intervention: What to do at each.
        sites: The sites.
        choices: The other arguments of `make_edit`, which hold at each site.
    Raises:
        ValueRefusedError: There is no site, or one is there twice.
        SelectionError: A choice does not mean the same at each site, or a site cannot have it.
    """
    edits = Edits(make_edit(intervention, site, **choices) for site in sites)
    if not edits:
        raise ValueRefusedError("`site` must name a site. Got an empty list. Write ['attn_out', 'mlp_out'], say.")
    places = {(edit.site, edit.layer) for edit in edits}
    if len(places) < len(edits):
        raise ValueRefusedError(f"`site` must name each site once. Got {listed(map(str, sites))}. Leave one out.")
    if choices["head"] is not None:
        _refuse_other_heads(edits)
    if choices["neuron"] is not None:
        _refuse_other_widths(edits)
    return edits


def _refuse_other_heads(edits: Edits) -> None:
    kv_sites = [edit.site for edit in edits if edit.site in _OF_KV_HEADS]
    if 0 < len(kv_sites) < len(edits):
        raise SelectionError(
            f"`head` must mean the same at each site. Got {listed(edit.site for edit in edits)}: those of "
            f"{listed(kv_sites)} are KV heads, the others query heads. Make an edit of each: .at('z', head=4)."
        )


def _refuse_other_widths(edits: Edits) -> None:
    kinds = [SITES.get(edit.site) for edit in edits]
    widths = {kind.axes[-1] if kind else edit.site for kind, edit in zip(kinds, edits, strict=True)}
    if len(widths) > 1:
        raise SelectionError(
            f"`neuron` must mean the same at each site. Got {listed(edit.site for edit in edits)}, whose last axes are "
            f"{listed(sorted(widths))}. Make an edit of each."
        )
