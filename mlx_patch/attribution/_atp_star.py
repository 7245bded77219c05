"""`AtpStar`: the gradient, but the effects of queries and keys go through the exact softmax."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

import mlx.core as mx
import numpy as np
from typing_extensions import override

from mlx_patch.architectures import Layout
from mlx_patch.attribution._attention import AttentionRuns
from mlx_patch.attribution._gradients import SiteGradient, noting, run_with_gradients
from mlx_patch.attribution._methods import Effects, Gradient, Method, no_effects
from mlx_patch.attribution._projections import PROJECTIONS, Change, add_effects, changes_at
from mlx_patch.attribution._prompt_run import PromptRun
from mlx_patch.errors import ArchitectureError, listed
from mlx_patch.execution.cells import Cell, edits_by_site
from mlx_patch.interventions import Span
from mlx_patch.sites import Site


@final
@dataclass(frozen=True)
class AtpStar(Method):
    """The gradient of the pattern times what the edits make of the pattern, for edits of queries and keys.

    The model's own attention runs from the unpatched stream to the pattern, with the edits in place. So norms, RoPE,
    scale, soft-caps, masks and sinks are the model's. Query rows do not depend on each other: one run serves all cells
    of one intervention. Keys that are edited one position a cell share a run too, and go through a closed form. Each
    other set of key positions takes a run. Where a norm spans all heads, each set of heads of `q` or `k` takes one, and
    so does each cell of an intervention that is not elementwise. A run covers all layers.

    At other sites it is the gradient. Edits at several sites of a cell are added up.
    """

    @override
    def effects(self, prompt_run: PromptRun, cells: Sequence[Cell], sites: Sequence[Site], span: Span) -> Effects:
        layout = prompt_run.layout
        by_site = edits_by_site(layout, enumerate(cells))
        projections = {site: by_site.pop(site) for site in sites if site.name in PROJECTIONS}
        if not projections:
            return Gradient().effects(prompt_run, cells, sites, span)
        patterns = _patterns_of(layout, projections)
        streams = [Site("resid_pre", pattern.layer) for pattern in patterns]
        past = prompt_run.past()
        # Reading a pattern makes attention round in another way than a plain run. The values are those of a plain run,
        # so that a source that was captured in one, with the same prompt, changes nothing.
        activations: dict[Site, mx.array] = {}
        kept = dict.fromkeys([*sites, *streams])
        values = prompt_run.measure(past, [(site, noting(site, activations)) for site in kept])
        mx.eval(values, activations)
        effects = no_effects(prompt_run, cells, span)
        of_patterns: dict[int, mx.array] = {}

        def use(gradients: Mapping[Site, SiteGradient]) -> None:
            for site, found in gradients.items():
                if site in patterns:
                    of_patterns[site.layer or 0] = found.gradient
                if site in by_site:
                    effects.add({site: SiteGradient(activations[site], found.gradient)})

        run = run_with_gradients(prompt_run, tuple(dict.fromkeys([*by_site, *patterns])), use)
        of_streams = {site: activations[site] for site in streams}
        runs = AttentionRuns(prompt_run, past, of_streams, tuple(sorted(of_patterns)))
        changes: list[Change] = []
        for site, members in projections.items():
            changes += changes_at(site, members, activations[site], span, layout.family.heads.mixed)
        add_effects(effects.values, changes, runs, of_patterns)
        return Effects(np.array(values), effects.values, run.notes)


def _patterns_of(layout: Layout, sites: Mapping[Site, object]) -> list[Site]:
    """The patterns that some queries and keys may change: of their layers, or of all where blocks share keys.

    Raises:
        MissingSiteError: A layer has no pattern.
        ArchitectureError: Queries and keys act beside the pattern too.
    """
    if layout.family.heads.mixed_in is not None:
        raise ArchitectureError(
            f"`method` must be 'gradient' at {listed(list(map(str, sites)))}. Got 'atp*': {layout.family.name} attends "
            "to keys of an earlier walk too, beside the pattern. Use method='gradient'."
        )
    layers = sorted({site.layer for site in sites if site.layer is not None})
    of_their_own = layout.select("pattern", tuple(layers))
    if layout.family.shared:
        return list(layout.select("pattern", None))
    return list(of_their_own)
