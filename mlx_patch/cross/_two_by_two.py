"""`two_by_two`: whose earlier layers, and whose later ones? Four runs a layer, and what each half contributes."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from typing_extensions import override

from mlx_patch.cross._patch import cross_patch
from mlx_patch.errors import KindError, ShapeError, ValueRefusedError
from mlx_patch.model import HookedModel, require_hooked
from mlx_patch.positions import Alignment
from mlx_patch.results import SweepResult


@dataclass(frozen=True, eq=False)
class TwoByTwo:
    """A metric with the earlier state of one of two models and the later layers of one, for each layer between.

    `cells[i, early, late]`: `early` made the stream that leaves layer `layers[i]`, and `late` reads it, with its own
    layers above and its own unembedding. 0 is the base, 1 the other model.

    Attributes:
        layers: Where the two halves meet.
        cells: In the metric's unit, float32. Shape `(layer, early, late, example)`.
        metric: What was measured, in words.
    Source:
        Zhou 2026, https://arxiv.org/abs/2605.07284, for the interaction of upstream state and late stack.
    """

    layers: tuple[int, ...]
    cells: np.ndarray
    metric: str

    def __post_init__(self) -> None:
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
        for result in (into_base, into_other):
            if result.axes != ("layer", "example"):
                raise KindError(
                    f"`over` must be 'layer', and one metric. Got {result.axes}. Take result.of_metric(name)."
                )
            _refuse_other_patches(result)
        _refuse_other_source("into_base", into_base, "into_other", into_other)
        _refuse_other_source("into_other", into_other, "into_base", into_base)
        metrics = [", ".join(map(str, result.metrics)) for result in (into_base, into_other)]
        if metrics[0] != metrics[1]:
            raise ValueRefusedError(
                f"`into_other` must measure {metrics[0]}, as `into_base`. Got {metrics[1]}. Where they "
                "differ in position alone, give both one name=."
            )
        if into_base.coords["layer"] != into_other.coords["layer"] or into_base.values.shape != into_other.values.shape:
            raise ShapeError("`into_other` must have the layers and examples of `into_base`. Sweep the same.")
        n = len(into_base.coords["layer"])
        base, other = (np.repeat(result.baseline[None], n, axis=0) for result in (into_base, into_other))
        cells = np.stack(
            [np.stack([base, into_other.values], axis=1), np.stack([into_base.values, other], axis=1)], axis=1
        )
        return cls(tuple(into_base.coords["layer"]), cells.astype(np.float32), metrics[0])

    @property
    def early(self) -> np.ndarray:
        """What the other model's earlier state adds, over both later halves. Shape `(layer, example)`."""
        return (self.cells[:, 1] - self.cells[:, 0]).mean(axis=1)

    @property
    def late(self) -> np.ndarray:
        """What the other model's later layers add, over both earlier states. Shape `(layer, example)`."""
        return (self.cells[:, :, 1] - self.cells[:, :, 0]).mean(axis=1)

    @property
    def interaction(self) -> np.ndarray:
        """How much more its later layers add on its own earlier state than on the base's. Shape `(layer, example)`."""
        late = self.cells[:, :, 1] - self.cells[:, :, 0]
        return late[:, 1] - late[:, 0]

    def as_dict(self) -> dict[str, Any]:
        """Means over examples, for JSON: by layer the four cells, both effects and the interaction."""
        names = {"base_base": (0, 0), "base_other": (0, 1), "other_base": (1, 0), "other_other": (1, 1)}
        effects = {"early": self.early, "late": self.late, "interaction": self.interaction}
        return {
            str(layer): {
                **{name: float(self.cells[i][at].mean()) for name, at in names.items()},
                **{name: float(values[i].mean()) for name, values in effects.items()},
            }
            for i, layer in enumerate(self.layers)
        }

    @override
    def __str__(self) -> str:
        head = ("layer", "base>base", "base>other", "other>base", "other>other", "early", "late", "interaction")
        rows = [(str(layer), *(f"{x:+.4f}" for x in row.values())) for layer, row in self.as_dict().items()]
        widths = [max(len(row[c]) for row in (head, *rows)) for c in range(len(head))]
        lines = ["  ".join(cell.rjust(w) for cell, w in zip(row, widths, strict=True)) for row in (head, *rows)]
        return "\n".join([f"{self.metric}, earlier state > later layers", *lines])


def _refuse_other_patches(result: SweepResult) -> None:
    """Refuse sweeps that do not hand the later layers a whole state of a run, and nothing else."""
    about = result.provenance
    if about.get("at") != ["resid_post"] or not _sources(result):
        at = ", ".join(map(str, about.get("at", ())))
        raise KindError(
            "`into_base` and `into_other` must replace resid_post, one layer a cell and whole, by a run's own "
            f"activations, and do nothing else. Got {about.get('intervention')} at {at}. Write mp.Replace(cache), and "
            "leave `at`, `alpha`, `neurons`, groups of layers, `layer_map` and `linear_map` out."
        )


def _sources(result: SweepResult) -> list[dict[str, Any]]:
    """Whose activations a sweep put in, where it did nothing else and says so."""
    sources = result.provenance.get("sources")
    return sources if isinstance(sources, list) and all(map(_is_source, sources)) else []


def _is_source(source: object) -> bool:
    said = source if isinstance(source, dict) else {}
    return isinstance(said.get("model"), dict) and isinstance(said.get("tokens"), list)


def _refuse_other_source(name: str, patched: SweepResult, other_name: str, other: SweepResult) -> None:
    """Refuse a sweep whose values come from another run than the other sweep's unpatched one.

    Folders are no part of what a model is: it may have been captured elsewhere.
    """
    sources, about = _sources(patched), other.provenance
    rows, prompts = [row for source in sources for row in source["tokens"]], about.get("tokens", [])
    if rows * (len(prompts) if len(rows) == 1 else 1) != prompts:
        raise ValueRefusedError(
            f"`{name}` must be patched from the prompt of `{other_name}`. Got another prompt's activations. "
            "Capture and sweep the same two prompts."
        )
    for source in sources:
        theirs = {part: value for part, value in about.get("model", {}).items() if part != "name"}
        apart = [part for part, value in theirs.items() if source["model"].get(part) != value]
        if apart:
            raise ValueRefusedError(
                f"`{name}` must be patched from the model of `{other_name}`. Got one of another "
                f"{' and '.join(apart)}. Sweep the two models that were patched into each other."
            )


def two_by_two(
    base: HookedModel,
    other: HookedModel,
    tokens: Any,
    metric: object,
    *,
    other_tokens: Any = None,
    alignment: Alignment | None = None,
    **choices: Any,
) -> TwoByTwo:
    """Whose earlier state and whose later layers make a behaviour, for two models of one architecture.

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
    if alignment is not None and choices.get("positions") is not None:
        raise ValueRefusedError(
            f"`positions` must be None with an alignment. Got {choices['positions']!r}, which means another place "
            "in each prompt. Use TwoByTwo.of(cross_patch(...), cross_patch(...)), each with its own positions."
        )
    theirs = tokens if other_tokens is None else other_tokens
    there = None if alignment is None else alignment.inverse
    into_base = cross_patch(
        base, other, tokens, over="layer", metric=metric, donor_tokens=other_tokens, alignment=there, **choices
    )
    into_other = cross_patch(
        other,
        base,
        theirs,
        over="layer",
        metric=metric,
        donor_tokens=None if other_tokens is None else tokens,
        alignment=alignment,
        **choices,
    )
    return TwoByTwo.of(into_base, into_other)
