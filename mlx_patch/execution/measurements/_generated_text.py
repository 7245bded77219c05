"""`OfGeneratedText`: metrics of the text that a model generates after an edited prompt."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import ClassVar, final

import mlx.core as mx
from typing_extensions import override

from mlx_patch.execution.cells import since
from mlx_patch.execution.executors import Executor, PassValues
from mlx_patch.execution.measurements._measurement import Measurement
from mlx_patch.execution.passes import PassTask, UnpatchedRun, UnpatchedTask, run_unpatched
from mlx_patch.execution.plan import Plan, PromptGroup
from mlx_patch.execution.readouts import Readout, match_rates, require_tokenizer
from mlx_patch.metrics import GenerateMatches, Metric
from mlx_patch.model import HookedModel


@final
class OfGeneratedText(Measurement):
    """Metrics of generated text: each cell is one run of its prompt, then one forward pass per token."""

    order = 1
    needs_own_pass = True
    needs_whole_rows = True
    provenance: ClassVar[Mapping[str, str]] = {"written": "one run per cell, then token by token"}

    @override
    def serves(self, metric: Metric) -> bool:
        return isinstance(metric, GenerateMatches)

    @override
    def check(self, model: HookedModel, metrics: Iterable[Metric]) -> None:
        for metric in _select_generated(metrics):
            require_tokenizer(model, metric)

    @override
    def further_positions(self, metrics: Iterable[Metric]) -> int:
        return max(metric.max_tokens - 1 for metric in _select_generated(metrics))

    @override
    def further_cost(self, plan: Plan, metrics: Iterable[Metric]) -> int:
        generated_metrics = _select_generated(metrics)
        further = 0
        for metric in generated_metrics:
            further += max(1, metric.samples) * (metric.max_tokens - 1)
        positions = 0
        for number, group in enumerate(plan.groups):
            starts = [pass_.start for pass_ in plan.passes if pass_.group == number]
            lengths = [group.length - start for start in starts]
            if any(starts):  # one run without metrics computes all but the last position of the unpatched prompt
                positions += group.batch * group.length
                lengths.append(_written_behind(plan, group))
            else:
                lengths.append(group.length)
            for length in lengths:
                positions += group.batch * (len(generated_metrics) * length + further)
        return positions * plan.n_layers - plan.token_layers

    @override
    def run_unpatched(self, model: HookedModel, task: UnpatchedTask) -> UnpatchedRun:
        """The unpatched run: its generated text, and one run that makes the pasts of all cells that begin later."""
        later_starts = [start for start in task.starts if start]
        metrics = task.readout.metrics
        if not later_starts:
            values, cost = match_rates(model, task.tokens, metrics, task.standing)
            return UnpatchedRun(values, 0, token_layers=cost)
        if task.standing:  # which may need all positions at once
            unpatched = run_unpatched(replace(task, readout=_nothing_at(task), sites=()))
            unpatched.values, cost = match_rates(model, task.tokens, metrics, task.standing)
            unpatched.token_layers += cost
            return unpatched
        last = task.tokens.shape[1] - 1
        past_starts = sorted({*later_starts, last})
        unpatched = run_unpatched(replace(task, readout=_nothing_at(task), starts=past_starts, sites=()))
        unpatched.values, cost = match_rates(model, task.tokens, metrics, past=unpatched.past[last])
        unpatched.token_layers += cost
        return unpatched

    @override
    def run_pass(self, model: HookedModel, task: PassTask, executor: Executor, unpatched: UnpatchedRun) -> PassValues:
        start, past = task.shape.start, None
        if start:
            past = unpatched.past[start]
        rates, token_layers = [], 0
        for cell in task.cells:
            edits = since(task.layout, cell, start, task.tokens.shape[1]).run_edits
            cell_rates, cost = match_rates(model, task.tokens, task.readout.metrics, edits, past)
            rates.append(cell_rates)
            token_layers += cost
        return mx.stack(rates), lambda: token_layers


def _written_behind(plan: Plan, group: PromptGroup) -> int:
    """The positions of a prompt that a run with metrics computes, once the pasts of all cells are made."""
    if plan.standing:  # standing edits may need all positions at once
        return group.length
    return 1


def _nothing_at(task: UnpatchedTask) -> Readout:
    """A readout without metrics, of the last position."""
    return Readout((), (task.tokens.shape[1] - 1,))


def _select_generated(metrics: Iterable[Metric]) -> list[GenerateMatches]:
    return [metric for metric in metrics if isinstance(metric, GenerateMatches)]
