"""Labels: tokens made readable, and ticks that do not run into each other."""

from collections.abc import Callable, Sequence
from math import ceil
from textwrap import fill
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import matplotlib.axes

SIZE = 8.0
"""Of tick labels, in points."""

_LINE = 1.15 * SIZE / 72  # a line of text, in inches
_LETTER = 0.68 * SIZE / 72  # the width of a digit


def visible(token: str, longest: int = 16, drawable: Callable[[str], bool] = str.isprintable) -> str:
    """A token with visible spaces, escapes for what cannot be drawn, and an ellipsis if it is long.

    Args:
        token: Any text.
        longest: The maximum number of characters; the last of a longer token is an ellipsis.
        drawable: Whether a printable character can be drawn.

    Example:
        >>> visible(" Mary"), visible("\\n"), visible("antidisestablishment")
        ('␣Mary', '\\\\n', 'antidisestablis…')
    """
    text = "".join(_visible_letter(letter, drawable) for letter in token)
    if len(text) <= longest:
        return text
    return f"{text[: longest - 1]}…"


def _visible_letter(letter: str, drawable: Callable[[str], bool]) -> str:
    if letter == " ":
        return "␣"
    if letter.isprintable() and drawable(letter):
        return letter
    return letter.encode("unicode_escape").decode()


def write_value_label(axes: "matplotlib.axes.Axes", label: str, height: float) -> None:
    """Write the label of the values beside an axis, wrapped to its height in inches."""
    lines = [fill(line, max(20, int(height / _LETTER))) for line in label.splitlines()]
    axes.set_ylabel("\n".join(lines), parse_math=False)


def in_fonts() -> Callable[[str], bool]:
    """A function that tells whether one of matplotlib's present fonts has a character."""
    from matplotlib.font_manager import FontProperties, findfont, get_font

    families = FontProperties().get_family()
    fonts = [get_font(findfont(FontProperties(family=[family]))) for family in families]
    return lambda letter: any(font.get_char_index(ord(letter)) for font in fonts)


def label_ticks(
    axes: "matplotlib.axes.Axes",
    axis: Literal["x", "y"],
    labels: Sequence[object],
    tokens: Sequence[str] | None = None,
    places: Sequence[float] | None = None,
) -> None:
    """Write labels at their places, or at every second, third, ... if they would overlap.

    Args:
        axes: The axes to label.
        axis: `"x"` or `"y"`.
        labels: One per place.
        tokens: Token strings to write out beside the labels.
        places: Where along the axis; 0, 1, 2, ... by default.
    """
    if places is None:
        places = range(len(labels))
    texts = _tick_texts(labels, tokens)
    length = _LETTER * (1 + max(map(len, texts)))
    if axis == "y":
        room = axes.bbox.height / axes.figure.dpi / len(texts)
        step = _tick_step(_LINE, room)
        axes.set_yticks(list(places)[::step], texts[::step], fontsize=SIZE, parse_math=False, rotation=0)
    else:
        room = axes.bbox.width / axes.figure.dpi / len(texts)
        extent, rotation = length, 0
        if length > max(room, 4 * _LETTER):  # turned text takes only the height of a line
            extent, rotation = _LINE, 90
        step = _tick_step(extent, room)
        axes.set_xticks(list(places)[::step], texts[::step], fontsize=SIZE, parse_math=False, rotation=rotation)
    axes.tick_params(axis=axis, length=2, pad=2)


def _tick_texts(labels: Sequence[object], tokens: Sequence[str] | None) -> list[str]:
    drawable = in_fonts()
    texts = []
    for label in labels:
        if isinstance(label, str):
            texts.append(visible(label, 24, drawable))
        else:
            texts.append(str(label))
    if tokens is None:
        return texts
    return [f"{visible(token, drawable=drawable)} ({text})" for token, text in zip(tokens, texts, strict=True)]


def _tick_step(extent: float, room: float) -> int:
    """The smallest step between labels of such an extent that do not overlap, both in inches."""
    return max(1, ceil(extent / room))
