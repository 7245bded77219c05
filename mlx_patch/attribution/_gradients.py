"""The gradients of metrics with respect to activations: one forward and one backward pass a metric."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import mlx.core as mx
from mlx_lm.models.cache import make_prompt_cache

from mlx_patch.architectures import Layout
from mlx_patch.engine import Action, ForwardPass, Hook, Snapshot, cached_arrays, differentiable, snapshot
from mlx_patch.errors import ArchitectureError
from mlx_patch.execution.passes import forward
from mlx_patch.execution.readouts import Readout
from mlx_patch.model import action_hooks, refuse_unused, slice_hook
from mlx_patch.sites import Site


@dataclass(frozen=True, eq=False)
class SiteGradient:
    """An activation of the unpatched run, and how the metrics change with it.

    Attributes:
        unpatched: The activation. The axes of the site; its positions begin where the run does.
        gradient: The derivative of each row's metrics by the row's activation. Shape `(metric, *unpatched.shape)`.
    """

    unpatched: mx.array
    gradient: mx.array


@dataclass(frozen=True, eq=False)
class GradientRun:
    """The metrics of some prompts, and their gradients.

    Attributes:
        values: Shape `(metric, batch)`.
        at: By site.
    """

    values: mx.array
    at: Mapping[Site, SiteGradient]


@dataclass(frozen=True, eq=False)
class PromptRun:
    """Prompts of one length, and the part of their run that gradients go back through.

    Attributes:
        layout: The model's layout.
        tokens: Shape `(batch, pos)`.
        readout: What the metrics read; nothing before `start`.
        start: The first position that matters: what lies before it is run once, and is not gone back through.
        actions: What other edits do, by site, before anything is read.
        stopped: The sites that gradients do not go back through.
    """

    layout: Layout
    tokens: mx.array
    readout: Readout
    start: int = 0
    actions: Sequence[tuple[Site, Action]] = ()
    stopped: Sequence[Site] = ()

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
        caches = None
        if past is not None:
            caches = past.opened().caches
        elif self.layout.family.cached:
            caches = make_prompt_cache(self.layout.model)
        stops = [(site, _stop) for site in self.stopped]
        places = [(self.layout.place(site), action) for site, action in (*self.actions, *actions, *stops)]
        hooks: list[Hook] = action_hooks(self.layout, places)
        if self.readout.at is not None:
            hooks.append(slice_hook(self.layout, self.readout.at))
        logits = forward(self.layout, self.tokens[:, self.start :], hooks, caches)
        refuse_unused(hooks)
        return self.readout.measure(logits, self.length)

    def activations(self, past: Snapshot | None, sites: Sequence[Site]) -> tuple[mx.array, dict[Site, mx.array]]:
        """The metrics and the activations at some sites, unevaluated. Shape `(metric, batch)`, and by site."""
        activations: dict[Site, mx.array] = {}
        values = self.measure(past, [(site, noting(site, activations)) for site in sites])
        return values, activations


def run_with_gradients(prompt_run: PromptRun, sites: Sequence[Site]) -> GradientRun:
    """Run the prompts, and go back from each metric to the sites.

    Zeros are added at the sites, and the derivatives are those by the zeros: of an edit, wherever the site is used.

    Raises:
        ArchitectureError: The model runs something that has no gradient.
    """
    with differentiable(prompt_run.layout.model):
        return _run_with_gradients(prompt_run, sites)


def _run_with_gradients(prompt_run: PromptRun, sites: Sequence[Site]) -> GradientRun:
    past = prompt_run.past()
    _, like = prompt_run.activations(past, sites)  # for their shapes: they are never computed
    shapes = [like[site] for site in sites]
    gradients: list[list[mx.array]] = []
    values, unpatched = mx.zeros((0, prompt_run.tokens.shape[0])), shapes
    for number in range(len(prompt_run.readout.metrics)):
        total = partial(_total, prompt_run, past, sites, number)
        (_, values, unpatched), gradient = mx.value_and_grad(total)(list(map(mx.zeros_like, shapes)))
        mx.eval(values, unpatched, gradient)
        gradients.append(gradient)
    at = {}
    for index, site in enumerate(sites):
        _refuse_not_a_number(site, unpatched[index], [gradient[index] for gradient in gradients])
        at[site] = SiteGradient(unpatched[index], mx.stack([gradient[index] for gradient in gradients]))
    return GradientRun(values, at)


def _refuse_not_a_number(site: Site, unpatched: mx.array, gradients: Sequence[mx.array]) -> None:
    """Refuse a gradient that is not a number where the activation is one.

    Raises:
        ArchitectureError: The model's own code divides by 0 on the way back.
    """
    if any(mx.any(mx.isnan(gradient)).item() for gradient in gradients) and not mx.any(mx.isnan(unpatched)).item():
        raise ArchitectureError(
            f"`model` must be differentiable. Got one whose gradient at {site} is not a number, as of a square root at "
            "0. Choose later sites, or use `sweep`."
        )


def _total(
    prompt_run: PromptRun, past: Snapshot | None, sites: Sequence[Site], number: int, deltas: list[mx.array]
) -> tuple[mx.array, mx.array, list[mx.array]]:
    """The sum over rows of one metric, with the metrics and activations of the run."""
    unpatched: dict[Site, mx.array] = {}
    actions = [(site, _adding(site, delta, unpatched)) for site, delta in zip(sites, deltas, strict=True)]
    values = prompt_run.measure(past, actions)
    return mx.sum(values[number]), values, [unpatched[site] for site in sites]


def noting(site: Site, into: dict[Site, mx.array]) -> Action:
    """An action that keeps an activation, and changes nothing."""

    def note(value: mx.array, forward_pass: ForwardPass) -> mx.array:
        into[site] = value
        return value

    return note


def putting(value: mx.array) -> Action:
    """An action that puts a value in."""
    return lambda activation, forward_pass: value.astype(activation.dtype)


def _stop(value: mx.array, forward_pass: ForwardPass) -> mx.array:
    return mx.stop_gradient(value)


def _adding(site: Site, delta: mx.array, into: dict[Site, mx.array]) -> Action:
    def add(value: mx.array, forward_pass: ForwardPass) -> mx.array:
        into[site] = value
        return value + delta

    return add
