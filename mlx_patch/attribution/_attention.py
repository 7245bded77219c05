"""`AttentionRuns`: attention alone, from the unpatched stream to its pattern, in many blocks at once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import mlx.core as mx

from mlx_patch.attribution._gradients import noting, putting
from mlx_patch.attribution._prompt_run import PromptRun
from mlx_patch.engine import Snapshot
from mlx_patch.sites import Site


@dataclass(frozen=True, eq=False)
class Attention:
    """Scores and pattern of one layer. Shape `(batch, head, query_pos, key_pos)` each.

    Attributes:
        scores: After scale, soft-cap and mask.
        pattern: Their softmax.
    """

    scores: mx.array
    pattern: mx.array


@dataclass(frozen=True, eq=False)
class AttentionRuns:
    """Runs of the model in which each block reads the unpatched stream.

    The stream is put in before each block, and MLX computes only what is evaluated. So a run costs the projections,
    scores and softmax of some layers. Behind the softmax the unpatched pattern goes on, so that what a run changes in
    one layer reaches no other one.

    Attributes:
        prompt_run: The prompts.
        past: What a prompt cache holds before them.
        streams: The unpatched `resid_pre`, by site.
        layers: The layers whose attention is read.
        unpatched: Their attention without changes, unevaluated; made here.
    """

    prompt_run: PromptRun
    past: Snapshot | None
    streams: Mapping[Site, mx.array]
    layers: Sequence[int]
    unpatched: Mapping[int, Attention] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "unpatched", self._run({}, {}))

    def changed(self, values: Mapping[Site, mx.array]) -> Mapping[int, Attention]:
        """The attention of each layer with other values at some of its sites, unevaluated."""
        patterns = {layer: attention.pattern for layer, attention in self.unpatched.items()}
        return self._run(values, patterns)

    def _run(self, values: Mapping[Site, mx.array], patterns: Mapping[int, mx.array]) -> Mapping[int, Attention]:
        scores: dict[Site, mx.array] = {}
        softmaxes: dict[Site, mx.array] = {}
        actions = [(site, putting(value)) for site, value in (*self.streams.items(), *values.items())]
        for layer in self.layers:
            before, behind = Site("attn_scores", layer), Site("pattern", layer)
            actions.append((before, noting(before, scores)))
            actions.append((behind, noting(behind, softmaxes)))
            if layer in patterns:
                actions.append((behind, putting(patterns[layer])))
        self.prompt_run.measure(self.past, actions)
        return {
            layer: Attention(scores[Site("attn_scores", layer)], softmaxes[Site("pattern", layer)])
            for layer in self.layers
        }
