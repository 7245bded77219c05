"""`FittedLens`: what a lens does to a stream before the model's own final norm and unembedding read it."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Self

import mlx.core as mx
from typing_extensions import override

from mlx_patch.errors import KindError, MissingSiteError, ShapeError, ValueRefusedError, listed, shown
from mlx_patch.fingerprints import differences
from mlx_patch.lens._fit_record import FitRecord
from mlx_patch.model import HookedModel, require_hooked
from mlx_patch.provenance import checksum
from mlx_patch.sites import Site


def lens_identity(model: HookedModel) -> dict[str, str]:
    """By what another process knows the model again: its identity, and sums over its weights."""
    return {**model.identity, "weights": checksum(model.model)}


def last_stream(model: HookedModel) -> Site:
    """The stream that leaves the last block, which the model itself reads."""
    return Site("resid_post", model.n_layers - 1)


@dataclass(frozen=True, eq=False, repr=False)
class FittedLens(ABC):
    """A map of the stream at each of some sites, fitted on one model. `mp.lens.logit_lens(..., lens=)` takes it.

    Attributes:
        model: The model that it is for.
        identity: By what that model is known again.
        matrices: A matrix a site. Shape `(d_model, d_model)`, float32.
        fit: How it was fitted.
    """

    model: HookedModel
    identity: Mapping[str, str]
    matrices: Mapping[Site, mx.array]
    fit: FitRecord

    @property
    def sites(self) -> tuple[Site, ...]:
        """The sites that it has a map for. The stream that leaves the last block needs none."""
        return tuple(self.matrices)

    @abstractmethod
    def translated(self, site: Site, stream: mx.array) -> mx.array:
        """What is read in place of the stream at a site, in float32. Shape `(..., d_model)` to the same.

        Raises:
            MissingSiteError: It has no map for the site.
        """

    def on(self, model: HookedModel) -> Self:
        """This lens for another model, as for one that was tuned from the model that it was fitted on.

        `fit` still tells of the model that it was fitted on.

        Args:
            model: A model of the same width and with the same sites.
        Raises:
            ShapeError: The other model has another width or other sites.
        """
        require_hooked("model", model)
        if model.d_model != self.model.d_model or not set(self.sites) <= set(model.sites):
            raise ShapeError(
                f"`model` must have the sites of the lens, and streams of width {self.model.d_model}. Got "
                f"{shown(model)}. "
                "Fit a lens on that model."
            )
        return replace(self, model=model, identity=lens_identity(model))

    def require(self, model: HookedModel, sites: tuple[Site, ...]) -> None:
        """Refuse another model, and sites without a map.

        Raises:
            ValueRefusedError: It is for another model.
            MissingSiteError: It has no map for a site.
        """
        missing = [site for site in sites if site not in self.matrices and site != last_stream(model)]
        if missing:
            raise MissingSiteError(
                f"`lens` must be fitted at the sites that it reads. Got {listed(missing)}. It has maps for: "
                f"{listed(self.sites)}. Fit it with sites={missing[0].name!r}, or choose other `sites`."
            )
        if model.model is self.model.model:
            return
        clauses = listed(differences({"model": self.identity}, {"model": lens_identity(model)}))
        if clauses:
            raise ValueRefusedError(
                f"`lens` must be for this model. Got one for {clauses}. Fit one on this model, or write "
                "`lens.on(model)` to carry it over."
            )

    def _matrix(self, site: Site) -> mx.array:
        if site not in self.matrices:
            raise MissingSiteError(f"`site` must be one that the lens has a map for. Got {site}. Has: {self.sites}.")
        return self.matrices[site]

    @override
    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self.sites)} sites from {self.sites[0]} to {self.sites[-1]})"


def require_lens(lens: object) -> FittedLens:
    """A fitted lens.

    Raises:
        KindError: It is none.
    """
    if not isinstance(lens, FittedLens):
        raise KindError(
            f"`lens` must be a fitted lens, as mp.lens.fit_tuned_lens makes it. Got {type(lens).__name__}. Leave "
            "it out for the logit lens."
        )
    return lens
