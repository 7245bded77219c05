"""The cells of a sweep on the command line: what `sweep`, `attribute` and `paths` have in common."""

import argparse
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from mlx_patch.cli._model import chosen_model
from mlx_patch.cli._prompts import PromptArguments, read_prompts
from mlx_patch.cli._sources import SourceRuns, aligned_interventions, refuse_unequal
from mlx_patch.cli._values import (
    InterventionText,
    metric_names,
    read_edits,
    read_metric,
    read_numbers,
    read_positions,
    read_receivers,
    sites_of_edits,
)
from mlx_patch.cli._verb import UsageError
from mlx_patch.errors import listed, shown
from mlx_patch.metrics import LogitDiff, LogProb
from mlx_patch.model import HookedModel
from mlx_patch.sweeps import measure


def add_metric(parser: argparse.ArgumentParser) -> None:
    """The arguments for what is measured."""
    group = parser.add_argument_group("metric")
    group.add_argument(
        "--metric",
        action="append",
        metavar="METRIC",
        help=f"\"logit_diff(' Mary', ' John')\". May repeat. Names: {listed(metric_names())}",
    )
    group.add_argument("--right", metavar="TOKEN", help="the answer: with --wrong logit_diff, alone log_prob")
    group.add_argument("--wrong", metavar="TOKEN", help="the answer that its logit is compared with")


def add_cells(parser: argparse.ArgumentParser, *, over: str, paths: bool = False) -> None:
    """The arguments for what varies from cell to cell.

    Args:
        parser: The parser of a verb.
        over: The axes where the command names none.
        paths: Whether cells are paths.
    """
    group = parser.add_argument_group("cells")
    group.add_argument("--at", required=True, metavar="SITE", help="a site, or several: z,mlp_out")
    group.add_argument("--over", default=over, metavar="AXES", help=f"what varies, in order (default: {over})")
    group.add_argument(
        "--intervention",
        metavar="WHAT",
        help="replace, interpolate=0.5, zero, mean, resample, noise=3, scale=2, clamp(-1, 1), knockout; "
        "`|` joins several (default: replace, where there is a source)",
    )
    group.add_argument("--align", action="store_true", help="map the source's positions to the prompt's with mp.align")
    group.add_argument("--layers", metavar="LIST", help="3-7,9 with both ends; 3+4 are patched together (default: all)")
    group.add_argument("--positions", metavar="LIST", help="0-3,last or \"text('Mary').final\" (default: all)")
    for axis in ("heads", "neurons", "alphas", "seeds"):
        group.add_argument(f"--{axis}", metavar="LIST", help="as --layers")
    if paths:
        group.add_argument(
            "--via", default="logits", metavar="LIST", help="receivers: logits, q.11.3, mlp.12 (default: logits)"
        )
        group.add_argument("--freeze", default="all", metavar="WHAT", help="all, or attention (default: all)")


@dataclass(frozen=True)
class CellArguments:
    """What `sweep`, `plan` and `attribute` are called with.

    Attributes:
        model: The model.
        prompts: What is run.
        keywords: The other arguments.
    """

    model: HookedModel
    prompts: PromptArguments
    keywords: dict[str, Any]

    def clean_numbers(self) -> Any:
        """The metric of the prompts that activations come from. Shape `(metric if several, example)`."""
        numbers = measure(self.model, list(self.prompts.sources), self.keywords["metric"])
        if len(self.prompts.sources) < len(self.prompts.each):
            return numbers[..., 0]
        return numbers


def cell_arguments(options: argparse.Namespace, dry: bool = False) -> CellArguments:
    """The arguments of a sweep, from those of the command. Sources run once.

    Args:
        options: Of the command.
        dry: Whether nothing is run, for a plan: sources are zeros of the right shape.
    Raises:
        PatchError: Something does not read, or the model or a file does not.
    """
    prompts = read_prompts(options)
    choices = _read_choices(options)
    intervention_text = _intervention_text(options, prompts)
    _refuse_no_metric(options, prompts)
    for text in options.metric or ():
        read_metric(text, lambda _: mx.zeros((1, 1, 1)))
    _refuse_sources_of_edits(options, prompts)
    model = chosen_model(options)
    source_runs = SourceRuns(model, prompts, dry)
    at = [site.strip() for site in options.at.split(",")]
    caches = source_runs.caches(list(dict.fromkeys([*at, *sites_of_edits(options.edit)])))
    intervention: Any = [intervention_text.of(cache) for cache in caches]
    if options.align:
        intervention = aligned_interventions(intervention, model, prompts)
    else:
        refuse_unequal(intervention, model, prompts)
    if len(intervention) == 1:
        [intervention] = intervention
    keywords = {
        "intervention": intervention,
        "at": at,
        "over": tuple(axis.strip() for axis in options.over.split(",")),
        "metric": _metric_of(options, prompts, source_runs),
        "edits": read_edits(options.edit, caches[0]),
        **choices,
    }
    return CellArguments(model, prompts, keywords)


def _refuse_sources_of_edits(options: argparse.Namespace, prompts: PromptArguments) -> None:
    """Refuse edits that would take the activations of one source in the runs of all prompts.

    Raises:
        UsageError: There are several sources, and an edit takes one.
    """
    if len(prompts.sources) > 1 and sites_of_edits(options.edit):
        raise UsageError(
            f"`--edit` must have no source where there are several, {len(prompts.sources)}. Got "
            f"{shown(options.edit[0])}. "
            "Run each prompt by itself."
        )


def _read_choices(options: argparse.Namespace) -> dict[str, Any]:
    choices: dict[str, Any] = {"positions": read_positions(options.positions)}
    for axis in ("layers", "heads", "neurons", "alphas", "seeds"):
        choices[axis] = read_numbers(f"--{axis}", getattr(options, axis))
    if hasattr(options, "via"):
        choices |= {"via": read_receivers(options.via), "freeze": options.freeze}
    return choices


def _intervention_text(options: argparse.Namespace, prompts: PromptArguments) -> InterventionText:
    """What is done, checked as far as it can be without a source.

    Raises:
        UsageError: It is not given, and there is no source for the default.
    """
    if options.intervention is None and not prompts.sources:
        raise UsageError("`--intervention` must be given where there is no --source. Got none. Write zero, say.")
    intervention_text = InterventionText(options.intervention or "replace")
    stand_in = None
    if prompts.sources:
        stand_in = mx.zeros((1,))
    intervention_text.of(stand_in)
    return intervention_text


def _refuse_no_metric(options: argparse.Namespace, prompts: PromptArguments) -> None:
    if options.metric and (options.right is not None or options.wrong is not None):
        raise UsageError("`--metric` and `--right` exclude each other. Got both. Leave one of them out.")
    if options.wrong is not None and options.right is None:
        raise UsageError("`--wrong` must be given with --right. Got it alone. Add --right TOKEN.")
    if not options.metric and options.right is None and prompts.pairs is None:
        raise UsageError("`--metric` must be given. Got none. Write --right ' Mary' --wrong ' John', say.")


def _metric_of(options: argparse.Namespace, prompts: PromptArguments, source_runs: SourceRuns) -> Any:
    if options.metric:
        metrics = [read_metric(text, source_runs.reference) for text in options.metric]
        if len(metrics) == 1:
            return metrics[0]
        return metrics
    if options.right is None:
        assert prompts.pairs is not None
        return prompts.pairs.metric
    if options.wrong is None:
        return LogProb(options.right)
    return LogitDiff(options.right, options.wrong)
