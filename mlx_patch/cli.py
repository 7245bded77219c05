"""The command line: `mlx_patch verify`, which is `python -m mlx_patch verify` too."""

import argparse
import sys
import time
from collections.abc import Sequence

from mlx_patch.errors import PatchError
from mlx_patch.laws import ALL, check_laws
from mlx_patch.model import HookedModel
from mlx_patch.sites import SITES
from mlx_patch.sweeps import exact_sweeps, independent_in_sweeps
from mlx_patch.testing import ZooLine, ZooReport, check_zoo, where_it_ran


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status: 0, 1 where a law does not hold, 2 for bad input."""
    options = _options(arguments)
    try:
        return _verify_zoo(options) if options.model is None else _verify_model(options)
    except PatchError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2


def _verify_model(options: argparse.Namespace) -> int:
    start = time.perf_counter()
    loaded = HookedModel.load(options.model, adapter_path=options.adapter_path)
    report = check_laws(loaded, options.prompt, (*ALL, exact_sweeps, independent_in_sweeps))
    seconds = time.perf_counter() - start
    sys.stdout.write(f"{where_it_ran()}\n\n{_sites(loaded)}\n\n{report}\n\n{seconds:.1f} seconds\n")
    return 0 if report.ok else 1


def _verify_zoo(options: argparse.Namespace) -> int:
    start = time.perf_counter()
    lines = check_zoo(options.zoo or (), options.precision, _show_progress)
    report = ZooReport(options.precision, lines, time.perf_counter() - start)
    sys.stdout.write(f"{report}\n")
    return 0 if report.ok else 1


def _show_progress(line: ZooLine) -> None:
    """Beside the report, which may be sent elsewhere."""
    sys.stderr.write(f"{line.name}: {line.outcome}\n")
    sys.stderr.flush()


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="mlx_patch", description="Activation patching for mlx_lm models.")
    verify = parser.add_subparsers(dest="command", required=True).add_parser(
        "verify",
        help="check on a model, or on a tiny one of every architecture, that tables of sites tell the truth",
        description="Check the laws on a model; without one on the zoo, a tiny model of every architecture. "
        "Prints a report to paste: versions, machine, and what did not hold.",
    )
    verify.add_argument("model", nargs="?", help="a folder or a hub id, as mlx_lm.load takes it (default: the zoo)")
    verify.add_argument("--adapter-path", help="a folder with a LoRA adapter, as mlx_lm.lora writes it")
    verify.add_argument("--prompt", help="a short text (default: a few tokens of the vocabulary)")
    verify.add_argument("--zoo", nargs="*", metavar="NAME", help="some models of the zoo (default: all)")
    verify.add_argument(
        "--precision",
        choices=("float32", "bfloat16", "float16", "4bit"),
        default="float32",
        help="of the zoo's weights (default: float32)",
    )
    options = parser.parse_args(arguments)
    if options.model is not None and options.zoo is not None:
        parser.error("a model and --zoo must not come together. Leave one of them out.")
    if options.model is None and (options.adapter_path or options.prompt):
        parser.error("--adapter-path and --prompt must come with a model. Name one, or leave them out.")
    return options


def _sites(model: HookedModel) -> str:
    """A table of the sites: which layers have each, or why none has."""
    rows = [f"{'site':<16}{'layers':<12}meaning, or why it is not there"]
    rows += [f"{name:<16}{_layers(model, name):<12}{_says(model, name)}" for name in SITES]
    return "\n".join(rows)


def _layers(model: HookedModel, name: str) -> str:
    of = [site.layer for site in model.sites if site.name == name]
    if not of:
        return "none"
    return "-" if of == [None] else "all" if len(of) == model.n_layers else f"{len(of)} of {model.n_layers}"


def _says(model: HookedModel, name: str) -> str:
    there = any(site.name == name for site in model.sites)
    return SITES[name].meaning if there else model.layout.why_not(name)
