"""`mlx_patch generate`: text that a model continues with, with edits in force."""

import argparse
from typing import Any

from mlx_patch.cli._model import add_edits, add_model, chosen_model
from mlx_patch.cli._output import add_output, output_of
from mlx_patch.cli._prompts import add_prompts, add_source, read_one_prompt
from mlx_patch.cli._sources import edits_of_command
from mlx_patch.cli._verb import Verb
from mlx_patch.files import Format
from mlx_patch.results import json_text

GENERATION_FORMAT = Format("mlx_patch.generation.json", 1)


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model(parser)
    add_prompts(parser)
    add_source(parser)
    add_edits(parser)
    parser.add_argument("--max-tokens", type=int, default=100, metavar="N", help="at most so many (default: 100)")
    add_output(parser)


def _run(options: argparse.Namespace) -> int:
    output = output_of(options)
    prompts = read_one_prompt(options)
    model = chosen_model(options)
    edits = edits_of_command(options, model, prompts)
    text = model.generate(prompts.tokens, edits, options.max_tokens)
    fields: dict[str, Any] = {
        "model": model.identity,
        "prompt": prompts.tokens,
        "edits": list(map(repr, edits)),
        "max_tokens": options.max_tokens,
        "text": text,
    }
    output.write_json(json_text({**GENERATION_FORMAT.entry, **fields}))
    output.print(text)
    return 0


GENERATE = Verb(
    name="generate",
    help="continue a prompt, with edits in force",
    description="Continue a prompt, with edits in force: model.generate.",
    example="mlx_patch generate MODEL --chat --prompt 'Where is Mars?'\n"
    "      --edit \"Ablate('zero').at('mlp_out', layer=4-5)\" --max-tokens 20",
    add_arguments=_add_arguments,
    run=_run,
)
