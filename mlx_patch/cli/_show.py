"""`mlx_patch show`: what a file holds that Python, or another command, wrote."""

import argparse
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mlx_patch.cache import ActivationCache
from mlx_patch.circuits import EdgeScores
from mlx_patch.cli._output import Output, add_output, output_of
from mlx_patch.cli._prompts import read_pairs
from mlx_patch.cli._results import result_text, write_result
from mlx_patch.cli._show_json import JSON_TEXTS, result_of_json
from mlx_patch.cli._show_study import is_study, study_text
from mlx_patch.cli._verb import UsageError, Verb
from mlx_patch.cross import TwoByTwo
from mlx_patch.errors import FileError, PatchError
from mlx_patch.files import Malformed, about_of_archive, clause_of, json_of_file
from mlx_patch.results import CellResult, Estimate, PairResult, SweepResult, json_text
from mlx_patch.store import ActivationStore

_EDGES = 20
"""Edges that the text of a graph names."""


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", help="a result (.npz, .json), graph, cache, pairs (.jsonl) or folder of a store")
    add_output(parser, plot=True, html=True)


def _run(options: argparse.Namespace) -> int:
    output = output_of(options)
    path = Path(options.file)
    try:
        is_folder, is_there = path.is_dir(), path.exists()
    except OSError as error:  # a name that is too long, or a folder that is closed
        raise _refused(path, f": {error.strerror}") from error
    if is_folder:
        return _print_alone(output, _store_text(path))
    show = _readers().get(path.suffix)
    if not is_there or show is None:
        raise _refused(path)
    if not path.is_file():
        raise _refused(path, ", which is no regular file")
    show(path, output)
    return 0


def _readers() -> Mapping[str, Callable[[Path, Output], object]]:
    """What reads and prints a file, by its ending."""
    return {
        ".npz": _show_archive,
        ".json": _show_json,
        ".jsonl": lambda path, output: _print_alone(output, _pairs_text(path)),
        ".safetensors": lambda path, output: _print_alone(output, _cache_text(path)),
    }


def _refused(path: Path, reason: str = "") -> FileError:
    if not reason:
        reason = ", which is no such file or folder"
    return FileError(
        f"`file` must be one that mlx_patch wrote: .npz, .json, .jsonl, .safetensors or the folder of a store. "
        f"Got {path}{reason}. Check the path."
    )


def _print_alone(output: Output, text: str) -> int:
    """Print what has a text alone.

    Raises:
        UsageError: A figure, a page or JSON of it is wanted.
    """
    for name in ("json", "plot", "html"):
        if getattr(output, name) is not None:
            raise UsageError(f"`--{name}` must be left out for this file, which is shown as text alone. Got both.")
    output.print(text)
    return 0


def _show_archive(path: Path, output: Output) -> None:
    kinds: dict[str, Any] = {kind.__name__: kind for kind in (SweepResult, Estimate, PairResult, TwoByTwo)}
    name = _format_of_archive(path).removeprefix("mlx_patch.")
    if name == "sweep.checkpoint":
        raise _refused(path, ", a checkpoint. Call the sweep again with it, and show what it returns")
    if name not in kinds:
        raise _refused(path, ", which is of another kind")
    result = kinds[name].load(path)
    if isinstance(result, PairResult):
        _show_pair(path, result, output)
    elif isinstance(result, TwoByTwo):
        _show_two_by_two(result, output)
    else:
        with _consistent(path):
            text = result_text(result)
        write_result(result, text, output)


@contextmanager
def _consistent(path: Path) -> Iterator[None]:
    """A block that makes text of what a file says, and fails where the file does not hold together.

    Raises:
        FileError: It does not.
    """
    try:
        yield
    except FileError:
        raise
    except (PatchError, KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError) as error:
        name = type(error).__name__
        if isinstance(error, PatchError | Malformed):
            name = ""
        raise _refused(path, f", which is inconsistent: {name} {clause_of(error)}".replace(":  ", ": ")) from error


def _format_of_archive(path: Path) -> str:
    """The name of the format that an archive says; empty where it says none."""
    try:
        about = about_of_archive(path)
    except (OSError, Malformed) as error:
        raise _unreadable(path, error) from error
    return _format_name(about)


def _unreadable(path: Path, error: OSError | Malformed) -> FileError:
    reason = error
    if isinstance(error, OSError):
        reason = error.strerror
    return _refused(path, f", which cannot be read: {clause_of(reason)}")


def _format_name(about: Any) -> str:
    if not isinstance(about, Mapping):
        return ""
    return str(about.get("format", "")).partition("/")[0]


