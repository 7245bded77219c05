"""What a cache of activations holds, in words and as the body of a page."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import mlx.core as mx

from mlx_patch.plot import html_table
from mlx_patch.sites import Site

_NAMED = 6
"""How many sites a line of text names."""


@dataclass(frozen=True)
class Holding:
    """One site of a cache.

    Attributes:
        name: The site's short name, or the path of a module.
        layers: The layers, in words; empty for a site of no layer.
        shape: The shape of its arrays, in words: that of the first, and how many others there are.
        dtype: Their dtype.
        n_bytes: How many bytes they take together.
    """

    name: str
    layers: str
    shape: str
    dtype: str
    n_bytes: int


def holdings_of(activations: Mapping[Site, mx.array]) -> list[Holding]:
    """The sites of a cache with what is held of each, in the order in which they were captured."""
    by_name: dict[str, dict[Site, mx.array]] = {}
    for site, array in activations.items():
        by_name.setdefault(site.name, {})[site] = array
    return [_holding(name, arrays) for name, arrays in by_name.items()]


def _holding(name: str, arrays: Mapping[Site, mx.array]) -> Holding:
    layers = sorted(site.layer for site in arrays if site.layer is not None)
    shapes = list(dict.fromkeys(array.shape for array in arrays.values()))
    shape = str(shapes[0])
    if len(shapes) > 1:
        shape += f" and {len(shapes) - 1} more"
    dtypes = dict.fromkeys(str(array.dtype).removeprefix("mlx.core.") for array in arrays.values())
    return Holding(name, ranges_text(layers), shape, ", ".join(dtypes), sum(array.nbytes for array in arrays.values()))


def cache_text(activations: Mapping[Site, mx.array], positions: Sequence[int], n_positions: int, n_prompts: int) -> str:
    """A cache in one line: sites with their layers, prompts, positions and bytes."""
    holdings = holdings_of(activations)
    names = [f"{holding.name} {holding.layers}".rstrip() for holding in holdings[:_NAMED]]
    if len(holdings) > _NAMED:
        names.append(f"{len(holdings) - _NAMED} more sites")
    phrases = [", ".join(names) or "nothing"]
    if n_prompts > 1:
        phrases.append(f"{n_prompts} prompts")
    phrases.append(f"positions {ranges_text(positions) or 'none'} of {n_positions}")
    phrases.append(bytes_text(sum(holding.n_bytes for holding in holdings)))
    return f"ActivationCache({'; '.join(phrases)})"


def cache_table(activations: Mapping[Site, mx.array]) -> str:
    """A table of a cache's sites, as HTML."""
    rows = []
    for holding in holdings_of(activations):
        rows.append([holding.name, holding.layers, holding.shape, holding.dtype, bytes_text(holding.n_bytes)])
    return html_table(["site", "layers", "shape", "dtype", "size"], rows)


def ranges_text(numbers: Iterable[int]) -> str:
    """Rising numbers in words, with runs of them drawn together.

    Example:
        >>> ranges_text(range(30)), ranges_text([0, 1, 2, 5, 8, 9]), ranges_text([7])
        ('0-29', '0-2, 5, 8-9', '7')
    """
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)


def bytes_text(n_bytes: int) -> str:
    """A number of bytes in words.

    Example:
        >>> bytes_text(512), bytes_text(1_250_000), bytes_text(3_000_000_000)
        ('512 bytes', '1.2 MB', '3.0 GB')
    """
    size, unit = float(n_bytes), "bytes"
    for larger in ("kB", "MB", "GB", "TB"):
        if size < 1000:
            break
        size, unit = size / 1000, larger
    if unit == "bytes":
        return f"{n_bytes} bytes"
    return f"{size:.1f} {unit}"
