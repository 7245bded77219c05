"""The gradients of metrics with respect to activations: one forward and one backward pass a metric.

Where these do not fit into memory, one forward pass more keeps the stream between groups of layers. Then each group is
run once more from its stream, the last one first, and gone back through before the next one is run.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx

from mlx_patch.attribution._layer_groups import Blank, LayerGroup, layer_groups
from mlx_patch.attribution._prompt_run import PromptRun
from mlx_patch.engine import Action, ForwardPass, Snapshot, differentiable
from mlx_patch.errors import ArchitectureError
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

    @property
    def change_bytes(self) -> int:
        """Bytes that a change of the activation takes, with its products with the gradients."""
        return 4 * (2 * self.unpatched.size + 2 * self.gradient.size)


UseGradients = Callable[[Mapping[Site, SiteGradient]], None]
"""Called with the gradients of each group of layers, the last group first. What it does not keep is freed."""


@dataclass(frozen=True, eq=False)
class GradientRun:
    """What is known of some prompts once gradients have gone back through their run.

    Attributes:
        values: The metrics. Shape `(metric, batch)`.
        layer_groups: How many groups of layers were gone back through, one after the other.
        undivided: Why there was one group, where it was estimated to take more than the memory; empty otherwise.
    """

    values: mx.array
    layer_groups: int
    undivided: str

    @property
    def notes(self) -> dict[str, float | str]:
        """What a result should say of it."""
        notes: dict[str, float | str] = {"layer_groups": self.layer_groups}
        if self.undivided:
            notes["undivided"] = self.undivided
        return notes


def run_with_gradients(prompt_run: PromptRun, sites: Sequence[Site], use: UseGradients) -> GradientRun:
    """Run the prompts, and go back from each metric to the sites.

    Zeros are added at the sites, and the derivatives are those by the zeros: of an edit, wherever the site is used.

    Args:
        prompt_run: The prompts.
        sites: Where gradients are wanted.
        use: Takes the gradients, some sites at a time.
    Raises:
        ArchitectureError: The model runs something that has no gradient.
    """
    with differentiable(prompt_run.layout.model):
        past = prompt_run.past()
        blanks = _blanks(prompt_run, past, sites)
        planned = layer_groups(prompt_run, blanks)
        way_back = _WayBack(prompt_run, past, blanks, _kept_streams(prompt_run, past, planned.groups))
        for group in reversed(planned.groups):
            use(way_back.through(group))
        return GradientRun(way_back.values, len(planned.groups), planned.undivided)


def _blanks(prompt_run: PromptRun, past: Snapshot | None, sites: Sequence[Site]) -> dict[Site, Blank]:
    """The forms of the activations at some sites, which are not computed."""
    activations: dict[Site, mx.array] = {}
    prompt_run.logits(past, [(site, noting(site, activations)) for site in sites])
    return {site: Blank(activations[site].shape, activations[site].dtype) for site in sites}


def _kept_streams(
    prompt_run: PromptRun, past: Snapshot | None, groups: Sequence[LayerGroup]
) -> dict[Site | None, mx.array]:
    """The stream that enters each group but the first."""
    streams: dict[Any, mx.array] = {}
    entrances = [group.entrance for group in groups if group.entrance is not None]
    if entrances:
        *earlier, last = entrances
        streams[last] = prompt_run.activation(past, [(site, noting(site, streams)) for site in earlier], last)
        mx.eval(streams)
    return streams


@dataclass(eq=False)
class _WayBack:
    """The way from the metrics back to the first layer, group after group.

    Attributes:
        prompt_run: The prompts.
        past: What comes before them.
        blanks: The forms of the activations where gradients are wanted.
        streams: The streams that enter groups; each is freed once its group was gone back through.
        slopes: The derivative of each metric by the stream that leaves the next group; empty before the last group.
        values: The metrics, once the last group was gone back through. Shape `(metric, batch)`.
    """

    prompt_run: PromptRun
    past: Snapshot | None
    blanks: Mapping[Site, Blank]
    streams: dict[Site | None, mx.array]
    slopes: list[mx.array] = field(default_factory=list)
    values: mx.array = field(default_factory=lambda: mx.array(0.0))

    def through(self, group: LayerGroup) -> dict[Site, SiteGradient]:
        """The gradients in a group; groups are gone through from the last to the first."""
        stream = self.streams.pop(group.entrance, None)
        sites, blanks = list(group.sites), [self.blanks[site] for site in group.sites]
        if group.entrance is not None and stream is not None:
            sites.append(group.entrance)
            blanks.append(Blank(stream.shape, stream.dtype))
        unpatched: list[mx.array] = []
        gradients: list[list[mx.array]] = []
        for number in range(len(self.prompt_run.readout.metrics)):

            def total(deltas: list[mx.array], number: int = number) -> tuple[mx.array, mx.array | None, list[mx.array]]:
                return self._total(group, stream, sites, number, deltas)

            (_, values, unpatched), gradient = mx.value_and_grad(total)([blank.zeros() for blank in blanks])
            mx.eval(values, unpatched, gradient)
            gradients.append(gradient)
            if values is not None:
                self.values = values
        self.slopes = [gradient[-1] for gradient in gradients]
        at = {}
        for index, site in enumerate(group.sites):
            _refuse_not_a_number(site, unpatched[index], [gradient[index] for gradient in gradients])
            at[site] = SiteGradient(unpatched[index], mx.stack([gradient[index] for gradient in gradients]))
        return at

    def _total(
        self, group: LayerGroup, stream: mx.array | None, sites: Sequence[Site], number: int, deltas: list[mx.array]
    ) -> tuple[mx.array, mx.array | None, list[mx.array]]:
        """What one metric has the slope of at the sites of a group, the metrics at its end, and the activations."""
        noted: dict[Site, mx.array] = {}
        actions: list[tuple[Site, Action]] = []
        if group.entrance is not None and stream is not None:
            actions.append((group.entrance, putting(stream)))
        actions += [(site, _adding(site, delta, noted)) for site, delta in zip(sites, deltas, strict=True)]
        if group.exit is None:
            values = self.prompt_run.measure(self.past, actions)
            return mx.sum(values[number]), values, [noted[site] for site in sites]
        leaving = self.prompt_run.activation(self.past, actions, group.exit)
        return mx.sum(leaving * self.slopes[number]), None, [noted[site] for site in sites]


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


def noting(site: Site, into: dict[Any, mx.array]) -> Action:
    """An action that keeps an activation, and changes nothing."""

    def note(value: mx.array, forward_pass: ForwardPass) -> mx.array:
        into[site] = value
        return value

    return note


def putting(value: mx.array) -> Action:
    """An action that puts a value in."""
    return lambda activation, forward_pass: value.astype(activation.dtype)


def _adding(site: Site, delta: mx.array, into: dict[Site, mx.array]) -> Action:
    def add(value: mx.array, forward_pass: ForwardPass) -> mx.array:
        into[site] = value
        return value + delta

    return add
