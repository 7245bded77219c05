"""`FitRecord`: how a lens was fitted, and what it is worth on prompts that it was not fitted to."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from typing_extensions import override

from mlx_patch.plot import layer_curve
from mlx_patch.sites import Site

if TYPE_CHECKING:
    import matplotlib.axes


@dataclass(frozen=True)
class FitRecord:
    """How a lens was fitted, and how far it is from the model's own prediction on held-out prompts.

    Attributes:
        settings: The arguments of the fit, by name; JSON values.
        model: The identity of the model that it was fitted on.
        prompts: How many prompts it was fitted to.
        positions: How many positions of them it saw, each as often as it saw it.
        held_out: The numbers of the prompts that were held out.
        held_out_positions: How many positions these have.
        before: KL(final distribution || logit lens) at each site, in nats, as a mean over held-out positions.
        after: The same of this lens.
    """

    settings: Mapping[str, Any]
    model: Mapping[str, str]
    prompts: int
    positions: int
    held_out: tuple[int, ...]
    held_out_positions: int
    before: Mapping[Site, float]
    after: Mapping[Site, float]

    def plot(self, ax: object = None) -> "matplotlib.axes.Axes":
        """Both divergences by site: before in blue, after in orange.

        Args:
            ax: Where to draw; by default on a new figure.
        Raises:
            MissingExtraError: matplotlib is not installed.
        """
        return layer_curve(
            np.array([list(self.before.values()), list(self.after.values())]),
            self._labels(),
            labels=["logit lens", "fitted lens"],
            axis_label="layer",
            value_label="KL from the final distribution (nats)",
            title=f"{self.held_out_positions} positions of {len(self.held_out)} held-out prompts",
            ax=ax,
        )

    def _labels(self) -> list[object]:
        """Layers, or sites where there are several kinds."""
        if len({site.name for site in self.before}) == 1:
            return [site.layer for site in self.before]
        return [f"{site.name}.{site.layer}" for site in self.before]

    @override
    def __str__(self) -> str:
        chosen = ", ".join(f"{name}={value}" for name, value in self.settings.items())
        lines = [
            f"fitted to {self.positions} positions of {self.prompts} prompts; {chosen}",
            f"KL from the final distribution, in nats, on {self.held_out_positions} positions of "
            f"{len(self.held_out)} held-out prompts:",
            f"{'site':<14}{'logit lens':>12}{'this lens':>12}",
        ]
        for site, before in self.before.items():
            name = f"{site.name}.{site.layer}"
            lines.append(f"{name:<14}{before:>12.3f}{self.after[site]:>12.3f}")
        return "\n".join(lines)
