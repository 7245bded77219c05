"""`ActivationCache`: the activations of one run, by site."""

import os
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import NoReturn

import mlx.core as mx
import numpy as np
from typing_extensions import override

from mlx_patch import arguments
from mlx_patch._cachefile import Contents, read_cache, write_cache
from mlx_patch._cachetext import cache_table, cache_text
from mlx_patch.errors import MissingSiteError, SelectionError, ShapeError, listed
from mlx_patch.idioms import CACHE_HINTS, refuse_attribute
from mlx_patch.interventions.sources import Aligned
from mlx_patch.plot import html_fragment
from mlx_patch.positions import Alignment
from mlx_patch.sites import SITES, Site, site_of

Key = str | Site | tuple[str] | tuple[str, int] | tuple[str, int, str]
"""A site as TransformerLens's users write it: `"resid_post.3"`, `("resid_post", 3)`, `("z", 3, "attn")`."""


class ActivationCache(Mapping[Site, mx.array]):
    """The activations of one run: a mapping of `Site` to array, read as in TransformerLens.

    `cache["resid_post", 12]`, `cache["resid_post", -1]`, `cache["blocks.12.hook_resid_post"]` and
    `cache[Site("resid_post", 12)]` are the same array. `HookedModel.run_with_cache` makes it.

    Args:
        activations: Arrays by site, each with the axes of its site.
        tokens: The tokens of the run. Shape `(batch, pos)`.
        positions: The absolute positions that the arrays hold, in order.
        n_positions: How many positions the whole prompt has.
        model: What `mlx_patch.provenance.model_identity` says of the model.
        n_layers: How many blocks the model has, from which negative layers count; None if it is not known.

    Example:
        >>> cache = ActivationCache({Site("resid_post", 0): mx.zeros((1, 2, 4))}, mx.array([[5, 6]]), (0, 1), 2)
        >>> cache
        ActivationCache(resid_post 0; positions 0-1 of 2; 32 bytes)
        >>> cache["resid_post", 0].shape
        (1, 2, 4)
    """

    def __init__(
        self,
        activations: Mapping[Site, mx.array],
        tokens: mx.array,
        positions: Sequence[int],
        n_positions: int,
        model: Mapping[str, str] | None = None,
        n_layers: int | None = None,
    ):
        self._arrays = dict(arguments.mapping("activations", activations, "a mapping of Sites to arrays"))
        for site, array in self._arrays.items():
            arguments.instance("activations", site, Site)
            arguments.instance("activations", array, mx.array)
        self.tokens = arguments.numeric("tokens", arguments.instance("tokens", tokens, mx.array))
        self.positions = arguments.whole_numbers("positions", positions, "a list of positions")
        self.n_positions = arguments.whole_number("n_positions", n_positions, 1)
        self.model: dict[str, str] = {}
        if model is not None:
            self.model = dict(arguments.mapping("model", model, "a mapping of texts, `model.identity`"))
        self.n_layers = n_layers
        if n_layers is not None:
            self.n_layers = arguments.whole_number("n_layers", n_layers, 1)

    def __getattr__(self, name: str) -> NoReturn:
        """Names that there are not: what to write for those of other libraries.

        Raises:
            UnknownAttributeError: Always.
        """
        refuse_attribute("ActivationCache", name, CACHE_HINTS, dir(type(self)))

    @override
    def __getitem__(self, key: Key) -> mx.array:
        site = self._site(key)
        if site not in self._arrays:
            self._refuse_layer(site)
            raise MissingSiteError(
                f"The cache does not hold {site}. It has: {self._held()}. "
                "Capture it with `run_with_cache(..., sites=...)`."
            )
        return self._arrays[site]

    @override
    def __contains__(self, key: object) -> bool:
        if not isinstance(key, str | Site | tuple):
            return False
        return self._site(key) in self._arrays

    @override
    def __iter__(self) -> Iterator[Site]:
        return iter(self._arrays)

    @override
    def __len__(self) -> int:
        return len(self._arrays)

    def __copy__(self) -> "ActivationCache":
        return ActivationCache(self._arrays, self.tokens, self.positions, self.n_positions, self.model, self.n_layers)

    def aligned(self, alignment: Alignment) -> Aligned:
        """These activations at the positions of another prompt, as `Replace(cache, positions=alignment)` uses them.

        Raises:
            ShapeError, SelectionError: The cache is not of the alignment's source; `alignment.inverse` may be.
        """
        return Aligned(self, arguments.instance("alignment", alignment, Alignment, "Use `mp.align`."))

    def layers(self, name: str) -> tuple[int, ...]:
        """The layers at which the cache holds a site, in order."""
        known = arguments.string("name", name)
        sites = [site for site in self._arrays if site.name == known]
        return tuple(sorted(site.layer for site in sites if site.layer is not None))

    def stack(self, name: str, layers: Sequence[int] | None = None) -> mx.array:
        """One site at several layers, as one array with a new first axis.

        Args:
            name: A short name, `"resid_post"`.
            layers: The layers, in this order; None is all that the cache holds.
        Returns:
            Shape `(layer, *axes of the site)`.
        Raises:
            UnknownNameError: There is no such site.
            MissingSiteError: The cache does not hold a layer.
            ShapeError: The layers differ in shape.
        """
        name = arguments.choice("name", name, SITES, "a site")
        chosen = self.layers(name)
        if layers is not None:
            chosen = arguments.chosen_numbers("layers", layers) or ()
        if not chosen:
            raise MissingSiteError(f"The cache does not hold {name!r}. It has: {self._held()}.")
        arrays = [self[name, layer] for layer in chosen]
        shapes = {array.shape for array in arrays}
        if len(shapes) > 1:
            raise ShapeError(
                f"`layers` must have activations of one shape to be stacked. Got {sorted(shapes)}. Choose fewer layers."
            )
        return mx.stack(arrays)

    def parts(self) -> dict[Site, mx.array]:
        """The parts that the stream is the sum of: the embedding, and what each layer's mixer and MLP add, in order.

        The mixer's is `mixer_out`, or `attn_out` where the cache holds no `mixer_out`. What experts add is in
        `mlp_out`. Capture them all: `sites=("embed", "attn_out", "mlp_out")`. Where a model multiplies or mixes its
        stream, their sum is not the stream; `mp.lens.direct_logits` says so.

        Raises:
            MissingSiteError: The cache lacks the embedding, or holds parts of some layers only.
        """
        mixer = "mixer_out" if self.layers("mixer_out") else "attn_out"
        if Site("embed") not in self or not self.layers(mixer):
            raise MissingSiteError(
                f"The cache must hold the parts of the stream. It has: {self._held()}. "
                "Capture `run_with_cache(..., sites=('embed', 'attn_out', 'mlp_out'))`, or 'mixer_out' in place of "
                "'attn_out' where not every layer is attention."
            )
        layers = sorted({*self.layers(mixer), *self.layers("mlp_out")})
        if self.n_layers is not None and layers != list(range(self.n_layers)):
            raise MissingSiteError(
                f"The cache must hold the parts of all {self.n_layers} layers. It has those of {layers}. Capture all: "
                "'mixer_out' in place of 'attn_out' where not every layer is attention."
            )
        sites = [Site("embed"), *(Site(name, layer) for layer in layers for name in (mixer, "mlp_out"))]
        return {site: self[site] for site in sites if site in self}

    def accumulated(self) -> dict[Site, mx.array]:
        """The stream after each of the `parts`, as their sum so far, by the part that was added last.

        Raises:
            MissingSiteError: As for `parts`.
        """
        sums: dict[Site, mx.array] = {}
        stream: mx.array | None = None
        for site, part in self.parts().items():
            stream = part if stream is None else stream + part
            sums[site] = stream
        return sums

    def to_numpy(self) -> dict[str, np.ndarray]:
        """Every array as numpy, by the full name of its site; bfloat16, which numpy lacks, as float32."""
        return {str(site): as_numpy(array) for site, array in self._arrays.items()}

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a safetensors file: arrays in their dtypes, sites, tokens, positions, model. Whole or not at all.

        Raises:
            FileError: `path` cannot be written to, or does not end in `.safetensors`.
            ValueRefusedError: The cache does not fit together: an array has not a row for each position, say.
        """
        contents = Contents(self._arrays, self.tokens, self.positions, self.n_positions, self.model, self.n_layers)
        write_cache(path, contents)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "ActivationCache":
        """Read a file that `save` wrote, into memory: later changes of the file do not matter. Any thread may use it.

        Raises:
            FileError: There is no such file, or it is not one that `save` wrote, or not as it was written.
        """
        contents = read_cache(path)
        return cls(
            contents.activations,
            contents.tokens,
            contents.positions,
            contents.n_positions,
            contents.model,
            contents.n_layers,
        )

    @override
    def __repr__(self) -> str:
        return cache_text(self._arrays, self.positions, self.n_positions, self._n_prompts)

    @property
    def _n_prompts(self) -> int:
        return len(self.tokens)

    def _repr_html_(self) -> str:
        return html_fragment(f"<p>{escape(repr(self))}</p>{cache_table(self._arrays)}")

    def _ipython_key_completions_(self) -> list[str | tuple[str, int]]:
        """The keys that IPython and Jupyter complete: `("resid_post", 3)`, and the name of a site of no layer."""
        return [site.name if site.layer is None else (site.name, site.layer) for site in self._arrays]

    def _held(self) -> str:
        """The sites of the cache by their short names, with their layers."""
        names = dict.fromkeys(site.name for site in self._arrays)
        entries = []
        for name in names:
            layers = list(self.layers(name))
            if layers:
                entries.append(f"{name} of layers {layers}")
            else:
                entries.append(name)
        return listed(entries) or "nothing"

    def _refuse_layer(self, site: Site) -> None:
        if self.n_layers is not None and site.layer is not None and site.layer >= self.n_layers:
            raise SelectionError(
                f"`layer` must lie in {-self.n_layers} to {self.n_layers - 1}, the model's {self.n_layers} layers. "
                f"Got {site.layer}. The last is -1."
            )

    def _site(self, key: object) -> Site:
        return site_of(key, self.n_layers)


def as_numpy(array: mx.array) -> np.ndarray:
    """The array as numpy; bfloat16, which numpy lacks, as float32."""
    if array.dtype == mx.bfloat16:
        array = array.astype(mx.float32)
    return np.array(array)
