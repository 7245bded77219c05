"""`TunedLens`: a stream with an affine map added to it, learnt so that its logits are those of the last layer."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Self

import mlx.core as mx
from typing_extensions import override

from mlx_patch.files import Format
from mlx_patch.lens._fitted_lens import FittedLens, last_stream
from mlx_patch.lens._lens_file import read_lens, write_lens
from mlx_patch.model import HookedModel
from mlx_patch.sites import Site


def affine(stream: mx.array, matrix: mx.array, bias: mx.array) -> mx.array:
    """`h + matrix @ h + bias`, in float32. Shape `(..., d_model)`."""
    wide = stream.astype(mx.float32)
    return wide + wide @ matrix.T + bias


@dataclass(frozen=True, eq=False, repr=False)
class TunedLens(FittedLens):
    """`h + matrix @ h + bias` in place of the stream `h`. `mp.lens.fit_tuned_lens` makes it.

    Attributes:
        biases: A vector a site. Shape `(d_model,)`, float32.
    Source:
        Belrose et al. 2023, https://arxiv.org/abs/2303.08112, section 3.
    """

    FORMAT: ClassVar[Format] = Format("mlx_patch.TunedLens", 1)
    biases: Mapping[Site, mx.array]

    @override
    def translated(self, site: Site, stream: mx.array) -> mx.array:
        if site == last_stream(self.model):
            return stream
        return affine(stream, self._matrix(site), self.biases[site])

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a safetensors file, whole or not at all: the maps, the fit, and the identity of the model.

        Raises:
            FileError: `path` cannot be written to, or does not end in `.safetensors`.
        """
        write_lens(path, self.FORMAT, self.identity, self.fit, {"matrix": self.matrices, "bias": self.biases})

    @classmethod
    def load(cls, path: str | os.PathLike[str], model: HookedModel) -> Self:
        """Read what `save` wrote, for the model that it was fitted on.

        Raises:
            FileError: There is no such file, it is not as it was written, or it is for another model.
        """
        identity, fit, arrays = read_lens(path, cls.FORMAT, model, {"matrix": 2, "bias": 1})
        return cls(model, identity, arrays["matrix"], fit, arrays["bias"])
