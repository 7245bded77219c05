"""What a command writes: text, JSON, figures and pages. Where it cannot be written is said before anything is run."""

import argparse
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx_patch.errors import FileError, shown
from mlx_patch.files import written_whole

STDOUT = "-"
"""The name of standard output."""


def add_output(parser: argparse.ArgumentParser, *, save: str = "", plot: bool = False, html: bool = False) -> None:
    """The arguments for what is written.

    Args:
        parser: The parser of a verb.
        save: The ending of the file that `save` of its result writes; empty without.
        plot: Whether its result has a figure.
        html: Whether its result has a page.
    """
    group = parser.add_argument_group("output")
    group.add_argument("--json", metavar="PATH", help="write JSON; `-` is standard output, in place of the text")
    if save:
        group.add_argument("--save", metavar="PATH", help=f"write the result as Python's `save` does: a {save} file")
    if plot:
        group.add_argument("--plot", metavar="PATH", help="write a figure: .png, .svg or .pdf")
    if html:
        group.add_argument("--html", metavar="PATH", help="write one HTML page, which needs no network")
    group.add_argument("--quiet", action="store_true", help="print nothing but errors and warnings")


@dataclass(frozen=True)
class Output:
    """Where a command writes.

    Attributes:
        json: A path, `-` or None; so are the others, without `-`.
        save: Of the result's own file.
        plot: Of a figure.
        html: Of a page.
        quiet: Whether no text is printed.
    """

    json: str | None
    save: str | None
    plot: str | None
    html: str | None
    quiet: bool

    @property
    def progress(self) -> bool | None:
        """The argument `progress` of a sweep."""
        if self.quiet:
            return False
        return None

    def print(self, text: str) -> None:
        """Print a text, if there is to be one."""
        if not self.quiet and self.json != STDOUT:
            encoding = sys.stdout.encoding or "utf-8"
            printable = text.encode(encoding, "backslashreplace")  # a file may hold what no terminal can
            sys.stdout.write(f"{printable.decode(encoding)}\n")

    def write_json(self, text: str) -> None:
        """Write JSON where it is wanted.

        Raises:
            FileError: It cannot be written.
        """
        if self.json == STDOUT:
            sys.stdout.write(f"{text}\n")
        elif self.json is not None:
            with written_whole(self.json) as temporary:
                temporary.write_text(f"{text}\n", encoding="utf-8")

    def write_plot(self, axes: Any) -> None:
        """Write the figure of some axes.

        Raises:
            FileError: It cannot be written, or matplotlib has no such format.
        """
        if self.plot is None:
            return
        try:
            with written_whole(self.plot) as temporary:
                axes.figure.savefig(temporary, dpi=150, bbox_inches="tight")
        except ValueError as error:
            raise FileError(f"`--plot` must end in .png, .svg or .pdf. Got {self.plot}: {error}.") from error


def output_of(options: argparse.Namespace) -> Output:
    """Where a command writes, checked.

    Raises:
        FileError: Somewhere cannot be written to.
    """
    names = ("json", "save", "plot", "html")
    paths = {name: getattr(options, name, None) for name in names}
    for name, path in paths.items():
        if path is not None and not (name == "json" and path == STDOUT):
            _refuse_path(f"--{name}", path)
    if paths["save"] is not None and not paths["save"].endswith(".npz"):
        raise FileError(f"`--save` must end in '.npz'. Got {paths['save']}. Choose another name.")
    return Output(**paths, quiet=options.quiet)


def _refuse_path(option: str, path: str) -> None:
    """Refuse a path that cannot be written to, before what is written is computed."""
    target = Path(path)
    if not path or target.is_dir():
        raise FileError(f"`{option}` must be a file's name. Got {shown(path)}. Choose another name.")
    if not target.parent.is_dir() or not os.access(target.parent, os.W_OK):
        raise FileError(f"`{option}` must be in a folder that can be written to. Got {path}. Choose another folder.")
