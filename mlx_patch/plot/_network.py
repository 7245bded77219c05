"""Networks of labelled nodes in rows, with links between them by strength and sign."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from mlx_patch.errors import ValueRefusedError
from mlx_patch.plot._figure import axes_of
from mlx_patch.plot._text import SIZE

if TYPE_CHECKING:
    import matplotlib.axes

MORE, LESS = "#b2182b", "#2166ac"
"""Red and blue, which are told apart by the colour-blind."""

LineStyle = Literal["solid", "dashed", "dotted", "none"]
"""The kind of a link. A link of "none" has no value: a thin grey line."""

_COLUMN, _ROW = 0.95, 0.62
"""The place of a node, in inches."""


@dataclass(frozen=True)
class NetworkNode:
    """A node.

    Attributes:
        name: What is written in it.
        x: Its column, or a number between two columns.
        y: Its row, upwards.
    """

    name: str
    x: float
    y: float


@dataclass(frozen=True)
class NetworkLink:
    """A link from one node to another.

    Attributes:
        start: The index of the node that it leads from.
        end: The index of the node that it leads to.
        value: Its strength and sign.
        style: Its kind.
        name: What it is called.
    """

    start: int
    end: int
    value: float
    style: LineStyle
    name: str


@dataclass(frozen=True)
class Network:
    """Nodes and links.

    Attributes:
        nodes: The nodes.
        links: The links between them.
        rows: The label of each row, by its number.
        styles: What each style of link stands for.
        title: Above the plot.
    """

    nodes: Sequence[NetworkNode]
    links: Sequence[NetworkLink]
    rows: Mapping[float, str]
    styles: Mapping[LineStyle, str]
    title: str

    def __post_init__(self) -> None:
        if not self.nodes:
            raise ValueRefusedError("`nodes` must not be empty. Got none. Choose more edges.")

    @property
    def widest(self) -> float:
        """The strength of the strongest link; 1 where all are 0."""
        return max((abs(link.value) for link in self.links), default=0.0) or 1.0

    @property
    def spans(self) -> tuple[float, float, float, float]:
        """The first and last column, and the first and last row."""
        columns, rows = [node.x for node in self.nodes], [node.y for node in self.nodes]
        return min(columns), max(columns), min(rows), max(rows)

    def from_weakest(self) -> list[NetworkLink]:
        """The links from the weakest to the strongest, which is drawn over the others."""
        return sorted(self.links, key=lambda link: abs(link.value))

    def bend(self, link: NetworkLink) -> float:
        """How far a link bends aside, as a share of its length: between nodes of one column, past those between."""
        if self.nodes[link.start].x == self.nodes[link.end].x:
            return 0.16
        return 0.05


def network(drawn: Network, *, ax: object = None) -> "matplotlib.axes.Axes":
    """Nodes in boxes and links between them: red more and blue less than 0, as wide as they are strong.

    Args:
        drawn: The nodes and links.
        ax: Where to draw; by default on a new figure with room for all nodes.
    Returns:
        The axes.
    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    left, right, low, high = drawn.spans
    axes = axes_of(ax, 2.2 + _COLUMN * (right - left + 1), 1.4 + _ROW * (high - low + 1))
    for y in drawn.rows:
        axes.axhspan(y - 0.5, y + 0.5, color="0.96" if round(y) % 2 else "1.0", zorder=0, linewidth=0)
    for order, link in enumerate(drawn.from_weakest()):
        _draw_link(axes, drawn, link, order)
    for node in drawn.nodes:
        box = {"boxstyle": "round,pad=0.25", "facecolor": "white", "edgecolor": "0.35", "linewidth": 0.8}
        axes.text(node.x, node.y, node.name, ha="center", va="center", fontsize=SIZE, bbox=box, zorder=1000)
    axes.set_xlim(left - 0.8, right + 0.8)
    axes.set_ylim(low - 0.6, high + 0.6)
    axes.set_xticks([])
    axes.set_yticks(list(drawn.rows), list(drawn.rows.values()), fontsize=SIZE)
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.set_title(drawn.title, fontsize="medium", parse_math=False)
    _explain(axes, drawn)
    return axes


def _draw_link(axes: "matplotlib.axes.Axes", drawn: Network, link: NetworkLink, order: int) -> None:
    from matplotlib.patches import FancyArrowPatch

    start, end = drawn.nodes[link.start], drawn.nodes[link.end]
    if link.style == "none":
        axes.plot([start.x, end.x], [start.y, end.y], color="0.7", linewidth=0.8, zorder=1)
        return
    width = 0.5 + 4 * abs(link.value) / drawn.widest
    arrow = FancyArrowPatch(
        (start.x, start.y),
        (end.x, end.y),
        connectionstyle=f"arc3,rad={drawn.bend(link)}",
        arrowstyle="-|>",
        mutation_scale=6 + 1.5 * width,
        shrinkA=7,
        shrinkB=9,
        linewidth=width,
        linestyle=link.style,
        color=colour_of(link),
        alpha=0.75,
        zorder=2 + order,
    )
    axes.add_patch(arrow)


def colour_of(link: NetworkLink) -> str:
    """Red for more than 0, blue for less."""
    if link.value > 0:
        return MORE
    return LESS


def _explain(axes: "matplotlib.axes.Axes", drawn: Network) -> None:
    from matplotlib.lines import Line2D

    lines = [Line2D([], [], color="0.3", linestyle=style, label=label) for style, label in drawn.styles.items()]
    lines += [
        Line2D([], [], color=MORE, linewidth=3, label=f"above 0, at most {drawn.widest:.3g}"),
        Line2D([], [], color=LESS, linewidth=3, label="below 0"),
    ]
    axes.legend(
        handles=lines, fontsize=SIZE, loc="upper center", bbox_to_anchor=(0.5, 0.0), ncols=len(lines), frameon=False
    )
