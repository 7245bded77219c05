"""`Dictionary`: features of activations, read from a folder."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import mlx.core as mx
from typing_extensions import override

from mlx_patch import arguments
from mlx_patch.cache import ActivationCache
from mlx_patch.dictionaries._activation import FeatureActivation
from mlx_patch.dictionaries._linear import products
from mlx_patch.dictionaries._normalisation import ByFactor, Normalisation
from mlx_patch.dictionaries._stored import IN_MEMORY, FeatureRows
from mlx_patch.dictionaries._top import TopFeatures, top_features
from mlx_patch.errors import SelectionError, ShapeError, ValueRefusedError
from mlx_patch.sites import Site


@dataclass(frozen=True, eq=False, repr=False)
class Dictionary:
    """A sparse autoencoder or a transcoder. `mp.dictionaries.load` makes it.

    Arithmetic is done in float32. A matrix of more than 256 MB stays in its file, and what is needed of it is read.

    Attributes:
        identity: 32 hex digits that are the same for the same numbers and settings.
        site: The site that its features are read at, where the configuration names one; None is any.
        site_out: The site that they are written to. That of a transcoder is another one.
        folder: The folder.
        dialect: Whose files they are.
        hook: The name of the place that they are read at, as the configuration has it; empty where it says none.
        hook_out: The name of the place that they are written to.
        is_transcoder: Whether it predicts another activation than the one it reads.
        encoder: A row for each feature. Shape `(n_features, d_model)`.
        decoder: A row for each feature. Shape `(n_features, d_out)`.
        b_dec: Added to what is decoded. Shape `(d_out,)`.
        activation: What makes features of products with the encoder.
        normalisation: What is done to an activation before.
        subtracts_bias: Whether `b_dec` is subtracted from an activation before it is encoded.
        unit_rows: Whether features are in units of the decoder's rows at length 1.
        skip: Of a transcoder that has one, a matrix from its input to its output. Shape `(d_out, d_model)`.
        settings: The configuration.
    """

    identity: str
    site: Site | None
    site_out: Site | None = field(compare=False)
    folder: Path = field(compare=False)
    dialect: str = field(compare=False)
    hook: str = field(compare=False)
    hook_out: str = field(compare=False)
    is_transcoder: bool = field(compare=False)
    encoder: FeatureRows = field(compare=False)
    decoder: FeatureRows = field(compare=False)
    b_dec: mx.array = field(compare=False)
    activation: FeatureActivation = field(compare=False)
    normalisation: Normalisation = field(compare=False)
    subtracts_bias: bool = field(compare=False)
    unit_rows: bool = field(default=False, compare=False)
    skip: mx.array | None = field(default=None, compare=False)
    settings: dict[str, Any] = field(default_factory=dict, compare=False)

    @property
    def n_features(self) -> int:
        """The number of features."""
        return self.encoder.shape[0]

    @property
    def d_model(self) -> int:
        """The width of the activation that it reads. At `z` that of all heads together."""
        return self.encoder.shape[1]

    @property
    def d_out(self) -> int:
        """The width of the activation that it writes; `d_model`, if it is no transcoder."""
        return self.decoder.shape[1]

    @property
    def is_large(self) -> bool:
        """Whether it stays on disk."""
        return max(self.encoder.nbytes, self.decoder.nbytes) > IN_MEMORY

    def encode(self, activation: mx.array, features: int | Iterable[int] | None = None) -> mx.array:
        """The features of an activation.

        Args:
            activation: Shape `(..., d_model)`; at `z` also `(..., head, d_head)`.
            features: Which ones; None is all. A large dictionary is then read block by block, and each is evaluated.
        Returns:
            Float32. Shape `(..., feature)`.
        Raises:
            ShapeError: The activation has another width.
            SelectionError: A feature that is not there.
        """
        flat = self.flat(activation)
        if features is None:
            return self.encode_flat(flat, None, keep=False)
        return self.encode_flat(flat, checked_features(features, self.n_features), keep=False)

    def decode(self, values: mx.array, activation: mx.array | None = None) -> mx.array:
        """The activation that features stand for.

        Args:
            values: All features. Shape `(..., n_features)`.
            activation: What they were encoded from, where the way back depends on it: where each token is normalised
                by itself, or a transcoder has a skip connection. Shape `(..., d_model)`.
        Returns:
            Float32. Shape `(..., d_out)`.
        Raises:
            ShapeError: There are not `n_features` values.
            ValueRefusedError: `activation` is missing.
        """
        values = arguments.array("values", values)
        if activation is not None:
            activation = arguments.array("activation", activation)
        if values.shape[-1:] != (self.n_features,):
            raise ShapeError(
                f"`values` must have all {self.n_features} features along the last axis. Got {values.shape}. For a "
                "few, use `directions`."
            )
        values = values.astype(mx.float32)
        if self.unit_rows:
            values = values / self.decoder.norms()
        total, begin = mx.zeros((*values.shape[:-1], self.d_out)), 0
        for block in self.decoder.blocks():
            end = begin + block.shape[0]
            total = total + values[..., begin:end] @ block.astype(mx.float32)
            begin = end
            if self.is_large:
                mx.eval(total)
        return self._way_back(total + self.b_dec, activation)

    def directions(self, features: int | Iterable[int]) -> mx.array:
        """What one unit of each feature adds to the activation that is written.

        Where each token is normalised by itself, this is before the token's own scale.

        Args:
            features: Which ones.
        Returns:
            Float32. Shape `(feature, d_out)`.
        Raises:
            SelectionError: A feature that is not there.
        """
        rows = self.decoder_rows(checked_features(features, self.n_features))
        if isinstance(self.normalisation, ByFactor):
            return rows / self.normalisation.out
        return rows

    def top(
        self,
        source: ActivationCache | mx.array,
        k: int = 10,
        pos: int | Iterable[int] | slice | None = None,
        site: str | Site | None = None,
        str_tokens: list[str] | None = None,
    ) -> TopFeatures:
        """The features that are largest anywhere in a prompt, each with the position where it is.

        Args:
            source: The cache of a run, or an activation, shape `(batch, pos, ...)`.
            k: How many.
            pos: Positions of the activation that count; `slice(1, None)` leaves the first out, which in most models is
                an attention sink with features of its own. Numbers are those of the prompt. None is all.
            site: Where in the cache; None is the dictionary's own site.
            str_tokens: The texts of the prompt's tokens, for the table: `model.str_tokens(tokens)`.
        Raises:
            ValueRefusedError: The site is not known, or `k` is less than 1.
            SelectionError: A position that is not there.
        """
        return top_features(self, source, k, pos, site, str_tokens)

    def at_any_site(self) -> Dictionary:
        """The same dictionary without its site, so that edits with it may act anywhere that has its width."""
        return replace(self, site=None, site_out=None)

    def flat(self, activation: mx.array) -> mx.array:
        """An activation in float32, with its heads side by side along one axis. Shape `(..., d_model)`.

        Raises:
            ShapeError: It has another width.
        """
        arguments.instance("activation", activation, mx.array)
        arguments.numeric("activation", activation)
        shape, width = activation.shape, self.d_model
        if shape[-1:] != (width,):
            if len(shape) < 2 or shape[-2] * shape[-1] != width:
                raise ShapeError(
                    f"`activation` must have the dictionary's width of {width} along its last axis, or heads of it. "
                    f"Got {shape}. {self.origin()} Load the dictionary of this model and site, or run its model."
                )
            activation = activation.reshape(*shape[:-2], width)
        return activation.astype(mx.float32)

    def origin(self) -> str:
        """Where the features are read, in a sentence for messages; empty where nothing says it."""
        if not self.hook:
            return ""
        return f"It was made for {self.hook}."

    def encode_flat(self, flat: mx.array, features: Sequence[int] | None, keep: bool) -> mx.array:
        """The features of a flat activation.

        Args:
            flat: Float32. Shape `(..., d_model)`.
            features: Checked ones; None is all.
            keep: Whether an encoder that is read whole is held from then on, and nothing is evaluated: inside a run.
        """
        read = self._read(flat)
        if features is not None and not self.activation.of_all:
            return self.activation(products(read, self.encoder.rows(features)), features)
        return self.activation(self._all_products(read, keep), features)

    def encode_with(self, flat: mx.array, rows: mx.array, features: Sequence[int]) -> mx.array:
        """The features of a flat activation, with rows of the encoder that were read before.

        Args:
            flat: Float32. Shape `(..., d_model)`.
            rows: Those of `features`. Shape `(feature, d_model)`.
            features: Checked ones.
        """
        if self.activation.of_all:
            return self.encode_flat(flat, features, keep=True)
        return self.activation(products(self._read(flat), rows), features)

    def decoder_rows(self, features: Sequence[int]) -> mx.array:
        """The decoder's rows of checked features, in float32 and in the features' units. Shape `(feature, d_out)`."""
        rows = self.decoder.rows(features).astype(mx.float32)
        if self.unit_rows:
            rows = rows / self.decoder.norms(features)[:, None]
        return rows

    def scale_of(self, flat: mx.array) -> mx.array | float:
        """What changes of an autoencoder's decoded values are multiplied by: a number, or one a token, `(..., 1)`."""
        return self.normalisation(flat).scale

    def _read(self, flat: mx.array) -> mx.array:
        """What the encoder reads of a flat activation."""
        read = self.normalisation(flat).activation
        if self.subtracts_bias:
            read = read - self.b_dec
        return read

    def _all_products(self, read: mx.array, keep: bool) -> mx.array:
        by_block = []
        for block in self.encoder.blocks(keep):
            by_block.append(products(read, block))
            if self.is_large and not keep:
                mx.eval(by_block[-1])
        return mx.concatenate(by_block, axis=-1)

    def _way_back(self, decoded: mx.array, activation: mx.array | None) -> mx.array:
        """Decoded values in the units of activations, and what the skip connection adds."""
        if isinstance(self.normalisation, ByFactor):
            decoded = decoded / self.normalisation.out
        is_by_token = self.normalisation.by_token and not self.is_transcoder
        if not is_by_token and self.skip is None:
            return decoded
        if activation is None:
            raise ValueRefusedError(
                "`activation` must be what the features were encoded from: the way back depends on it. Got None. Pass "
                "it as the second argument."
            )
        flat = self.flat(activation)
        if is_by_token:
            normalised = self.normalisation(flat)
            decoded = decoded * normalised.scale + normalised.shift
        if self.skip is not None:
            decoded = decoded + flat @ self.skip.T
        return decoded

    @override
    def __repr__(self) -> str:
        text = f"{self.n_features} features of width {self.d_model}"
        if self.hook:
            text += f" at {self.hook}"
        if self.hook_out not in (self.hook, ""):
            text += f" to {self.hook_out}"
        if self.is_transcoder:
            return f"Dictionary({self.dialect} transcoder, {text})"
        return f"Dictionary({self.dialect} autoencoder, {text})"


def checked_features(features: object, n_features: int) -> tuple[int, ...]:
    """Numbers of features as a tuple.

    Raises:
        SelectionError: They are no ints, not there, repeated, or none.
    """
    numbers = arguments.chosen_numbers("features", features)
    if numbers is None:
        raise SelectionError("`features` must choose something. Got None.")
    outside = [number for number in numbers if not 0 <= number < n_features]
    if outside:
        raise SelectionError(
            f"`features` must lie in 0 to {n_features - 1}, the dictionary's {n_features} features. Got {outside[0]}."
        )
    return numbers
