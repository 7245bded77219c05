"""`two_by_two`: the contributions of two models' earlier and later layers, from four runs per layer."""

import os
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np
from typing_extensions import override

from mlx_patch import arguments
from mlx_patch.cross._contributions import HALVES, cells_frame, contributions_page, draw_contributions
from mlx_patch.cross._patch import cross_patch
from mlx_patch.errors import FileError, KindError, PatchError, ShapeError, ValueRefusedError, shown
from mlx_patch.files import Format, clause_of, read_archive, text_written, write_archive
from mlx_patch.model import HookedModel, require_hooked
from mlx_patch.plot import frame_height, html_frame
from mlx_patch.positions import Alignment
from mlx_patch.results import SweepResult, range_text, short_metric
from mlx_patch.sweeps import CrossChoices

if TYPE_CHECKING:
    import matplotlib.axes
    import pandas

_FORMAT = Format("mlx_patch.TwoByTwo", 1)


@dataclass(frozen=True, eq=False)
class TwoByTwo:
    """A metric for the earlier state of either model with the later layers of either, at each layer.

    `cells[i, early, late]`: `early` made the stream that leaves layer `layers[i]`, and `late` reads it, with its own
    layers above and its own unembedding. 0 is the base, 1 the other model.

    Attributes:
        layers: Where the two halves meet.
        cells: In the metric's unit, float32. Shape `(layer, early, late, example)`.
        metric: The name of the metric.
    Source:
        Zhou 2026, https://arxiv.org/abs/2605.07284, for the interaction of upstream state and late stack.
    """

    layers: tuple[int, ...]
    cells: np.ndarray
    metric: str

    def __post_init__(self) -> None:
        arguments.string("metric", self.metric)
        object.__setattr__(self, "layers", arguments.whole_numbers("layers", self.layers, "a tuple of layers"))
        object.__setattr__(self, "cells", arguments.numpy_array("cells", self.cells))
        if self.cells.ndim != 4 or self.cells.shape[:3] != (len(self.layers), 2, 2):
            raise ShapeError(f"`cells` must have the shape (layer, 2, 2, example). Got {self.cells.shape}.")

    @classmethod
    def of(cls, into_base: SweepResult, into_other: SweepResult) -> "TwoByTwo":
        """The four cells of two sweeps over layers: the other's stream put into the base, and the base's into it.

        Raises:
            KindError: They are not over single layers alone, of more than one metric, or not of the whole stream
                replaced by a run's own.
            ShapeError: They differ in layers or examples.
            ValueRefusedError: They measured different things, or the one was not patched from a run of the other.
        """
        for name, result in (("into_base", into_base), ("into_other", into_other)):
            arguments.instance(name, result, SweepResult, "Write mp.cross_patch(...).")
        _refuse_other_patches(into_base)
        _refuse_other_patches(into_other)
        _refuse_other_source("into_base", into_base, "into_other", into_other)
        _refuse_other_source("into_other", into_other, "into_base", into_base)
        metric = _refuse_other_metric(into_base, into_other)
        layers = into_base.coords["layer"]
        if into_other.coords["layer"] != layers or into_other.values.shape != into_base.values.shape:
            raise ShapeError("`into_other` must have the layers and examples of `into_base`. Sweep the same ones.")
        base_base = np.broadcast_to(into_base.baseline, into_base.values.shape)
        other_other = np.broadcast_to(into_other.baseline, into_other.values.shape)
        # The base's earlier state in the other model's later layers is what `into_other` measured, and vice versa.
        early_base = np.stack([base_base, into_other.values], axis=1)
        early_other = np.stack([into_base.values, other_other], axis=1)
        cells = np.stack([early_base, early_other], axis=1)
        return cls(tuple(layers), cells.astype(np.float32), metric)

    @property
    def early(self) -> np.ndarray:
        """The effect of the other model's earlier state, averaged over both later halves. Shape `(layer, example)`."""
        return (self.cells[:, 1] - self.cells[:, 0]).mean(axis=1)

    @property
    def late(self) -> np.ndarray:
        """The effect of the other model's later layers, averaged over both earlier states. Shape `(layer, example)`."""
        return (self.cells[:, :, 1] - self.cells[:, :, 0]).mean(axis=1)

    @property
    def interaction(self) -> np.ndarray:
        """How much more its later layers add on its own earlier state than on the base's. Shape `(layer, example)`."""
        late = self.cells[:, :, 1] - self.cells[:, :, 0]
        return late[:, 1] - late[:, 0]

    @property
    def _effects(self) -> dict[str, np.ndarray]:
        return {"early": self.early, "late": self.late, "interaction": self.interaction}

    def as_dict(self) -> dict[str, Any]:
        """Means over examples, for JSON: by layer the four cells, both effects and the interaction."""
        arrays = {
            "base_base": self.cells[:, 0, 0],
            "base_other": self.cells[:, 0, 1],
            "other_base": self.cells[:, 1, 0],
            "other_other": self.cells[:, 1, 1],
            **self._effects,
        }
        rows = {}
        for i, layer in enumerate(self.layers):
            rows[str(layer)] = {name: float(array[i].mean()) for name, array in arrays.items()}
        return rows

    def to_pandas(self) -> "pandas.DataFrame":
        """One row per layer, halves and example: `layer`, `early` and `late` ("base" or "other"), `example`, `value`.

        Raises:
            MissingExtraError: pandas is not installed.
        """
        return cells_frame(self.layers, self.cells)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write an `.npz` file, whole or not at all. `numpy.load` reads `cells`; the rest is JSON in `about.json`.

        Raises:
            FileError: `path` cannot be written to, or does not end in `.npz`.
        """
        about = {**_FORMAT.entry, "layers": list(self.layers), "metric": self.metric}
        write_archive(path, about, {"cells": self.cells})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "TwoByTwo":
        """Read what `save` wrote.

        Raises:
            FileError: There is no such file, or it is damaged, of another kind, or of another version.
        """
        about, arrays = read_archive(path, "TwoByTwo.save", _FORMAT, ["cells"])
        fields: list[Any] = [about.get("layers"), arrays.get("cells"), about.get("metric")]
        try:
            return cls(*fields)
        except PatchError as error:
            reason = clause_of(error).rstrip(".")
            raise FileError(
                f"`path` must be a file that TwoByTwo.save wrote. Got {path}, which is inconsistent: {reason}."
            ) from error

    def plot(self, ax: Any = None) -> "matplotlib.axes.Axes":
        """Both effects and the interaction over layers, with 95% intervals where there are two examples or more.

        Args:
            ax: Where to draw; by default on a new figure.
        Raises:
            MissingExtraError: matplotlib is not installed.
        """
        title = "the other model's earlier state, and its later layers"
        return draw_contributions(self.layers, self._effects, f"change of {self._short_metric}", title, ax)

    def to_html(self, path: str | os.PathLike[str] | None = None) -> str:
        """The four cells, both effects and the interaction as one HTML page, which loads nothing.

        Args:
            path: Where to write it as well, whole or not at all; None writes nothing.
        Raises:
            FileError: `path` cannot be written to.
        """
        cells = {
            f"{early}'s earlier state, {late}'s later layers": self.cells[:, i, j]
            for (i, early), (j, late) in product(enumerate(HALVES), enumerate(HALVES))
        }
        effects = {f"effect: {name}": array for name, array in self._effects.items()}
        page = contributions_page(self.layers, effects | cells, f"TwoByTwo of {self._short_metric}", str(self))
        return text_written(page, path)

    def _repr_html_(self) -> str:
        return html_frame(self.to_html(), frame_height(12 + len(self.layers)))

    @property
    def _short_metric(self) -> str:
        return short_metric([self.metric], "metric")

    @override
    def __repr__(self) -> str:
        layers = range_text("layer", self.layers)
        n_examples = self.cells.shape[-1]
        return f"TwoByTwo({self._short_metric}, {layers}, {n_examples} examples)"

    @override
    def __str__(self) -> str:
        head = ("layer", "base>base", "base>other", "other>base", "other>other", "early", "late", "interaction")
        table: list[tuple[str, ...]] = [head]
        for layer, means in self.as_dict().items():
            numbers = [f"{mean:+.4f}" for mean in means.values()]
            table.append((layer, *numbers))
        columns = zip(*table, strict=True)
        widths = [max(map(len, column)) for column in columns]
        lines = [f"{self.metric}, earlier state > later layers"]
        for row in table:
            cells = [cell.rjust(width) for cell, width in zip(row, widths, strict=True)]
            lines.append("  ".join(cells))
        return "\n".join(lines)


def _refuse_other_patches(result: SweepResult) -> None:
    """Refuse a sweep that does anything but pass a run's whole state to the later layers."""
    if result.axes != ("layer", "example"):
        raise KindError(
            f"`over` must be 'layer' alone, with one metric. Got {result.axes}. Choose one with result.of_metric(name)."
        )
    provenance = result.provenance
    if provenance.get("at") != ["resid_post"] or not _sources(result):
        at = ", ".join(map(str, provenance.get("at", ())))
        raise KindError(
            "`into_base` and `into_other` must replace the whole resid_post, one layer per cell, with a run's own "
            f"activations. Got {provenance.get('intervention')} at {at}. Write mp.Replace(cache), without `at`, "
            "`alpha`, `neurons`, groups of layers, `layer_map` or `linear_map`."
        )


