"""A result of cells: what is printed of it, and its files."""

import numpy as np

from mlx_patch.cli._output import Output
from mlx_patch.results import CellResult, Peak

_SHOWN = 5
"""Cells that the text of a result names."""


def write_result(result: CellResult, text: str, output: Output) -> None:
    """Print the text of a result, and write the result where it is wanted.

    Args:
        result: The result.
        text: Its `result_text`.
        output: Where it is wanted.
    Raises:
        FileError: It cannot be written.
        ValueRefusedError: It has no figure.
    """
    output.write_json(result.to_json())
    if output.save is not None:
        result.save(output.save)
    if output.html is not None:
        result.to_html(output.html)
    if output.plot is not None:
        output.write_plot(result.plot(metric=next(iter(result.metrics), None)))
    output.print(text)


def result_text(result: CellResult) -> str:
    """A result with its strongest cells."""
    lines = [repr(result)]
    for metric in result.metrics or (None,):
        lines.append(f"strongest by {metric or 'value'}:")
        if np.isfinite(result.of_metric(metric).mean()).any():
            lines += [_peak_text(peak) for peak in result.peaks(_SHOWN, metric)]
    return "\n".join(lines)


def _peak_text(peak: Peak) -> str:
    return f"  {peak.effect:>+10.4g}  {peak}"
