"""Labels: tokens made readable, and ticks that do not run into each other."""

from collections.abc import Callable, Sequence
from math import ceil
from textwrap import fill
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from mlx_patch import arguments
from mlx_patch.errors import KindError, ShapeError, shown

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
    text = arguments.string("value_label", label)
    lines = [fill(line, max(20, int(height / _LETTER))) for line in text.splitlines()]
    axes.set_ylabel("\n".join(lines), parse_math=False)


def labels_of(name: str, labels: Any) -> tuple[Any, ...]:
    """The labels of places: texts, numbers or groups of numbers."""
    entries = arguments.entries(name, labels, "a list of labels")
    for label in entries:
        if not isinstance(label, str | int | float | tuple | np.generic):
            raise KindError(f"`{name}` must be a list of texts or numbers. Got {shown(label)} in it.")
    return entries


def texts_of(name: str, texts: Any) -> tuple[str, ...] | None:
    """Texts, one a place; None stays."""
    if texts is None:
        return None
    return tuple(arguments.string(name, text) for text in arguments.entries(name, texts, "a list of texts"))


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
    if len(tokens) != len(texts):
        raise ShapeError(f"`tokens` must hold one token per place, {len(texts)}. Got {len(tokens)}. Give all or none.")
    return [f"{visible(token, drawable=drawable)} ({text})" for token, text in zip(tokens, texts, strict=True)]


def _tick_step(extent: float, room: float) -> int:
    """The smallest step between labels of such an extent that do not overlap, both in inches."""
    return max(1, ceil(extent / room))
