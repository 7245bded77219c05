"""`JacobianLens`: what a change of a stream makes of the last stream, on average, read in the stream's place."""

import os
from dataclasses import dataclass
from typing import ClassVar, Self

import mlx.core as mx
from typing_extensions import override

from mlx_patch.errors import ArchitectureError, shown
from mlx_patch.files import Format
from mlx_patch.lens._fitted_lens import FittedLens, last_stream
from mlx_patch.lens._lens_file import read_lens, write_lens
from mlx_patch.metrics import Answers
from mlx_patch.model import HookedModel
from mlx_patch.sites import Site, site_of


@dataclass(frozen=True, eq=False, repr=False)
class JacobianLens(FittedLens):
    """`matrix @ h` in place of the stream `h`. `mp.lens.fit_jacobian_lens` makes it.

    `matrix[i, j]` is the derivative of entry `i` of the last stream, summed over the positions from one on, by entry
    `j` of the stream at that position: a mean over positions and prompts.
    """

    FORMAT: ClassVar[Format] = Format("mlx_patch.JacobianLens", 1)

    @override
    def translated(self, site: Site, stream: mx.array) -> mx.array:
        if site == last_stream(self.model):
            return stream
        return stream.astype(mx.float32) @ self._matrix(site).T

    def directions(self, tokens: Answers, site: str | Site | tuple[str, int]) -> mx.array:
        """What to add to a stream so that a token's logit rises at this and later positions: `matrix.T @ W_U[token]`.

        They are arguments of `mp.Add`, `mp.Project` and `mp.Swap`. Like `HookedModel.directions`, they are without the
        gain of the final norm.

        Args:
            tokens: A string of one token or a token id, or several.
            site: Of the lens: ("resid_post", 12).
        Returns:
            Shape `(d_model,)` for one token, `(token, d_model)` for several. In float32.
        Raises:
            MissingSiteError: The lens has no map for the site.
            ArchitectureError: The unembedding is not as wide as the stream, or no weights of the model are its rows.
            TokenError, SelectionError: As `HookedModel.directions` says.
        """
        matrix = self._matrix(site_of(site, self.model.n_layers))
        rows = self.model.directions(tokens)
        if rows.shape[-1] != matrix.shape[0]:
            raise ArchitectureError(
                f"`model` must unembed a stream of width {matrix.shape[0]}. Got {shown(self.model)}, whose "
                "unembedding has "
                f"width {rows.shape[-1]}. Read the stream with `logit_lens(lens=)`."
            )
        return rows @ matrix

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a safetensors file, whole or not at all: the maps, the fit, and the identity of the model.

        Raises:
            FileError: `path` cannot be written to, or does not end in `.safetensors`.
        """
        write_lens(path, self.FORMAT, self.identity, self.fit, {"matrix": self.matrices})

    @classmethod
    def load(cls, path: str | os.PathLike[str], model: HookedModel) -> Self:
        """Read what `save` wrote, for the model that it was fitted on.

        Raises:
            FileError: There is no such file, it is not as it was written, or it is for another model.
        """
        identity, fit, arrays = read_lens(path, cls.FORMAT, model, {"matrix": 2})
        return cls(model, identity, arrays["matrix"], fit)
