"""PromptArguments, their sources and pairs: from the command, from files, or from standard input."""

import argparse
import io
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx_patch.cli._verb import UsageError
from mlx_patch.errors import FileError, PatchError, ValueRefusedError, brief
from mlx_patch.files import Malformed, clause_of, strict_json
from mlx_patch.pairs import PromptPair, PromptPairs

_LARGEST = 2**26
"""Bytes of a file of prompts. A device may have no end."""

STDIN = "-"
"""The name of standard input."""

_PAIR = {"clean": ("clean",), "corrupted": ("corrupted",), "answer": ("right", "answer"), "foil": ("wrong", "foil")}
"""The fields of a pair, and what a file may call each."""


@dataclass(frozen=True)
class PromptArguments:
    """What is run, and where activations come from.

    Attributes:
        tokens: One prompt, or a list of them, as `sweep` takes them.
        sources: The prompts whose activations are put in: none, one, or one a prompt.
        pairs: The pairs that both come from; None without.
    """

    tokens: Any
    sources: tuple[Any, ...] = ()
    pairs: PromptPairs | None = None

    @property
    def each(self) -> list[Any]:
        """The prompts, one an entry."""
        if self.several:
            return self.tokens
        return [self.tokens]

    @property
    def several(self) -> bool:
        """Whether there are several prompts: a chat is a list too, of messages."""
        return isinstance(self.tokens, list) and not isinstance(self.tokens[0], dict)


def add_prompts(parser: argparse.ArgumentParser) -> None:
    """The arguments for prompts that are run."""
    group = parser.add_argument_group("prompts")
    group.add_argument("--prompt", action="append", metavar="TEXT", help="a prompt; `-` is standard input. May repeat")
    group.add_argument(
        "--prompt-file", metavar="FILE", help="one prompt in a text file, or one a line in a .jsonl: texts or chats"
    )
    group.add_argument("--chat", action="store_true", help="each text is what a user says, in the chat template")


def add_source(parser: argparse.ArgumentParser) -> None:
    """The arguments for prompts whose activations are put in."""
    group = parser.add_argument_group("source")
    group.add_argument(
        "--source", action="append", metavar="TEXT", help="where `replace` takes activations from: one, or one a prompt"
    )
    group.add_argument("--source-file", metavar="FILE", help="the same from a file, as --prompt-file")


def add_pairs(parser: argparse.ArgumentParser) -> None:
    """The arguments for pairs of a prompt and its source."""
    group = parser.add_argument_group("pairs")
    group.add_argument(
        "--pairs",
        metavar="FILE",
        help='pairs in a .jsonl: {"clean", "corrupted", "right", "wrong"} a line. The corrupted prompts run, clean '
        "activations are put in, and the metric is the difference of the answers",
    )
    group.add_argument("--noising", action="store_true", help="the other way: corrupted activations into clean prompts")


def read_one_prompt(options: argparse.Namespace) -> PromptArguments:
    """The prompt of a command that takes one, and its source.

    Raises:
        UsageError: There are several, or none.
        PatchError: As `read_prompts`.
    """
    prompts = read_prompts(options)
    if prompts.several:
        raise UsageError(f"`--prompt` must be one for this command. Got {len(prompts.each)}. Run it for each.")
    return prompts


def read_prompts(options: argparse.Namespace) -> PromptArguments:
    """The prompts of a command.

    Raises:
        UsageError: There are none, or they come from two places.
        FileError: A file cannot be read.
        ValueRefusedError: A prompt or a pair is none.
    """
    pairs_file = getattr(options, "pairs", None)
    if pairs_file is not None:
        _refuse_beside_pairs(options)
        pairs = read_pairs(pairs_file)
        if options.noising:
            return PromptArguments(pairs.clean, tuple(pairs.corrupted), pairs)
        return PromptArguments(pairs.corrupted, tuple(pairs.clean), pairs)
    if getattr(options, "noising", False):
        raise UsageError("`--noising` must be given with --pairs. Got no pairs. Leave it out.")
    prompts = _texts(options, "prompt")
    if not prompts:
        raise UsageError("`--prompt` must be given. Got none. Write --prompt 'A text', or --prompt-file FILE.")
    sources = ()
    if hasattr(options, "source"):
        sources = tuple(_texts(options, "source"))
    if len(sources) not in (0, 1, len(prompts)):
        raise UsageError(
            f"`--source` must be given once, or once a prompt ({len(prompts)}). Got {len(sources)}. Repeat it."
        )
    if len(prompts) == 1:
        return PromptArguments(prompts[0], sources)
    return PromptArguments(prompts, sources)


def _refuse_beside_pairs(options: argparse.Namespace) -> None:
    for name in ("prompt", "prompt_file", "source", "source_file", "chat"):
        if getattr(options, name, None):
            option = name.replace("_", "-")
            raise UsageError(f"`--pairs` must be without --{option}: it has the prompts. Got both. Leave one out.")


