"""The command line: `mlx_patch verify`, which is `python -m mlx_patch verify` too."""

import argparse
import sys
import time
from collections.abc import Sequence

from mlx_patch.errors import PatchError
from mlx_patch.laws import check_laws
from mlx_patch.model import HookedModel
from mlx_patch.sites import SITES
from mlx_patch.testing import EVERY_LAW, ZooLine, ZooReport, check_zoo, where_it_ran


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status: 0, 1 where a law does not hold, 2 for bad input."""
    options = _options(arguments)
    try:
        if options.model is None:
            return _verify_zoo(options)
        return _verify_model(options)
    except PatchError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2


def _verify_model(options: argparse.Namespace) -> int:
    start = time.perf_counter()
    model = HookedModel.load(options.model, adapter_path=options.adapter_path)
    report = check_laws(model, options.prompt, EVERY_LAW)
    seconds = time.perf_counter() - start
    sections = [where_it_ran(), _format_sites(model), str(report), f"{seconds:.1f} seconds\n"]
    sys.stdout.write("\n\n".join(sections))
    return _status(report.ok)


def _verify_zoo(options: argparse.Namespace) -> int:
    start = time.perf_counter()
    lines = check_zoo(options.zoo or (), options.precision, _show_progress)
    report = ZooReport(options.precision, lines, time.perf_counter() - start)
    sys.stdout.write(f"{report}\n")
    return _status(report.ok)


def _status(ok: bool) -> int:
    """The exit status of a report."""
    if ok:
        return 0
    return 1


def _show_progress(line: ZooLine) -> None:
    """Write a line to stderr, for stdout holds the report and may be redirected."""
    sys.stderr.write(f"{line.name}: {line.outcome}\n")
    sys.stderr.flush()


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="mlx_patch", description="Activation patching for mlx_lm models.")
    verify = parser.add_subparsers(dest="command", required=True).add_parser(
        "verify",
        help="check the tables of sites on a model, or on a tiny model of every architecture",
        description="Check the laws on a model. Without a model, check the zoo: a tiny model of every architecture. "
        "It prints a report to paste: versions, machine and broken laws.",
    )
    verify.add_argument("model", nargs="?", help="a folder or a hub id, as mlx_lm.load takes it (default: the zoo)")
    verify.add_argument("--adapter-path", help="a folder with a LoRA adapter, as mlx_lm.lora writes it")
    verify.add_argument("--prompt", help="a short text (default: a few tokens of the vocabulary)")
    verify.add_argument("--zoo", nargs="*", metavar="NAME", help="names of models in the zoo (default: all)")
    verify.add_argument(
        "--precision",
        choices=("float32", "bfloat16", "float16", "4bit"),
        default="float32",
        help="of the zoo's weights (default: float32)",
    )
    options = parser.parse_args(arguments)
    if options.model is not None and options.zoo is not None:
        parser.error("a model and --zoo exclude each other. Leave one of them out.")
    if options.model is None and (options.adapter_path or options.prompt):
        parser.error("--adapter-path and --prompt need a model. Name one, or leave them out.")
    return options


def _format_sites(model: HookedModel) -> str:
    """A table of the sites: the layers that have each, or the reason why none has."""
    rows = [f"{'site':<16}{'layers':<12}meaning, or why it is not there"]
    for name in SITES:
        rows.append(f"{name:<16}{_format_layers(model, name):<12}{_meaning(model, name)}")
    return "\n".join(rows)


def _format_layers(model: HookedModel, name: str) -> str:
    layers = [site.layer for site in model.sites if site.name == name]
    if not layers:
        return "none"
    if layers == [None]:
        return "-"
    if len(layers) == model.n_layers:
        return "all"
    return f"{len(layers)} of {model.n_layers}"


def _meaning(model: HookedModel, name: str) -> str:
    if any(site.name == name for site in model.sites):
        return SITES[name].meaning
    return model.layout.why_not(name)
