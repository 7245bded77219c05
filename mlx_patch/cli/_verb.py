"""`Verb`: a command, and the parser that says what is wrong in one line."""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from typing_extensions import override

from mlx_patch.errors import PatchError, did_you_mean, shown


class UsageError(PatchError, ValueError):
    """Arguments of the command that cannot be used."""


@dataclass(frozen=True)
class Verb:
    """A command.

    Attributes:
        name: As it is typed.
        help: A line for the list of commands.
        description: What it does.
        example: A command to copy.
        add_arguments: Gives its parser the arguments.
        run: Runs it, and returns the exit status.
    """

    name: str
    help: str
    description: str
    example: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]


class Parser(argparse.ArgumentParser):
    """A parser whose errors are `UsageError`, with the nearest names."""

    def __init__(self, **kwargs: Any):
        formatter = argparse.RawDescriptionHelpFormatter
        super().__init__(**{"allow_abbrev": False, "formatter_class": formatter, **kwargs})

    @override
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message[:1].upper()}{message[1:].rstrip('.')}. See `{self.prog} --help`.")

    @property
    def option_names(self) -> tuple[str, ...]:
        """Every option that it takes."""
        return tuple(name for action in self._actions for name in action.option_strings)


def add_verb(commands: Any, verb: Verb) -> None:
    """Add a verb to the commands of a parser."""
    parser = commands.add_parser(
        verb.name,
        help=verb.help,
        description=verb.description,
        epilog=f"example:\n  {verb.example}",
    )
    parser.set_defaults(verb=verb, parser=parser)
    verb.add_arguments(parser)


def refuse_unknown(parser: Parser, names: Sequence[str], unknown: Sequence[str]) -> None:
    """Refuse a command, or an option, that is not there.

    Args:
        parser: The parser of the verb.
        names: What is known.
        unknown: What is not.
    Raises:
        UsageError: There is something unknown.
    """
    if not unknown:
        return
    name = unknown[0].partition("=")[0]
    if name.startswith("-"):
        raise UsageError(f"`{parser.prog}` must be given options that it has. Got {name}. {did_you_mean(name, names)}")
    raise UsageError(f"`{parser.prog}` must be given no further argument. Got {shown(name)}. Put a text in quotes.")