def _sources(result: SweepResult) -> list[dict[str, Any]]:
    """The runs whose activations a sweep put in; none if it did anything else."""
    sources = result.provenance.get("sources")
    if not isinstance(sources, list) or not all(map(_is_source, sources)):
        return []
    return sources


def _is_source(source: object) -> bool:
    if not isinstance(source, dict):
        return False
    return isinstance(source.get("model"), dict) and isinstance(source.get("tokens"), list)


def _refuse_other_source(name: str, patched: SweepResult, other_name: str, unpatched: SweepResult) -> None:
    """Refuse a sweep whose values come from another run than the unpatched run of the other sweep."""
    sources = _sources(patched)
    rows = [row for source in sources for row in source["tokens"]]
    prompts = unpatched.provenance.get("tokens", [])
    if len(rows) == 1:  # one prompt's activations serve every example
        rows = rows * len(prompts)
    if rows != prompts:
        raise ValueRefusedError(
            f"`{name}` must be patched from the prompt of `{other_name}`. Got another prompt's activations. "
            "Capture and sweep the same two prompts."
        )
    identity = dict(unpatched.provenance.get("model", {}))
    identity.pop("name", None)  # the folder, which does not make it another model
    for source in sources:
        differences = [key for key, value in identity.items() if source["model"].get(key) != value]
        if differences:
            raise ValueRefusedError(
                f"`{name}` must be patched from the model of `{other_name}`. Got one of another "
                f"{' and '.join(differences)}. Sweep the two models that were patched into each other."
            )


