"""`mlx_patch verify`: the laws on a model, or on the zoo."""

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import get_args

from mlx_patch.cli._output import Output, add_output, output_of
from mlx_patch.cli._sites import site_table
from mlx_patch.cli._verb import UsageError, Verb
from mlx_patch.errors import did_you_mean, shown
from mlx_patch.files import Format
from mlx_patch.laws import check_laws
from mlx_patch.model import HookedModel
from mlx_patch.provenance import machine
from mlx_patch.results import json_text
from mlx_patch.testing import EVERY_LAW, ZooLine, ZooReport, check_zoo, where_it_ran
from mlx_patch.testing.zoo import Precision

REPORT_FORMAT = Format("mlx_patch.Report.json", 1)
ZOO_FORMAT = Format("mlx_patch.ZooReport.json", 1)


def _run(options: argparse.Namespace) -> int:
    _refuse_combinations(options)
    output = output_of(options)
    if options.model is None:
        return _verify_zoo(options, output)
    return _verify_model(options, output)


def _refuse_combinations(options: argparse.Namespace) -> None:
    """Refuse options that do not go together.

    Raises:
        UsageError: There are some.
    """
    if options.model is not None and options.zoo is not None:
        raise UsageError("A model and --zoo exclude each other. Got both. Leave one of them out.")
    if options.model is None and (options.adapter_path or options.prompt):
        raise UsageError("`--adapter-path` and `--prompt` need a model. Got none. Name one, or leave them out.")
    if options.precision not in get_args(Precision):
        near = did_you_mean(options.precision, get_args(Precision))
        raise UsageError(f"`--precision` must be one of the zoo's weights. Got {shown(options.precision)}. {near}")


def _verify_model(options: argparse.Namespace, output: Output) -> int:
    start = time.perf_counter()
    model = HookedModel.load(options.model, adapter_path=options.adapter_path)
    report = check_laws(model, options.prompt, EVERY_LAW)
    seconds = time.perf_counter() - start
    sections = [where_it_ran(), site_table(model), str(report), f"{seconds:.1f} seconds"]
    findings = [{**asdict(finding), "held": finding.held} for finding in report.findings]
    fields = {"model": report.model, "ok": report.ok, "seconds": seconds, "versions": machine(), "findings": findings}
    output.write_json(json_text({**REPORT_FORMAT.entry, **fields}))
    output.print("\n\n".join(sections))
    return _status(report.ok)


def _verify_zoo(options: argparse.Namespace, output: Output) -> int:
    start = time.perf_counter()
    show: Callable[[ZooLine], None] = _show_progress
    if output.quiet:
        show = _show_nothing
    lines = check_zoo(options.zoo or (), options.precision, show)
    report = ZooReport(options.precision, lines, time.perf_counter() - start)
    rows = [asdict(line) for line in report.lines]
    fields = {"precision": report.precision, "ok": report.ok, "seconds": report.seconds, "versions": machine()}
    output.write_json(json_text({**ZOO_FORMAT.entry, **fields, "lines": rows}))
    output.print(str(report))
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


def _show_nothing(line: ZooLine) -> None:
    """Write nothing of a line."""


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", nargs="?", help="a folder or a hub id, as mlx_lm.load takes it (default: the zoo)")
    parser.add_argument("--adapter-path", metavar="FOLDER", help="a LoRA adapter, as mlx_lm.lora writes it")
    parser.add_argument("--prompt", metavar="TEXT", help="a short text (default: a few tokens of the vocabulary)")
    parser.add_argument("--zoo", nargs="*", metavar="NAME", help="names of models in the zoo (default: all)")
    parser.add_argument(
        "--precision",
        default="float32",
        metavar="NAME",
        help="of the zoo's weights: float32, bfloat16, float16 or 4bit (default: float32)",
    )
    add_output(parser)


VERIFY = Verb(
    name="verify",
    help="check the tables of sites on a model, or on a tiny model of every architecture",
    description="Check the laws on a model. Without a model, check the zoo: a tiny model of every architecture. "
    "It prints a report to paste: versions, machine and broken laws.",
    example="mlx_patch verify MODEL",
    add_arguments=_add_arguments,
    run=_run,
)
