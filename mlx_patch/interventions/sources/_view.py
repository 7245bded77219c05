"""`SourceView`: a source that reads from another source."""

from dataclasses import dataclass
from typing import Any

from mlx_patch.interventions.sources._source import ActivationSource


@dataclass(frozen=True, eq=False, repr=False)
class SourceView:
    """What is the same of a source and of a view of it. Subclasses say what stands at a site.

    Attributes:
        source: The source.
    """

    source: ActivationSource

    @property
    def positions(self) -> tuple[int, ...]:
        """The absolute positions that it holds, in order."""
        return self.source.positions

    @property
    def n_positions(self) -> int:
        """The number of positions of the prompt that it was captured from."""
        return self.source.n_positions

    @property
    def tokens(self) -> Any:
        """The tokens of the run; None if unknown."""
        return getattr(self.source, "tokens", None)
