"""`mlx_patch lens`: what the stream says at each layer, or what each part of it adds to a logit."""

import argparse
from typing import Any

import numpy as np

from mlx_patch.cli._lens_text import lens_text
from mlx_patch.cli._model import add_edits, add_model, chosen_model
from mlx_patch.cli._output import Output, add_output, output_of
from mlx_patch.cli._prompts import PromptArguments, add_prompts, add_source, read_one_prompt
from mlx_patch.cli._sources import edits_of_command
from mlx_patch.cli._values import read_positions
from mlx_patch.cli._verb import UsageError, Verb
from mlx_patch.files import Format
from mlx_patch.lens import DirectLogits, LogitLens, direct_logits, logit_lens
from mlx_patch.model import HookedModel
from mlx_patch.positions import Selector
from mlx_patch.results import json_text

LENS_FORMAT = Format("mlx_patch.LogitLens.json", 1)
DIRECT_FORMAT = Format("mlx_patch.DirectLogits.json", 1)


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model(parser)
    add_prompts(parser)
    add_source(parser)
    add_edits(parser)
    group = parser.add_argument_group("lens")
    group.add_argument("--at", metavar="SITE", help="of the stream, or several: resid_pre,resid_post")
    group.add_argument("--positions", metavar="LIST", help="0-3,last or \"text('Mary').final\" (default: all)")
    group.add_argument("--top", type=int, default=5, metavar="K", help="tokens of each cell (default: 5)")
    group.add_argument("--right", metavar="TOKEN", help="a token whose probability and rank are followed")
    group = parser.add_argument_group("direct logits")
    group.add_argument("--by", metavar="KIND", help="take the logit of --right apart: part, head, neuron or source")
    group.add_argument("--wrong", metavar="TOKEN", help="a token whose logit is taken away")
    add_output(parser, plot=True, html=True)


def _run(options: argparse.Namespace) -> int:
    output = output_of(options)
    if options.by is not None:
        return _run_direct(options, output)
    if options.wrong is not None:
        raise UsageError("`--wrong` must be given with --by. Got no --by. Write --by part, say.")
    prompts = read_one_prompt(options)
    positions = read_positions(options.positions)
    model = chosen_model(options)
    sites = tuple(site.strip() for site in (options.at or "resid_post").split(","))
    lens = logit_lens(model, prompts.tokens, sites, _joined(positions), edits_of_command(options, model, prompts))
    fields = lens_fields(lens, model, options.top, options.right)
    output.write_json(json_text({**LENS_FORMAT.entry, **fields}))
    if output.html is not None:
        lens.to_html(output.html, k=options.top)
    if output.plot is not None:
        output.write_plot(lens.plot(token=options.right))
    output.print(lens_text(fields))
    return 0


def _joined(positions: list[Any] | None) -> Any:
    """One choice of positions: a list of numbers, or selectors joined.

    Raises:
        UsageError: There are numbers and selectors, or groups.
    """
    if positions is None or all(isinstance(position, int) for position in positions):
        return positions
    if not all(isinstance(position, Selector) for position in positions):
        raise UsageError("`--positions` must be all numbers, or all selectors. Got both. Write last for -1, say.")
    joined, *further = positions
    for position in further:
        joined = joined | position
    return joined


def lens_fields(lens: LogitLens, model: HookedModel, k: int, token: str | None) -> dict[str, Any]:
    """A lens as JSON values: the `k` most likely tokens at each site and position."""
    top = lens.top(k)
    fields: dict[str, Any] = {
        "model": model.identity,
        "sites": [str(site) for site in lens.sites],
        "tokens": np.array(lens.tokens),
        "positions": lens.positions,
        "str_tokens": lens.texts,
        "ids": top.ids,
        "probs": top.probs,
        "texts": top.texts,
    }
    if token is not None:
        fields |= {"token": token, "token_prob": lens.prob(token), "token_rank": lens.rank(token)}
    return fields


def _run_direct(options: argparse.Namespace, output: Output) -> int:
    if output.plot is not None:
        raise UsageError("`--plot` must be left out with --by, which has no figure. Got both. Use --html or --json.")
    if options.right is None:
        raise UsageError("`--by` must be given with --right. Got no token. Write --right ' Mary', say.")
    if options.at is not None:
        raise UsageError("`--at` must be left out with --by, which takes every part of the stream. Got both.")
    prompts = read_one_prompt(options)
    positions = read_positions(options.positions)
    model = chosen_model(options)
    logit = _direct(options, model, prompts, positions)
    output.write_json(json_text({**DIRECT_FORMAT.entry, "model": model.identity, **direct_fields(logit)}))
    if output.html is not None:
        logit.to_html(output.html)
    output.print(str(logit))
    return 0


def _direct(
    options: argparse.Namespace, model: HookedModel, prompts: PromptArguments, positions: list[Any] | None
) -> DirectLogits:
    pos = -1
    if positions is not None:
        if len(positions) != 1 or not isinstance(positions[0], int):
            raise UsageError(f"`--positions` must be one number with --by. Got {options.positions!r}. Write -1, say.")
        [pos] = positions
    edits = edits_of_command(options, model, prompts)
    return direct_logits(model, prompts.tokens, options.right, options.wrong, options.by, pos, edits)


def direct_fields(logit: DirectLogits) -> dict[str, Any]:
    """Parts of a logit as JSON values."""
    names = ("by", "answer", "axes", "coords", "scale", "logit", "remainder", "values")
    return {name: getattr(logit, name) for name in names}


LENS = Verb(
    name="lens",
    help="read the stream at each layer, or take a logit apart",
    description="Read the stream at each layer as the model itself would: mp.lens.logit_lens. With --by, take a logit\n"
    "apart by what each part adds to it: mp.lens.direct_logits.",
    example="mlx_patch lens MODEL --prompt 'The capital of France is' --right ' Paris' --html lens.html\n"
    "  mlx_patch lens MODEL --prompt 'The capital of France is' --right ' Paris' --wrong ' Rome' --by head",
    add_arguments=_add_arguments,
    run=_run,
)
