"""The options of the D1 study, and what `--help` says."""

import argparse
from pathlib import Path

from d1_data import PAIRS, SMOLLM2, Pair
from d1_findings import MARKED

GROUPS = {"tiny": ["tiny_ext", "tiny_int"], "all": ["llama8b", "qwen7b", "mistral7b"]}

KINDS = {
    "A": "group A, an externaliser: its instruct model calls the tool",
    "B": "group B, an internaliser: its instruct model answers from memory",
}
"""What the letter of a pair means."""

WORDS = f"""\
Does a model that is offered a notepad read its notes with a tool, or answer from memory?
  externaliser (group A): its instruct model calls the tool.   internaliser (group B): it answers from memory.
  <tool_call>=  the highest probability of a token of "<tool_call>", where the answer begins.
  effect=       that probability, minus the one of the same model unpatched; *** where it is larger than {MARKED}.
  gap           by how much the two models of a pair differ in it, unpatched.
The last layer's stream is the donor's output by construction: its row is a check, not a finding."""
"""The words of the table, which the study prints before it."""


class OneLineParser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str):
        """Print the message and exit with status 2."""
        self.exit(2, f"error: {message}\n")


def kind_of(pair: Pair) -> str:
    """What a pair is, in words; empty for a pair of your own, of which nobody has said."""
    return KINDS.get(pair.d1_group, "")


def parsed(arguments: list[str] | None) -> tuple[argparse.Namespace, dict[str, Pair]]:
    """The options, and the pairs that they name."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.samples and not options.say:
        parser.error("--samples must come with --say. Give --say 20, say.")
    if bool(options.base) != bool(options.instruct) or (options.base and options.pair):
        parser.error("--base and --instruct must come together, and without --pair. Give both.")
    if options.base:
        display = f"{Path(options.base).name} and {Path(options.instruct).name}"
        return options, {"custom": Pair(options.base, options.instruct, display, "-")}
    names = [name for word in options.pair or ["tiny"] for name in GROUPS.get(word, [word])]
    return options, {name: PAIRS[name] for name in dict.fromkeys(names)}


def _parser() -> OneLineParser:
    parser = OneLineParser(
        description="Activation patching for the D1 externalization boundary: the stream of each layer is put\n"
        "from one model of a pair into the other, both ways, and the probability of a tool call measured.",
        epilog=_epilog(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    names = ", ".join([*PAIRS, *GROUPS])
    parser.add_argument(
        "--pair", nargs="+", type=_pair_name, metavar="NAME", help=f"{names}; see below (default: tiny)"
    )
    parser.add_argument("--base", metavar="MODEL", help="a base model of your own: a folder or a hub id")
    parser.add_argument("--instruct", metavar="MODEL", help="the instruct model that goes with --base")
    parser.add_argument("--layers", type=_layer_range, metavar="L-L", help="25-31 or 20 (default: all)")
    parser.add_argument(
        "--positions", choices=("all", "last"), default="all", help="which positions are patched (default: all)"
    )
    parser.add_argument(
        "--plain", action="store_true", help="give the base the conversation as plain text, aligned with the chat"
    )
    parser.add_argument("--say", type=_count, metavar="N", help="let every patched model write N tokens")
    parser.add_argument(
        "--samples", type=_count, default=0, metavar="N", help="draw N texts for --say (default: one greedy text)"
    )
    parser.add_argument("--sequential", action="store_true", help="hold one model in memory at a time")
    parser.add_argument("--results", type=Path, default=Path("results"), help="the folder to write to")
    return parser


def _epilog() -> str:
    """The names that `--pair` takes, and the words of what is printed."""
    lines = [f"  {name:<10}{pair.display}: {_source(pair)} (group {pair.d1_group})" for name, pair in PAIRS.items()]
    lines += [f"  {name:<10}{', '.join(pairs)}" for name, pairs in GROUPS.items()]
    return "\n".join(["pairs:", *lines, "", WORDS])


def _source(pair: Pair) -> str:
    if pair.base == SMOLLM2:
        return "a wheel of PyPI, 92 MB, fetched once"
    return "in this repository" if Path(pair.base).is_absolute() else pair.base.removesuffix("-4bit") + ", 4 bits"


def _layer_range(text: str) -> tuple[int, int]:
    """First and last layer of '25-31' or '20'."""
    first, dash, last = text.partition("-")
    if not first.isdecimal() or (dash and not last.isdecimal()):
        raise argparse.ArgumentTypeError(f"must be a layer or a range. Got {text!r}. Write 20 or 25-31.")
    low, high = int(first), int(last or first)
    if low > high:
        raise argparse.ArgumentTypeError(f"must go up. Got {text!r}. Write {high}-{low}.")
    return low, high


def _count(text: str) -> int:
    """A number of tokens or texts; 0 is none."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"must be a number. Got {text!r}. Write 20, or 0 for none.")
    return int(text)


def _pair_name(text: str) -> str:
    """A known pair or group."""
    if text not in {*PAIRS, *GROUPS}:
        known = ", ".join([*PAIRS, *GROUPS])
        raise argparse.ArgumentTypeError(f"must be one of {known}. Got {text!r}. For others use --base and --instruct.")
    return text
