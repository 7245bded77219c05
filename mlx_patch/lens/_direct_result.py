"""`DirectLogits`: what each part of the stream adds to a logit, or to the difference of two."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from typing_extensions import override

from mlx_patch import arguments
from mlx_patch.errors import SelectionError
from mlx_patch.files import text_written
from mlx_patch.lens._pages import direct_page
from mlx_patch.plot import PageAxis, frame_height, html_frame

_SHOWN = 5
"""Parts beside the cells that a printed result names."""


@dataclass(frozen=True, eq=False, repr=False)
class DirectLogits:
    """Parts of the stream, each with what it adds to a logit. `mp.lens.direct_logits` makes it.

    Attributes:
        by: What the parts are: "part", "head", "neuron" or "source".
        values: What each cell adds. Shape `(*axes, example)`: `(layer, head, example)` by head, say. NaN where a layer
            has fewer heads or neurons than another.
        axes: The names of the axes of `values` but the last.
        coords: The coordinates along each of them.
        remainder: What else there is, by name. Shape `(example,)` each: embedding, MLPs, biases.
        logit: The logit, or the difference of two, before the model's scale and caps. Shape `(example,)`.
        scale: What the model multiplies its logits with, before any cap.
        answer: What it is of, in words.
    """

    by: str
    values: np.ndarray
    axes: tuple[str, ...]
    coords: Mapping[str, tuple]
    remainder: Mapping[str, np.ndarray]
    logit: np.ndarray
    scale: float
    answer: str

    @property
    def total(self) -> np.ndarray:
        """The sum of all parts and of the remainder: `logit`, but for rounding. Shape `(example,)`."""
        of_cells = np.nansum(self.values.reshape(-1, self.values.shape[-1]).astype(np.float64), axis=0)
        return of_cells + sum(array.astype(np.float64) for array in self.remainder.values())

    def mean(self) -> np.ndarray:
        """The mean of `values` over examples. Shape `(*axes,)`."""
        return self.values.mean(axis=-1)

    def strongest(self, k: int = 10) -> list[tuple[dict[str, Any], float]]:
        """The cells that add or take away most, by their mean over examples: coordinates and what they add.

        Raises:
            SelectionError: `k` is below 1.
        """
        k = arguments.whole_number("k", k, 1, error=SelectionError)
        means = self.mean()
        order = np.argsort(-np.abs(np.nan_to_num(means)), axis=None)[:k]
        cells = [np.unravel_index(number, means.shape) for number in order]
        return [(self._coordinates(cell), float(means[tuple(cell)])) for cell in cells]

    def to_html(self, path: str | os.PathLike[str] | None = None) -> str:
        """The parts as one HTML page, which loads nothing: what each adds where one points, and the strongest as text.

        Of more than 20,000 parts, such as neurons, it has the 50 strongest alone.

        Args:
            path: Where to write it as well, whole or not at all; None writes nothing.
        Raises:
            FileError: `path` cannot be written to.
        """
        names = [", ".join(f"{axis} {place}" for axis, place in where.items()) for where, _ in self.strongest(50)]
        strongest = [[name, f"{value:.4g}"] for name, (_, value) in zip(names, self.strongest(50), strict=True)]
        means = {name: float(array.mean()) for name, array in self.remainder.items()}
        axes = [PageAxis(axis, list(map(str, self.coords[axis])), ordered=axis == "layer") for axis in self.axes]
        return text_written(direct_page(axes, self.values, self.answer, str(self), strongest, means), path)

    def _repr_html_(self) -> str:
        return html_frame(self.to_html(), frame_height(len(self.coords[self.axes[0]])))

    def _coordinates(self, cell: Sequence[Any]) -> dict[str, Any]:
        return {axis: self.coords[axis][int(index)] for axis, index in zip(self.axes, cell, strict=True)}

    @override
    def __repr__(self) -> str:
        shape = " x ".join(f"{size} {axis}s" for size, axis in zip(self.values.shape, self.axes, strict=False))
        return f"DirectLogits(by {self.by}: {shape}, {self.answer})"

    @override
    def __str__(self) -> str:
        lines = [f"{self.answer}: {self.logit.mean():.3f} before scale and caps, of which"]
        for coordinates, value in self.strongest():
            name = ", ".join(f"{axis} {coordinate}" for axis, coordinate in coordinates.items())
            lines.append(f"  {value:>9.3f}  {name}")
        means = {name: float(array.mean()) for name, array in self.remainder.items()}
        named = sorted(means, key=lambda name: -abs(means[name]))[:_SHOWN]
        lines += [f"  {means[name]:>9.3f}  {name}" for name in named]
        unnamed = [mean for name, mean in means.items() if name not in named]
        if unnamed:
            lines.append(f"  {sum(unnamed):>9.3f}  {len(unnamed)} other parts")
        return "\n".join(lines)