def _refuse_other_metric(into_base: SweepResult, into_other: SweepResult) -> str:
    """Refuse results of two metrics; returns the name of the one that they share."""
    metric = ", ".join(map(str, into_base.metrics))
    other_metric = ", ".join(map(str, into_other.metrics))
    if metric != other_metric:
        raise ValueRefusedError(
            f"`into_other` must measure {metric}, like `into_base`. Got {other_metric}. If only the position differs, "
            "give both metrics the same name=."
        )
    return metric


def two_by_two(
    base: HookedModel,
    other: HookedModel,
    tokens: Any,
    metric: object,
    *,
    other_tokens: Any = None,
    alignment: Alignment | None = None,
    **choices: Unpack[CrossChoices],
) -> TwoByTwo:
    """The contributions of earlier state and later layers to a behaviour, for two models of one architecture.

    Two sweeps and their unpatched runs give all four cells. With an alignment, or with `positions`, the earlier state
    is handed over at those positions alone: the others keep the stream of the model whose prompt is run.

    Args:
        base: One model.
        other: The other, made from it.
        tokens: The base's prompt.
        metric: One metric.
        other_tokens: The other's prompt, where it differs.
        alignment: `mp.align(tokens, other_tokens)`, where lengths differ.
        choices: More for `sweep`: `layers`, `positions`, `executor` ...
    Raises:
        KindError: `at` is not the stream after a block, or `alpha` not 1.
        ValueRefusedError: Positions are chosen in two prompts at once.
        PatchError: As `cross_patch`.
    Source:
        Zhou 2026, https://arxiv.org/abs/2605.07284; Prakash et al. 2024, https://arxiv.org/abs/2402.14811.
    """
    require_hooked("base", base)
    require_hooked("other", other)
    positions = choices.get("positions")
    if alignment is not None:
        arguments.instance("alignment", alignment, Alignment, "Use `mp.align`.")
    if alignment is not None and positions is not None:
        raise ValueRefusedError(
            f"`positions` must be None with an alignment. Got {shown(positions)}, which is a different place in each "
            "prompt. Use TwoByTwo.of(cross_patch(...), cross_patch(...)), each with its own positions."
        )
    inverse = None
    if alignment is not None:
        inverse = alignment.inverse
    into_base = cross_patch(
        base, other, tokens, over="layer", metric=metric, donor_tokens=other_tokens, alignment=inverse, **choices
    )
    base_tokens = tokens
    if other_tokens is None:
        other_tokens, base_tokens = tokens, None  # both models read the same prompt
    into_other = cross_patch(
        other, base, other_tokens, over="layer", metric=metric, donor_tokens=base_tokens, alignment=alignment, **choices
    )
    return TwoByTwo.of(into_base, into_other)
