"""`Aligned`: the activations of one prompt, at the positions of another."""

from dataclasses import dataclass
from typing import Any

import mlx.core as mx
from typing_extensions import override

from mlx_patch.errors import KindError, SelectionError, ShapeError, shown
from mlx_patch.interventions._where import pos_axis
from mlx_patch.interventions.sources._source import ActivationSource
from mlx_patch.positions import Alignment
from mlx_patch.sites import site_of


@dataclass(frozen=True, eq=False, repr=False)
class Aligned:
    """The activations of one prompt, at the positions of another. `ActivationCache.aligned` makes it.

    It is read by site, as the cache is; along the position axis stand the positions of the target that have a source.

    Args:
        source: The activations of the alignment's source.
        alignment: Which position stands for which.

    Raises:
        ShapeError: They are those of a prompt of another length.
        SelectionError: They are those of other tokens, or hold none of the aligned positions.
    """

    source: ActivationSource
    alignment: Alignment

    def __post_init__(self) -> None:
        _refuse_other_prompt(self.source, self.alignment)
        if not self.positions:
            raise SelectionError(
                f"`source` must hold a position that the alignment uses. Got {shown(self.source)} and an alignment of "
                f"{list(self.alignment.sources)}. Capture all positions: leave out `pos`."
            )

    @property
    def _pairs(self) -> tuple[tuple[int, int], ...]:
        """The pairs whose source position the activations have."""
        available = set(self.source.positions)
        return tuple(pair for pair in self.alignment.pairs if pair[0] in available)

    @property
    def positions(self) -> tuple[int, ...]:
        """The absolute positions of the target that have values, in order."""
        return tuple(target for _, target in self._pairs)

    @property
    def tokens(self) -> object:
        """The tokens of the source's prompt, where they are known. Shape `(batch, pos)`."""
        return getattr(self.source, "tokens", None)

    @property
    def n_positions(self) -> int:
        """The positions of the target."""
        return len(self.alignment.target_tokens)

    def __getitem__(self, key: Any, /) -> mx.array:
        site = site_of(key, getattr(self.source, "n_layers", None))
        if site.axes[-1:] == ("key_pos",):
            raise KindError(
                f"`source` must not be aligned at {site}. Got an alignment, but the site's keys are positions too, and "
                "the prompts differ in them. Patch 'z', or 'q', 'k' and 'v'."
            )
        row = {position: i for i, position in enumerate(self.source.positions)}
        rows = mx.array([row[source] for source, _ in self._pairs])
        return mx.take(self.source[key], rows, axis=pos_axis(site))

    def __contains__(self, key: object, /) -> bool:
        return key in self.source

    @override
    def __repr__(self) -> str:
        return f"{self.source!r} aligned, {len(self.positions)} of {self.n_positions} positions"


def aligned(name: str, source: object, alignment: Alignment | None) -> Any:
    """A source at the positions of another prompt; itself where there is no alignment.

    Raises:
        KindError: It is an array, whose prompt is unknown, or `alignment` is of another type.
        SelectionError, ShapeError: As `Aligned`.
    """
    if alignment is None:
        return source
    if not isinstance(alignment, Alignment):
        raise KindError(
            f"`positions` must be an Alignment. Got {shown(alignment)}. Write mp.align(clean, corrupted), and "
            "choose where "
            "to patch with `.at(..., pos=...)`."
        )
    if isinstance(source, mx.array) or not isinstance(source, ActivationSource):
        raise KindError(
            f"`{name}` must be an ActivationCache to be aligned. Got {type(source).__name__}, whose prompt is unknown. "
            "Pick the rows you need, and pass `.at(..., pos=...)`."
        )
    return Aligned(source, alignment)


def covered(source: object) -> tuple[int, ...] | None:
    """The positions that an aligned source has values for; None of any other source."""
    if isinstance(source, Aligned):
        return source.positions
    return None


def _refuse_other_prompt(source: ActivationSource, alignment: Alignment) -> None:
    """Refuse activations of another prompt than the alignment's source."""
    tokens = _row(getattr(source, "tokens", None))
    expected, target = alignment.source_tokens, alignment.target_tokens
    if source.n_positions != len(expected):
        raise ShapeError(
            f"`source` must have the {len(expected)} positions of the alignment's source. Got {source.n_positions}. "
            + _remedy(source.n_positions == len(target))
        )
    if tokens is not None and len(tokens) == len(expected) and tokens != expected:
        first = _first_difference(tokens, expected)
        raise SelectionError(
            f"`source` must be of the alignment's source tokens. Got others, from position {first} on. "
            + _remedy(tokens == target)
        )


def _remedy(is_target: bool) -> str:
    if is_target:
        return "It is the alignment's target: use `alignment.inverse`."
    return "Capture the prompt that the alignment was made from."


def _row(tokens: object) -> tuple[int, ...] | None:
    """The tokens of a run of one prompt; None where there are several, or none are known."""
    if isinstance(tokens, mx.array) and tokens.ndim == 2 and tokens.shape[0] == 1:
        return tuple(int(token) for token in tokens[0].tolist())  # pyright: ignore[reportGeneralTypeIssues, reportArgumentType]
    return None


def _first_difference(tokens: tuple[int, ...], expected: tuple[int, ...]) -> int:
    """The first position at which unequal tokens of one length differ."""
    differs = [token != expected_token for token, expected_token in zip(tokens, expected, strict=True)]
    return differs.index(True)
