"""Labels: tokens made readable, and ticks that do not run into each other."""

from collections.abc import Callable, Sequence
from textwrap import fill
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import matplotlib.axes

SIZE = 8.0
"""Of tick labels, in points."""

_LINE = 1.15 * SIZE / 72  # a line of text, in inches
_LETTER = 0.68 * SIZE / 72  # the width of a digit


def visible(token: str, longest: int = 16, drawable: Callable[[str], bool] = str.isprintable) -> str:
    """A token in which nothing is invisible: spaces as open boxes, what cannot be drawn as its escape, cut if long.

    Args:
        token: Any text.
        longest: How many characters at most; the last of a longer one is an ellipsis.
        drawable: Whether a printable character can be drawn.

    Example:
        >>> visible(" Mary"), visible("\\n"), visible("antidisestablishment")
        ('␣Mary', '\\\\n', 'antidisestablis…')
    """
    shown = "".join(_shown(letter, drawable) for letter in token)
    return shown if len(shown) <= longest else f"{shown[: longest - 1]}…"


def _shown(letter: str, drawable: Callable[[str], bool]) -> str:
    if letter == " ":
        return "␣"
    if letter.isprintable() and drawable(letter):
        return letter
    return letter.encode("unicode_escape").decode()


def write_value_label(axes: "matplotlib.axes.Axes", label: str, height: float) -> None:
    """Write what the values are beside an axis, in as many lines as its height in inches asks for."""
    lines = [fill(line, max(20, int(height / _LETTER))) for line in label.splitlines()]
    axes.set_ylabel("\n".join(lines), parse_math=False)


def in_fonts() -> Callable[[str], bool]:
    """Whether one of matplotlib's present fonts has a character."""
    from matplotlib.font_manager import FontProperties, findfont, get_font

    fonts = [get_font(findfont(FontProperties(family=[name]))) for name in FontProperties().get_family()]
    return lambda letter: any(font.get_char_index(ord(letter)) for font in fonts)


def label_ticks(
    axes: "matplotlib.axes.Axes",
    which: str,
    labels: Sequence[object],
    tokens: Sequence[str] | None = None,
    places: Sequence[float] | None = None,
) -> None:
    """Write labels at their places, or at every second, third, ... where they would overlap.

    Args:
        axes: Whose.
        which: `"x"` or `"y"`.
        labels: One a place.
        tokens: Token strings to write out beside the labels.
        places: Where along the axis; 0, 1, 2, ... if left out.
    """
    places = range(len(labels)) if places is None else places
    drawable = in_fonts()
    texts = [visible(label, 24, drawable) if isinstance(label, str) else str(label) for label in labels]
    if tokens is not None:
        texts = [f"{visible(token, drawable=drawable)} ({text})" for token, text in zip(tokens, texts, strict=True)]
    longest = _LETTER * (1 + max(len(text) for text in texts))
    room = (axes.bbox.width if which == "x" else axes.bbox.height) / axes.figure.dpi / len(texts)
    upright = which == "y" or longest <= max(room, 4 * _LETTER)
    step = max(1, -int(-(longest if which == "x" and upright else _LINE) // room))
    ticks, at = (axes.set_xticks, "x") if which == "x" else (axes.set_yticks, "y")
    ticks(list(places)[::step], texts[::step], fontsize=SIZE, parse_math=False, rotation=0 if upright else 90)
    axes.tick_params(axis=at, length=2, pad=2)
