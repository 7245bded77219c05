"""`mlx_patch sweep`: what `mp.sweep` and `mp.plan` do."""

import argparse
from typing import Any

from mlx_patch.cli._cells import CellArguments, add_cells, add_metric, cell_arguments
from mlx_patch.cli._model import add_edits, add_model
from mlx_patch.cli._output import add_output, output_of
from mlx_patch.cli._prompts import add_pairs, add_prompts, add_source
from mlx_patch.cli._results import result_text, write_result
from mlx_patch.cli._verb import UsageError, Verb
from mlx_patch.results import SweepResult, json_text
from mlx_patch.sweeps import plan, sweep


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model(parser)
    add_prompts(parser)
    add_source(parser)
    add_pairs(parser)
    add_cells(parser, over="layer")
    add_sweep_options(parser)


def add_sweep_options(parser: argparse.ArgumentParser) -> None:
    """The arguments of what runs as a sweep, beside prompts and cells."""
    add_edits(parser)
    add_metric(parser)
    group = parser.add_argument_group("run")
    group.add_argument("--plan", action="store_true", help="print the passes and their cost, and run nothing")
    group.add_argument("--normalised", action="store_true", help="fractions: 0 is the prompt's run, 1 the source's")
    group.add_argument("--checkpoint", metavar="PATH", help="a file from which the sweep goes on if it was stopped")
    group.add_argument("--executor", default="auto", metavar="NAME", help="auto, grow, rows or reference")
    add_output(parser, save=".npz", plot=True, html=True)


def run_sweep(options: argparse.Namespace) -> int:
    """Run a sweep, or print its plan, and return the exit status."""
    output = output_of(options)
    if options.plan:
        arguments = cell_arguments(options, dry=True)
        planned = plan(arguments.model, arguments.prompts.tokens, executor=options.executor, **arguments.keywords)
        output.write_json(json_text(planned.as_dict()))
        output.print(str(planned))
        return 0
    _refuse_normalised(options)
    arguments = cell_arguments(options)
    run_options: dict[str, Any] = {"executor": options.executor, "checkpoint": options.checkpoint}
    result = sweep(
        arguments.model, arguments.prompts.tokens, progress=output.progress, **run_options, **arguments.keywords
    )
    if options.normalised:
        result = _normalised(result, arguments)
    write_result(result, result_text(result), output)
    if not result.complete:  # Ctrl-C: what is done is written
        raise KeyboardInterrupt
    return 0


def _normalised(result: SweepResult, arguments: CellArguments) -> SweepResult:
    return result.normalised(clean=arguments.clean_numbers(), corrupted=result)


def _refuse_normalised(options: argparse.Namespace) -> None:
    if options.normalised and not (options.source or options.source_file or options.pairs):
        raise UsageError("`--normalised` must have a source, whose run is 1. Got none. Add --source TEXT.")


SWEEP = Verb(
    name="sweep",
    help="patch many places, one after another, and measure each time",
    description="Patch many places, one after another, and measure each time: mp.sweep.",
    example="mlx_patch sweep MODEL --prompt 'The capital of Italy is' --source 'The capital of France is'\n"
    "      --at resid_post --over layer,pos --right ' Paris' --wrong ' Rome' --html capital.html",
    add_arguments=_add_arguments,
    run=run_sweep,
)
