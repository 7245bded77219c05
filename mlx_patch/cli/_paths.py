"""`mlx_patch paths`: a sweep whose cells are paths, of which one receiver alone reads the change."""

import argparse

from mlx_patch.cli._cells import add_cells
from mlx_patch.cli._model import add_model
from mlx_patch.cli._prompts import add_pairs, add_prompts, add_source
from mlx_patch.cli._sweep import add_sweep_options, run_sweep
from mlx_patch.cli._verb import Verb


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model(parser)
    add_prompts(parser)
    add_source(parser)
    add_pairs(parser)
    add_cells(parser, over="layer", paths=True)
    add_sweep_options(parser)


PATHS = Verb(
    name="paths",
    help="patch what one receiver reads, with everything else frozen",
    description="Patch what one receiver reads, with everything else frozen: mp.sweep with via=.",
    example="mlx_patch paths MODEL --prompt 'The capital of Italy is' --source 'The capital of France is'\n"
    "      --at z --over layer,head --positions last --via logits --right ' Paris' --wrong ' Rome'",
    add_arguments=_add_arguments,
    run=run_sweep,
)
