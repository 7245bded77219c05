"""A network as SVG: the same as `network`, without matplotlib, and with the numbers where the pointer rests."""

from collections.abc import Callable
from html import escape
from math import hypot

from mlx_patch.plot._network import Network, NetworkLink, colour_of

_COLUMN, _ROW, _MARGIN = 92, 62, 90
"""Pixels."""

_DASHES = {"solid": "", "dashed": "8 5", "dotted": "2 4", "none": ""}
_NODE_HEIGHT = 20


def network_svg(drawn: Network) -> str:
    """An SVG element with nodes in boxes and links between them; each has its name and value as a tooltip."""
    left, right, low, high = drawn.spans
    width, height = _MARGIN * 2 + _COLUMN * (right - left), _MARGIN + _ROW * (high - low + 1)

    def place(x: float, y: float) -> tuple[float, float]:
        return _MARGIN + _COLUMN * (x - left), 50 + _ROW * (high - y)

    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" '
        f'font-family="sans-serif" font-size="11" role="img" aria-label="{escape(drawn.title)}">',
        f'<text x="{width / 2:.0f}" y="20" text-anchor="middle" font-size="14">{escape(drawn.title)}</text>',
    ]
    for y, label in drawn.rows.items():
        _, top = place(0, y)
        lines.append(f'<text x="6" y="{top + 4:.1f}" fill="#555">{escape(label)}</text>')
    lines += [_link(drawn, link, place) for link in drawn.from_weakest()]
    for node in drawn.nodes:
        x, y = place(node.x, node.y)
        size = 12 + 6.5 * len(node.name)
        lines.append(
            f'<rect x="{x - size / 2:.1f}" y="{y - _NODE_HEIGHT / 2:.1f}" width="{size:.1f}" height="{_NODE_HEIGHT}" '
            f'rx="5" fill="white" stroke="#555"/>'
            f'<text x="{x:.1f}" y="{y + 4:.1f}" text-anchor="middle">{escape(node.name)}</text>'
        )
    kinds = [f"{style}: {label}" for style, label in drawn.styles.items()]
    legend = escape("; ".join([*kinds, "red above 0, blue below"]))
    lines.append(f'<text x="{width / 2:.0f}" y="{height - 12:.0f}" text-anchor="middle" fill="#555">{legend}</text>')
    return "\n".join([*lines, "</svg>"])


def _link(drawn: Network, link: NetworkLink, place: Callable[[float, float], tuple[float, float]]) -> str:
    start, end = drawn.nodes[link.start], drawn.nodes[link.end]
    (x1, y1), (x2, y2) = place(start.x, start.y), place(end.x, end.y)
    if link.style == "none":
        return f'<path d="M{x1:.1f} {y1:.1f} L{x2:.1f} {y2:.1f}" stroke="#aaa"/>'
    width = 0.7 + 5 * abs(link.value) / drawn.widest
    bend = 2 * drawn.bend(link)
    middle_x, middle_y = (x1 + x2) / 2 - bend * (y2 - y1), (y1 + y2) / 2 + bend * (x2 - x1)
    # It ends at the border of the box, along the line that comes in from the middle.
    length = hypot(x2 - middle_x, y2 - middle_y) or 1.0
    gap = _NODE_HEIGHT / 2 + 2
    end_x, end_y = x2 - gap * (x2 - middle_x) / length, y2 - gap * (y2 - middle_y) / length
    return (
        f'<path d="M{x1:.1f} {y1:.1f} Q{middle_x:.1f} {middle_y:.1f} {end_x:.1f} {end_y:.1f}" fill="none" '
        f'stroke="{colour_of(link)}" stroke-opacity="0.75" stroke-width="{width:.2f}" '
        f'stroke-dasharray="{_DASHES[link.style]}">'
        f"<title>{escape(link.name)}: {link.value:.4g}</title></path>"
        f'<circle cx="{end_x:.1f}" cy="{end_y:.1f}" r="{1.5 + width / 2:.2f}" fill="{colour_of(link)}"/>'
    )
