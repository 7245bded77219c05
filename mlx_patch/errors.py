"""Every error that mlx_patch raises on purpose.

* `PatchError`
    * `UnknownNameError` (`KeyError`): a site, metric or architecture that does not exist
    * `MissingSiteError` (`KeyError`): a known site that this model, or this cache, does not have
    * `SelectionError` (`IndexError`): a layer, position, head, neuron or batch row that is not there
    * `ShapeError` (`ValueError`): an array whose shape does not fit
    * `ValueRefusedError` (`ValueError`): any other value that cannot be used: NaN, empty, reversed
    * `KindError` (`TypeError`): an argument or an array of the wrong kind
    * `UnknownAttributeError` (`AttributeError`): a name that an object does not have
    * `EditNotUsedError` (`RuntimeError`): an edit or a watched site that never came to pass in a run
    * `ArchitectureError` (`TypeError`): a model for which there is no table, or one that cannot be tapped
    * `TokenError` (`ValueError`): text or tokens that do not resolve as they must
    * `FileError` (`OSError`): a file or a model that cannot be read, written or fetched
    * `RankError` (`RuntimeError`): another process of a distributed sweep that failed, is gone, or runs something else
    * `MissingExtraError` (`ImportError`): an optional dependency that is not installed

Warnings:

* `DegenerateGapWarning`: examples that are left out because their clean and corrupted runs do not differ
* `UncachedWarning`: a plain call of a model that is itself only over a prompt cache, which `run` makes for it
* `OutlierPositionWarning`: a mean over positions that is mostly that of one position

Messages read: `<argument>` must <what is allowed>. Got <what came>. <Remedy, or the nearest name>.
"""

import difflib
from collections.abc import Iterable

from typing_extensions import override


class PatchError(Exception):
    """Base of every error that mlx_patch raises on purpose."""

    @override
    def __str__(self) -> str:  # KeyError would print the message in quotes
        if not self.args:
            return type(self).__name__
        return str(self.args[0])


class UnknownNameError(PatchError, KeyError):
    """A site, metric or architecture that does not exist."""


class UnknownAttributeError(PatchError, AttributeError):
    """A name that an object does not have."""


class MissingSiteError(PatchError, KeyError):
    """A known site that this model, or this cache, does not have."""


class SelectionError(PatchError, IndexError):
    """A layer, position, head, neuron or batch row that does not exist."""


class ShapeError(PatchError, ValueError):
    """An array whose shape does not fit."""


class ValueRefusedError(PatchError, ValueError):
    """A value that cannot be used."""


class KindError(PatchError, TypeError):
    """An argument or an array of the wrong kind."""


class EditNotUsedError(PatchError, RuntimeError):
    """An edit that never acted, or a site that was never computed, in a run."""


class ArchitectureError(PatchError, TypeError):
    """A model without a table, or a model that cannot be tapped."""


class TokenError(PatchError, ValueError):
    """Text or tokens that cannot be resolved as required."""


class FileError(PatchError, OSError):
    """A file or a model that cannot be read, written or fetched."""


class RankError(PatchError, RuntimeError):
    """A process of a distributed sweep that failed, disappeared, or runs another sweep."""


class MissingExtraError(PatchError, ImportError):
    """An optional dependency that is not installed."""


class DegenerateGapWarning(UserWarning):
    """Examples whose clean and corrupted runs do not differ, so that no fraction of their gap exists: NaN, left out."""


class OutlierPositionWarning(UserWarning):
    """A mean over positions that one position dominates, with more than 30 times the median norm."""


class UncachedWarning(UserWarning):
    """A call without a prompt cache, of a model whose logits then differ from those of `run`."""


def listed(names: Iterable[object]) -> str:
    """Names joined by commas, for the end of a message.

    Example:
        >>> listed(["z", "q"])
        'z, q'
    """
    return ", ".join(str(name) for name in names)


def shape_words(sizes: Iterable[int | None]) -> str:
    """A shape for a message; None is any length.

    Example:
        >>> shape_words((None, 6)), shape_words((6,))
        ('(any, 6)', '(6,)')
    """
    words = ["any" if size is None else str(size) for size in sizes]
    if len(words) == 1:
        return f"({words[0]},)"
    return f"({', '.join(words)})"


def brief(value: object, at_most: int = 80) -> str:
    """The repr of a value, with its middle cut out if it is long.

    Example:
        >>> brief("a" * 100_000, 20)
        "'aaaaaaa...aaaaaaaa' (100000 characters)"
    """
    text = _repr(value)
    if len(text) <= at_most:
        return text
    width = (at_most - 3) // 2
    start, end = text[:width], text[-width - 1 :]
    if isinstance(value, str):
        return f"{start}...{end} ({len(value)} characters)"
    return f"{start}...{end}"


def shown(value: object) -> str:
    """What came for an argument, for the message that refuses it: its repr, cut if it is very long."""
    return brief(value, 400)


def _repr(value: object) -> str:
    try:
        return repr(value)
    except (RecursionError, RuntimeError, ValueError, TypeError, AttributeError):  # a repr of another library's
        return f"a {type(value).__name__}"


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """A sentence with the nearest known names, or with all of them if none is near.

    Example:
        >>> did_you_mean("resid_pst", ["resid_post", "z"])
        'Did you mean resid_post?'
    """
    candidates = list(known)
    nearest = []
    if isinstance(name, str):
        nearest = difflib.get_close_matches(name[:200], candidates, n=3, cutoff=0.6)
    if not nearest:
        return f"Known: {listed(candidates)}."
    return f"Did you mean {' or '.join(nearest)}?"


def __dir__() -> list[str]:
    """The errors and the warnings."""
    return sorted(name for name, value in globals().items() if isinstance(value, type) and issubclass(value, Exception))
