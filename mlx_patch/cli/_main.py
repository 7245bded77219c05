"""`main`: from arguments to a verb, and from an error to one line and an exit status."""

import os
import sys
import warnings
from collections.abc import Sequence
from typing import Any

from mlx_patch._version import __version__
from mlx_patch.cli._attribute import ATTRIBUTE
from mlx_patch.cli._generate import GENERATE
from mlx_patch.cli._lens import LENS
from mlx_patch.cli._paths import PATHS
from mlx_patch.cli._show import SHOW
from mlx_patch.cli._sites import SITES_OF_MODEL
from mlx_patch.cli._sweep import SWEEP
from mlx_patch.cli._verb import Parser, UsageError, add_verb, refuse_unknown
from mlx_patch.cli._verify import VERIFY
from mlx_patch.errors import PatchError, did_you_mean, shown

VERBS = (VERIFY, SITES_OF_MODEL, SWEEP, ATTRIBUTE, LENS, PATHS, GENERATE, SHOW)

BAD_INPUT = 2
"""The exit status of input that cannot be used."""

_INTERRUPTED = 130
"""The exit status of a shell's command that Ctrl-C ended."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status: 0, 1 where a law does not hold, 2 for bad input.

    Bad input is one line on stderr, which begins with `error: `.
    """
    if arguments is None:
        arguments = sys.argv[1:]
    try:
        return _run(arguments)
    except PatchError as error:
        sys.stderr.write(f"error: {_one_line(error)}\n")
        return BAD_INPUT
    except KeyboardInterrupt:
        sys.stderr.write("error: interrupted\n")
        return _INTERRUPTED
    except BrokenPipeError:
        _close_output()  # who reads has seen enough
        return 0
    except OSError as error:
        _close_output()
        where = error.filename or "the output"
        sys.stderr.write(f"error: {where} cannot be read or written: {error.strerror}.\n")
        return BAD_INPUT


def _close_output() -> None:
    """Throw away what is still in the buffer, which must not raise again when Python ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _run(arguments: Sequence[str]) -> int:
    parser = Parser(
        prog="mlx_patch",
        description="Activation patching for mlx_lm models.",
        epilog="Help of a command, with an example: mlx_patch COMMAND --help",
    )
    parser.add_argument("--version", action="version", version=f"mlx_patch {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for verb in VERBS:
        add_verb(commands, verb)
    _refuse_unknown_command(arguments)
    options, unknown = parser.parse_known_args(arguments)
    refuse_unknown(options.parser, options.parser.option_names, unknown)
    with warnings.catch_warnings():
        warnings.showwarning = _show_warning
        return options.verb.run(options)


def _refuse_unknown_command(arguments: Sequence[str]) -> None:
    names = [verb.name for verb in VERBS]
    if arguments and not arguments[0].startswith("-") and arguments[0] not in names:
        near = did_you_mean(arguments[0], names)
        raise UsageError(f"`mlx_patch` must be given a command. Got {shown(arguments[0])}. {near}")


def _one_line(error: object) -> str:
    return " ".join(str(error).split())


def _show_warning(message: Any, *_: Any) -> None:
    """Write a warning as one line, without the line of code that it comes from."""
    sys.stderr.write(f"warning: {_one_line(message)}\n")