def _show_pair(path: Path, pair: PairResult, output: Output) -> None:
    if output.json is not None:
        raise UsageError("`--json` must be left out for both directions. Got both. Use --html or --plot, or Python.")
    with _consistent(path):
        texts = [repr(pair)]
        for metric in pair.denoising.metrics:
            texts.append(f"{metric}: {pair.summary(metric=metric)}")
    if output.html is not None:
        pair.to_html(output.html)
    if output.plot is not None:
        output.write_plot(pair.plot(next(iter(pair.denoising.metrics), None))[0])
    output.print("\n".join(texts))


def _show_two_by_two(result: TwoByTwo, output: Output) -> None:
    if output.json is not None:
        output.write_json(json_text({"metric": result.metric, "layers": result.as_dict()}))
    if output.html is not None:
        result.to_html(output.html)
    if output.plot is not None:
        output.write_plot(result.plot())
    output.print(str(result))


def _show_json(path: Path, output: Output) -> None:
    try:
        fields = json_of_file(path, allow_nan=True)
    except (OSError, Malformed) as error:
        raise _unreadable(path, error) from error
    if not isinstance(fields, Mapping):
        raise _refused(path, ", which is of another kind")
    name = _format_name(fields).removeprefix("mlx_patch.").removesuffix(".json")
    if name in ("SweepResult", "Estimate"):
        with _consistent(path):
            result = result_of_json(fields, name)
            text = result_text(result)
        write_result(result, text, output)
    elif {"cfg", "nodes", "edges"} <= fields.keys():
        _show_edges(path, output)
    else:
        with _consistent(path):
            text = _json_text(path, fields, name)
        _print_alone(output, text)


def _json_text(path: Path, fields: Mapping[str, Any], name: str) -> str:
    """What of JSON is shown as text alone.

    Args:
        path: The file.
        fields: The JSON.
        name: The name of the format that it says.
    Raises:
        FileError: It is of another kind.
        PatchError, KeyError, TypeError, ValueError, IndexError, AttributeError: Something is not there.
    """
    if name in JSON_TEXTS:
        return JSON_TEXTS[name](fields)
    if is_study(fields):
        return study_text(fields)
    if {"denoising", "noising"} <= fields.keys():
        return _both_ways(fields)
    raise _refused(path, ", which is of another kind")


def _both_ways(fields: Mapping[str, Any]) -> str:
    """Both directions of a pair, as the examples write them."""
    results: dict[str, CellResult] = {
        name: result_of_json(fields[name], "SweepResult") for name in ("denoising", "noising")
    }
    return "\n".join(f"{name}: {result_text(result)}" for name, result in results.items())


def _show_edges(path: Path, output: Output) -> None:
    edges, circuit = EdgeScores.from_json(path)
    if output.json is not None:
        raise UsageError("`--json` must be left out for a graph, which is JSON already. Got both.")
    if output.html is not None:
        edges.to_html(output.html)
    if output.plot is not None:
        output.write_plot(edges.plot())
    strongest = edges.top(min(_EDGES, edges.graph.n_edges))
    scores = edges.mean()
    places = sorted(zip(*strongest.has_edge.nonzero(), strict=True), key=lambda place: -abs(scores[place]))
    lines = [repr(edges), f"in the graph: {circuit.n_edges} edges", "strongest:"]
    for writer, reader in places:
        name = f"{edges.graph.writers[writer]}->{edges.graph.readers[reader]}"
        lines.append(f"  {scores[writer, reader]:>+10.4g}  {name}")
    output.print("\n".join(lines))


def _cache_text(path: Path) -> str:
    cache = ActivationCache.load(path)
    lines = [repr(cache), f"model: {cache.model.get('name', 'no name')}"]
    for site, array in cache.items():
        shape = " ".join(map(str, array.shape))
        dtype = str(array.dtype).removeprefix("mlx.core.")
        lines.append(f"  {site!s:<36}{shape:<24}{dtype:<10}{array.nbytes:>12,} bytes")
    return "\n".join(lines)


def _store_text(path: Path) -> str:
    store = ActivationStore(path)
    lines = [repr(store), f"model: {store.model.get('name', 'no name')}"]
    lines += [f"  {site}" for site in store.sites]
    return "\n".join(lines)


def _pairs_text(path: Path) -> str:
    pairs = read_pairs(str(path), "file")
    lines = [repr(pairs)]
    for pair in pairs:
        lines.append(f"  {pair.clean!r} -> {pair.answer!r}, {pair.corrupted!r} -> {pair.foil!r}")
    return "\n".join(lines)


SHOW = Verb(
    name="show",
    help="print what is in a file that Python or another command wrote",
    description="Print what is in a file that Python or another command wrote: results, graphs, caches, stores, pairs.",
    example="mlx_patch show result.npz --html result.html",
    add_arguments=_add_arguments,
    run=_run,
)
