"""`PromptRun`: the forward pass of some prompts, from which gradients go back."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import mlx.core as mx
from mlx_lm.models.cache import make_prompt_cache

from mlx_patch.architectures import Layout, Place
from mlx_patch.engine import Action, ForwardPass, Hook, Snapshot, cached_arrays, snapshot
from mlx_patch.errors import ArchitectureError
from mlx_patch.execution.passes import forward
from mlx_patch.execution.readouts import Readout
from mlx_patch.model import action_hooks, refuse_unused, slice_hook
from mlx_patch.sites import Site


@dataclass(frozen=True, eq=False)
class PromptRun:
    """Prompts of one length, and the part of their run that gradients go back through.

    Attributes:
        layout: The model's layout.
        tokens: Shape `(batch, pos)`.
        readout: What the metrics read; nothing before `start`.
        start: The first position that matters: what lies before it is run once, and is not gone back through.
        memory: Bytes that the gradients may take beside the weights, if one layer does not take more; None is no bound.
        actions: What other edits do, by site, before anything is read.
        stopped: The sites that gradients do not go back through.
        uncarried: Sites of the stream at which actions reach the module that reads it, but not the skip connection.
    """

    layout: Layout
    tokens: mx.array
    readout: Readout
    start: int = 0
    memory: int | None = None
    actions: Sequence[tuple[Site, Action]] = ()
    stopped: Sequence[Site] = ()
    uncarried: Sequence[Site] = ()

    @property
    def length(self) -> int:
        """The positions of each prompt."""
        return self.tokens.shape[1]

    def past(self) -> Snapshot | None:
        """What a prompt cache holds before `start`; None where that is the first position."""
        if not self.start:
            return None
        caches = make_prompt_cache(self.layout.model)
        forward(self.layout, self.tokens[:, : self.start], [], caches)
        mx.eval(cached_arrays(caches))
        return snapshot(caches, self.start, self.tokens.shape[0])

    def measure(self, past: Snapshot | None, actions: Sequence[tuple[Site, Action]]) -> mx.array:
        """The metrics of a run with some actions, unevaluated. Shape `(metric, batch)`."""
        return self.readout.measure(self.logits(past, actions), self.length)

    def logits(self, past: Snapshot | None, actions: Sequence[tuple[Site, Action]]) -> mx.array:
        """The logits that metrics read in a run with some actions, unevaluated. Shape `(batch, pos, d_vocab)`."""
        hooks = self._hooks(actions)
        if self.readout.at is not None:
            hooks.append(slice_hook(self.layout, self.readout.at))
        logits = self._forward(past, hooks)
        refuse_unused(hooks)
        return logits

    def activation(self, past: Snapshot | None, actions: Sequence[tuple[Site, Action]], site: Site) -> mx.array:
        """The activation at a site after some actions, unevaluated, in a run that ends there. The axes of the site."""

        def stop(value: mx.array, forward_pass: ForwardPass) -> mx.array:
            raise _Reached(value)

        try:
            self._forward(past, self._hooks([*actions, (site, stop)]))
        except _Reached as reached:
            return reached.activation
        raise ArchitectureError(f"{self.layout.family.name} never comes to {site}. Leave out `memory`.")

    def _hooks(self, actions: Sequence[tuple[Site, Action]]) -> list[Hook]:
        every_action = [*self.actions, *actions, *((site, _stop) for site in self.stopped)]
        return action_hooks(self.layout, [(self._place(site), action) for site, action in every_action])

    def _place(self, site: Site) -> Place:
        place = self.layout.place(site)
        if site in self.uncarried:
            return replace(place, point=replace(place.point, carried=None))
        return place

    def _forward(self, past: Snapshot | None, hooks: Sequence[Hook]) -> mx.array:
        caches = None
        if past is not None:
            caches = past.opened().caches
        elif self.layout.family.cached:
            caches = make_prompt_cache(self.layout.model)
        return forward(self.layout, self.tokens[:, self.start :], hooks, caches)


def _stop(value: mx.array, forward_pass: ForwardPass) -> mx.array:
    return mx.stop_gradient(value)


class _Reached(Exception):
    """Ends a forward pass, of which no more is needed.

    Args:
        activation: What was reached.
    """

    def __init__(self, activation: mx.array):
        super().__init__()
        self.activation = activation
