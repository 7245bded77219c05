"""The command line: `python -m mlx_patch verify MODEL`."""

import argparse
import sys
import time
from collections.abc import Sequence

from mlx_patch.errors import PatchError
from mlx_patch.laws import ALL, check_laws
from mlx_patch.model import HookedModel
from mlx_patch.sites import SITES
from mlx_patch.sweeps import exact_sweeps, independent_in_sweeps


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status: 0, 1 where a law does not hold, 2 for bad input."""
    options = _parser().parse_args(arguments)
    start = time.perf_counter()
    try:
        loaded = HookedModel.load(options.model, adapter_path=options.adapter_path)
        report = check_laws(loaded, options.prompt, (*ALL, exact_sweeps, independent_in_sweeps))
    except PatchError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    sys.stdout.write(f"{_sites(loaded)}\n\n{report}\n\n{time.perf_counter() - start:.1f} seconds\n")
    return 0 if report.ok else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m mlx_patch", description="Activation patching for mlx_lm models.")
    verify = parser.add_subparsers(dest="command", required=True).add_parser(
        "verify", help="check on a model that its table of sites tells the truth"
    )
    verify.add_argument("model", help="a folder or a hub id, as mlx_lm.load takes it")
    verify.add_argument("--adapter-path", help="a folder with a LoRA adapter, as mlx_lm.lora writes it")
    verify.add_argument("--prompt", help="a short text (default: a few tokens of the vocabulary)")
    return parser


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