def _texts(options: argparse.Namespace, name: str) -> list[Any]:
    """The prompts, or sources, of the command or of a file."""
    texts, file = getattr(options, name), getattr(options, f"{name}_file")
    if texts and file is not None:
        raise UsageError(f"`--{name}` and `--{name}-file` exclude each other. Got both. Leave one of them out.")
    if file is not None:
        prompts = _prompts_of_file(f"--{name}-file", file)
    else:
        prompts = [_text_or_stdin(f"--{name}", text) for text in texts or ()]
    if options.chat:
        return [_as_chat(prompt) for prompt in prompts]
    return prompts


def _text_or_stdin(option: str, text: str) -> str:
    if text == STDIN:
        text = _without_last_newline(read_text(option, STDIN))
    if not text:
        raise ValueRefusedError(f"`{option}` must not be empty. Got ''. Write a text.")
    return text


def _prompts_of_file(option: str, path: str) -> list[Any]:
    text = read_text(option, path)
    if path.endswith(".jsonl"):
        prompts = [_checked_prompt(option, path, *line) for line in json_lines(option, path, text)]
    else:
        prompts = [_without_last_newline(text)]
    if not prompts or not all(prompts):
        raise ValueRefusedError(f"`{option}` must hold a prompt. Got {path}, which is empty. Write one into it.")
    return prompts


def _checked_prompt(option: str, path: str, number: int, value: Any) -> Any:
    """A prompt of a line: a text, or chat messages."""
    is_chat = isinstance(value, list) and bool(value) and all(isinstance(message, dict) for message in value)
    if isinstance(value, str) or is_chat:
        return value
    raise ValueRefusedError(
        f"`{option}` must hold texts or lists of chat messages. Got {brief(value)} in line {number} of {path}."
    )


def _as_chat(prompt: Any) -> Any:
    if isinstance(prompt, str):
        return [{"role": "user", "content": prompt}]
    return prompt


def _without_last_newline(text: str) -> str:
    """A text without the line end that editors and `echo` write after it."""
    return text.removesuffix("\n").removesuffix("\r")


def read_text(option: str, path: str) -> str:
    """The text of a file, or of standard input.

    Raises:
        FileError: It cannot be read, is too large, or is no UTF-8.
    """
    try:
        if path == STDIN:
            return sys.stdin.read()
        with open(path, "rb") as file:  # a pipe too, as of a shell's <(...)
            content = file.read(_LARGEST + 1)
        if len(content) > _LARGEST:
            raise FileError(f"`{option}` must have at most {_LARGEST} bytes. Got {path}, which has more. Divide it.")
        return io.TextIOWrapper(io.BytesIO(content), encoding="utf-8").read()  # with "\n" for every kind of line end
    except FileError:
        raise
    except OSError as error:
        raise FileError(
            f"`{option}` must be a file that can be read. Got {path}: {error.strerror}. Check it."
        ) from error
    except UnicodeDecodeError as error:
        raise FileError(f"`{option}` must be text in UTF-8. Got {path}, which is not. Check the file.") from error


def json_lines(option: str, path: str, text: str) -> Iterable[tuple[int, Any]]:
    """The number and the value of each line that is not empty.

    Raises:
        FileError: A line is no JSON.
    """
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            yield number, strict_json(line)
        except Malformed as error:
            raise FileError(
                f"`{option}` must hold one JSON value a line. Got line {number} of {path}, which {clause_of(error)}. "
                "Correct it."
            ) from error


def read_pairs(path: str, option: str = "--pairs") -> PromptPairs:
    """The pairs of a file: a mapping a line, with `clean`, `corrupted`, `right` and `wrong`.

    Raises:
        FileError: It cannot be read, or a line is no such mapping.
        PatchError: A line is no pair.
    """
    pairs = []
    for number, value in json_lines(option, path, read_text(option, path)):
        try:
            pairs.append(_pair_of(value))
        except (ValueError, TypeError, PatchError) as error:
            raise ValueRefusedError(
                f"`{option}` must hold pairs. Got line {number} of {path}: {clause_of(error)}"
            ) from error
    if not pairs:
        raise ValueRefusedError(f"`{option}` must hold a pair. Got {path}, which is empty. Write one a line.")
    name = Path(path).stem
    if path == STDIN:
        name = ""
    return PromptPairs(pairs, name)


def _pair_of(value: Any) -> PromptPair:
    """The pair of a line.

    Raises:
        ValueRefusedError: It is no mapping with the four fields.
    """
    names = {name for spellings in _PAIR.values() for name in spellings}
    if not isinstance(value, Mapping) or not value.keys() <= names:
        raise ValueRefusedError(f"it must be a mapping of clean, corrupted, right and wrong. Got {brief(value)}.")
    fields = {}
    for field, spellings in _PAIR.items():
        present = [name for name in spellings if name in value]
        if len(present) != 1:
            raise ValueRefusedError(f"it must have {spellings[0]!r} once. Got {brief(sorted(value))}.")
        fields[field] = value[present[0]]
    return PromptPair(**fields)
