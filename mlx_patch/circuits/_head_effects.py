"""`head_effects`: for each head, what it writes to the logits, what that does, and what it does in all."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from typing_extensions import override

from mlx_patch import arguments
from mlx_patch.cache import ActivationCache
from mlx_patch.errors import SelectionError
from mlx_patch.files import text_written
from mlx_patch.interventions import Receiver, Replace
from mlx_patch.lens import direct_logits
from mlx_patch.metrics import Answers, LogitDiff
from mlx_patch.model import HookedModel, require_hooked
from mlx_patch.plot import PageAxis, axes_of, cells_data, cells_page, frame_height, html_frame
from mlx_patch.sweeps import sweep

if TYPE_CHECKING:
    import matplotlib.axes

_KINDS = ("attributed", "direct", "total")
_LABELLED = 8
"""Heads whose names are drawn."""


@dataclass(frozen=True, eq=False, repr=False)
class HeadEffects:
    """Three effects of putting a head's `z` of the source into the host. Each of shape `(layer, head, example)`.

    Attributes:
        layers: The layers.
        attributed: By direct logit attribution: what the head writes to the difference of logits in the source's run,
            less what it writes in the host's, each with the final norm's scale of its run.
        direct: Exact: the metric's change where only the logits read the head's change.
        total: Exact: the metric's change where all that follows reads it.
        baseline: The metric of the host. Shape `(example,)`.
    """

    layers: tuple[int, ...]
    attributed: np.ndarray
    direct: np.ndarray
    total: np.ndarray
    baseline: np.ndarray

    def strongest(self, k: int = 10, by: str = "total") -> list[tuple[int, int]]:
        """The heads with the largest mean effect of a kind: layer and head.

        Args:
            k: How many.
            by: "attributed", "direct" or "total".
        Raises:
            SelectionError: `by` is none of them, or `k` is below 1.
        """
        by = arguments.choice("by", by, _KINDS, error=SelectionError)
        k = arguments.whole_number("k", k, 1, error=SelectionError)
        sizes = np.abs(getattr(self, by).mean(axis=-1))
        order = np.argsort(-sizes, axis=None)[:k]
        rows, heads = np.unravel_index(order, sizes.shape)
        return [(self.layers[row], int(head)) for row, head in zip(rows, heads, strict=True)]

    def plot(self, ax: Any = None) -> "matplotlib.axes.Axes":
        """Total effects against direct ones, a point a head, the strongest with names; attributed ones as circles.

        On the diagonal, a head works by writing to the logits. Off it, others read it, or make up for it. A circle is
        off its point where the final norm's scale changes with the head.

        Args:
            ax: Where to draw; by default on a new figure.
        Raises:
            MissingExtraError: matplotlib is not installed.
        """
        axes = axes_of(ax, 5.2, 4.6)
        attributed, direct, total = (getattr(self, kind).mean(axis=-1) for kind in _KINDS)
        limit = 1.1 * max(np.abs(direct).max(), np.abs(total).max())
        axes.plot([-limit, limit], [-limit, limit], color="0.4", linestyle="dashed", linewidth=0.8, label="equal")
        axes.scatter(direct, total, s=14, alpha=0.7, label="direct, exact")
        axes.scatter(attributed, total, s=34, facecolors="none", edgecolors="C1", linewidths=0.8, label="attributed")
        for rank, (layer, head) in enumerate(self.strongest(_LABELLED)):
            place = self.layers.index(layer), head
            offset = (4, 3) if rank % 2 else (-4, -10)
            axes.annotate(
                f"{layer}.{head}", (direct[place], total[place]), offset, textcoords="offset points", fontsize=8
            )
        axes.axhline(0, color="0.85", linewidth=0.8, zorder=0)
        axes.axvline(0, color="0.85", linewidth=0.8, zorder=0)
        axes.set_xlabel("direct effect: only the logits read the head (nats)")
        axes.set_ylabel("total effect: all that follows reads it (nats)")
        axes.legend(fontsize="small")
        return axes

    def to_html(self, path: str | os.PathLike[str] | None = None) -> str:
        """The three effects as one HTML page, which loads nothing: a heatmap of layers and heads for each.

        Args:
            path: Where to write it as well, whole or not at all; None writes nothing.
        Raises:
            FileError: `path` cannot be written to.
        """
        layers = PageAxis("layer", list(map(str, self.layers)))
        heads = PageAxis("head", list(map(str, range(self.total.shape[1]))))
        values = np.stack([getattr(self, kind) for kind in ("total", "direct", "attributed")], axis=2)
        names = ["total effect", "direct effect", "attributed effect"]
        data = cells_data([layers, heads], values, names)
        return text_written(cells_page("HeadEffects", f"{self!r}\n{self}", data), path)

    def _repr_html_(self) -> str:
        return html_frame(self.to_html(), frame_height(len(self.layers) + 12))

    @override
    def __repr__(self) -> str:
        return f"HeadEffects({len(self.layers)} layers, {self.total.shape[1]} heads, {self.total.shape[2]} examples)"

    @override
    def __str__(self) -> str:
        lines = [f"{'head':<8}{'attributed':>12}{'direct':>10}{'total':>10}"]
        means = {kind: getattr(self, kind).mean(axis=-1) for kind in _KINDS}
        for layer, head in self.strongest():
            place = self.layers.index(layer), head
            attributed, direct, total = (means[kind][place] for kind in _KINDS)
            lines.append(f"{f'{layer}.{head}':<8}{attributed:>12.3f}{direct:>10.3f}{total:>10.3f}")
        return "\n".join(lines)


def head_effects(
    model: HookedModel,
    tokens: Any,
    source: ActivationCache,
    answer: Answers,
    foil: Answers,
    layers: Sequence[int] | None = None,
    freeze: str = "all",
) -> HeadEffects:
    """For each head: what it writes to a difference of logits, its exact direct effect, and its total effect.

    The three differ where later layers read a head, and where others make up for it. Two sweeps and two runs.

    Args:
        model: The model.
        tokens: The host: a text, a chat, or token ids of shape `(batch, pos)`.
        source: Activations of the source at `z`, of the same shape.
        answer: A string of one token or a token id; or one for each prompt.
        foil: The token whose logit is taken away.
        layers: The layers; None is all that have heads.
        freeze: What is frozen on direct paths, as in `sweep`: "all", or "attention".
    Raises:
        ArchitectureError: The model's logits are no sum over its heads; `sweep` still gives direct and total effects.
        PatchError: As `sweep` and `mp.lens.direct_logits` say.
    Source:
        Wang et al. 2022, https://arxiv.org/abs/2211.00593, section 3, for direct effects; McGrath et al. 2023,
        https://arxiv.org/abs/2307.15771, for why they are not the total ones.
    """
    model = require_hooked("model", model)
    arguments.instance("source", source, ActivationCache, "Capture it: `model.run_with_cache(tokens, 'z')`.")
    layers = arguments.chosen_numbers("layers", layers)
    written = [direct_logits(model, prompts, answer, foil, by="head") for prompts in (source.tokens, tokens)]
    ask: dict[str, Any] = {
        "at": "z",
        "over": ("layer", "head"),
        "metric": LogitDiff(answer, foil),
        "layers": layers,
        "progress": False,
    }
    total = sweep(model, tokens, Replace(source), **ask)
    direct = sweep(model, tokens, Replace(source), via=Receiver("logits"), freeze=freeze, **ask)
    chosen = [int(layer) for layer in total.coords["layer"]]
    rows = [written[0].coords["layer"].index(layer) for layer in chosen]
    attributed = (written[0].values - written[1].values)[rows]
    return HeadEffects(
        tuple(chosen),
        attributed,
        direct.values - direct.baseline,
        total.values - total.baseline,
        total.baseline,
    )
