"""`mlx_patch attribute`: what `mp.attribute` does."""

import argparse

from mlx_patch.attribution import attribute
from mlx_patch.cli._cells import add_cells, add_metric, cell_arguments
from mlx_patch.cli._model import add_edits, add_model
from mlx_patch.cli._output import add_output, output_of
from mlx_patch.cli._prompts import add_pairs, add_prompts, add_source
from mlx_patch.cli._results import result_text, write_result
from mlx_patch.cli._verb import Verb


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model(parser)
    add_prompts(parser)
    add_source(parser)
    add_pairs(parser)
    add_cells(parser, over="layer")
    add_edits(parser)
    add_metric(parser)
    group = parser.add_argument_group("method")
    group.add_argument("--method", default="gradient", metavar="NAME", help="gradient, atp* or integrated")
    group.add_argument("--steps", type=int, metavar="N", help="of integrated (default: until it is accurate)")
    group.add_argument("--graddrop", action="store_true", help="once a layer, without the gradient through that layer")
    group.add_argument("--confirm", type=int, default=0, metavar="N", help="sweep the N strongest cells exactly")
    group.add_argument("--sample", type=int, default=0, metavar="N", help="and N of the others, drawn at random")
    group.add_argument("--seed", type=int, default=0, metavar="N", help="of the draw")
    add_output(parser, save=".npz", plot=True, html=True)


def _run(options: argparse.Namespace) -> int:
    output = output_of(options)
    arguments = cell_arguments(options)
    names = ("method", "steps", "graddrop", "confirm", "sample", "seed")
    how = {name: getattr(options, name) for name in names}
    estimate = attribute(
        arguments.model, arguments.prompts.tokens, progress=output.progress, **how, **arguments.keywords
    )
    write_result(estimate, result_text(estimate), output)
    if options.confirm:
        for metric in estimate.metrics:
            output.print(f"agreement: {estimate.of_metric(metric).agreement}")
    return 0


ATTRIBUTE = Verb(
    name="attribute",
    help="estimate what a sweep would measure, from one backward pass",
    description="Estimate what a sweep would measure, from one backward pass: mp.attribute.",
    example="mlx_patch attribute MODEL --prompt 'The capital of Italy is' --source 'The capital of France is'\n"
    "      --at z --over layer,head --right ' Paris' --wrong ' Rome' --confirm 10 --sample 10",
    add_arguments=_add_arguments,
    run=_run,
)
