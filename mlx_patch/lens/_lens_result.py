"""`LogitLens`: streams, with the logits that they would give."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import mlx.core as mx
import numpy as np

from mlx_patch import arguments
from mlx_patch.errors import SelectionError, ShapeError, TokenError, shown
from mlx_patch.files import text_written
from mlx_patch.lens._fitted_lens import FittedLens, last_stream
from mlx_patch.lens._largest import largest_logits
from mlx_patch.lens._normaliser import divergence, log_normaliser, log_probs
from mlx_patch.lens._pages import lens_page
from mlx_patch.lens._top_tokens import TopTokens
from mlx_patch.metrics import Answers
from mlx_patch.model import HookedModel, ids_of_answers, read_out
from mlx_patch.plot import heatmap, token_grid, visible
from mlx_patch.sites import Site, site_of

if TYPE_CHECKING:
    import matplotlib.axes

_AT_ONCE = 2**26
"""Numbers of logits that are in memory at once, about."""


@dataclass(frozen=True, eq=False, repr=False)
class LogitLens:
    """Streams of a run, with the logits that the model would make of each. `mp.lens.logit_lens` makes it.

    Attributes:
        model: The model.
        streams: The stream at each site. Shape `(batch, pos, d_model)`.
        final: The logits of the run. Shape `(batch, pos, d_vocab)`.
        tokens: The tokens of the run. Shape `(batch, pos)`.
        positions: The absolute positions that are looked at.
        texts: The token at each of them, `*` where prompts differ; empty without a tokenizer.
        through: The fitted lens that reads the streams; None for the logit lens.
    """

    model: HookedModel
    streams: Mapping[Site, mx.array]
    final: mx.array
    tokens: mx.array
    positions: tuple[int, ...]
    texts: tuple[str, ...]
    through: FittedLens | None = None

    @property
    def sites(self) -> tuple[Site, ...]:
        """The sites, in the order of all results."""
        return tuple(self.streams)

    def logits(self, site: str | Site | tuple[str, int]) -> mx.array:
        """The logits at one site. Shape `(batch, pos, d_vocab)`.

        Raises:
            SelectionError: The lens has no such site.
        """
        chosen = self._site(site)
        if chosen == last_stream(self.model):
            return self.final
        return read_out(self.model.layout, self._read_at(chosen))

    def top(self, k: int = 5) -> TopTokens:
        """The most likely tokens at each site and position.

        Args:
            k: How many.
        Raises:
            SelectionError: `k` is not from 1 to the number of tokens.
        """
        count = arguments.whole_number("k", k)
        if not 1 <= count <= self.model.d_vocab:
            raise SelectionError(f"`k` must lie in 1 to {self.model.d_vocab}. Got {count}.")

        def best(logits: mx.array) -> tuple[mx.array, mx.array]:
            ids, values = largest_logits(logits, count)
            return ids, mx.exp(values - log_normaliser(logits)[..., None])

        ids, probs = self._over_sites(best)
        sites = tuple(site.name if site.layer is None else f"{site.name} {site.layer}" for site in self.sites)
        return TopTokens(ids, probs, self._texts_of(ids), sites, self._position_names())

    def prob(self, token: Answers) -> np.ndarray:
        """The probability of a token. Shape `(site, batch, pos)`.

        Args:
            token: A string of one token or a token id; or one for each prompt.
        """
        ids = self._ids(token)
        return self._over_sites(lambda logits: (mx.exp(_at(logits, ids) - log_normaliser(logits)),))[0]

    def rank(self, token: Answers) -> np.ndarray:
        """How many tokens are more likely than a token: 0 is the most likely. Shape `(site, batch, pos)`.

        Args:
            token: As in `prob`.
        """
        ids = self._ids(token)
        return self._over_sites(lambda logits: ((logits > _at(logits, ids)[..., None]).sum(axis=-1),))[0]

    def kl(self, reference: "LogitLens | None" = None) -> np.ndarray:
        """How far each distribution is from another, in nats: KL(reference || this). Shape `(site, batch, pos)`.

        Args:
            reference: A lens of another model, or of an edited run, at the same sites and positions: compared site by
                site. None compares with what this run ends in.
        Raises:
            ShapeError: The two differ in sites, prompts, positions or the size of the vocabulary.
        """
        if reference is None:
            expected = log_probs(self.final.astype(mx.float32))
            return self._over_sites(lambda logits: (divergence(expected, log_probs(logits)),))[0]
        arguments.instance("reference", reference, LogitLens)
        signature = (self.sites, self.final.shape)
        if signature != (reference.sites, reference.final.shape):
            raise ShapeError(
                f"`reference` must have the sites, and logits of the shape, of this lens: {signature[1]}. Got "
                f"{reference!r}, with logits of shape {reference.final.shape}. Make both of the same tokens, sites and "
                "positions."
            )
        columns = []
        for site in self.sites:
            logits = (lens.logits(site).astype(mx.float32) for lens in (reference, self))
            columns.append(np.array(divergence(*map(log_probs, logits))))
        return np.stack(columns)

    def plot(self, example: int = 0, *, token: Answers | None = None, ax: object = None) -> "matplotlib.axes.Axes":
        """The most likely token at each layer and position, in cells whose colour is its probability.

        Args:
            example: The prompt.
            token: Colour by the probability of this token in place of the most likely one.
            ax: Where to draw; by default on a new figure.
        Raises:
            MissingExtraError: matplotlib is not installed.
        """
        texts, shades = self._cells(example, token)
        label = "probability of the token"
        if token is not None:
            label = f"probability of {shown(token)}"
        tokens = self.texts or None
        return token_grid(
            texts, shades, self._row_labels(), self.positions, tokens=tokens, value_label=label, title=str(self), ax=ax
        )

    def plot_kl(
        self, reference: "LogitLens | None" = None, example: int = 0, *, ax: object = None
    ) -> "matplotlib.axes.Axes":
        """How far each distribution is from another, by layer and position: red is far, white is equal.

        Args:
            reference: As in `kl`.
            example: The prompt.
            ax: Where to draw; by default on a new figure.
        Raises:
            MissingExtraError: matplotlib is not installed.
            ShapeError: As in `kl`.
        """
        other = "the final distribution"
        example = arguments.place("example", example, self.tokens.shape[0])
        if reference is not None:
            arguments.instance("reference", reference, LogitLens)
            other = Path(reference.model.name or "the other lens").name
        return heatmap(
            self.kl(reference)[:, example],
            self._row_labels(),
            self.positions,
            tokens=self.texts or None,
            value_label="KL (nats)",
            title=f"KL from {other}",
            ax=ax,
        )

    def to_html(self, path: str | os.PathLike[str] | None = None, example: int = 0, k: int = 5) -> str:
        """The lens as one HTML page without scripts or links: tokens in cells, the `k` most likely when pointed at.

        Args:
            path: Where to write it as well, whole or not at all; None writes nothing.
            example: The prompt.
            k: How many tokens a cell shows when it is pointed at.
        """
        example = arguments.place("example", example, self.tokens.shape[0])
        top = self.top(k)
        texts = self._cell_texts(top, example)
        page = lens_page(texts, top.probs[:, example], self._row_labels(), self._column_labels(), repr(self))
        return text_written(page, path)

    def _repr_html_(self) -> str:
        return self.to_html()

    def __repr__(self) -> str:
        sites = f"{len(self.sites)} sites from {self.sites[0]} to {self.sites[-1]}"
        counts = f"{len(self.positions)} positions, {self.tokens.shape[0]} prompts"
        if self.through is None:
            return f"LogitLens({sites}, {counts})"
        return f"LogitLens({sites}, {counts}, through a {type(self.through).__name__})"

    def _cells(self, example: int, token: Answers | None) -> tuple[list[list[str]], np.ndarray]:
        """The text and the probability of each cell of a plot."""
        example = arguments.place("example", example, self.tokens.shape[0])
        top = self.top(1)
        texts = [[cell[0] for cell in row] for row in self._cell_texts(top, example)]
        if token is None:
            return texts, top.probs[:, example, :, 0]
        return texts, self.prob(token)[:, example]

    def _cell_texts(self, top: TopTokens, example: int) -> list[list[list[str]]]:
        if top.texts:
            return [site[example] for site in top.texts]
        return [[[str(token) for token in cell] for cell in row[example]] for row in top.ids.tolist()]

    def _row_labels(self) -> list[str]:
        names = {site.name for site in self.sites}
        if len(names) == 1:
            return [str(site.layer) for site in self.sites]
        return [f"{site.name} {site.layer}" for site in self.sites]

    def _column_labels(self) -> list[str]:
        if not self.texts:
            return [str(position) for position in self.positions]
        return [f"{visible(text)} ({pos})" for text, pos in zip(self.texts, self.positions, strict=True)]

    def _position_names(self) -> tuple[str, ...]:
        if not self.texts:
            return tuple(f"position {position}" for position in self.positions)
        return tuple(f"{pos} {visible(text)}" for text, pos in zip(self.texts, self.positions, strict=True))

    def _site(self, key: str | Site | tuple[str, int]) -> Site:
        site = site_of(key, self.model.n_layers)
        if site not in self.streams:
            raise SelectionError(f"`site` must be one of the lens. Got {site}. It has {self!r}.")
        return site

    def _ids(self, token: Answers) -> mx.array:
        """The ids of a token for all prompts, or of one for each. Shape `(batch or 1, 1, 1)`."""
        ids = ids_of_answers("token", token, self.model.tokenizer, self.model.d_vocab)
        if ids.size not in (1, self.tokens.shape[0]):
            raise TokenError(
                f"`token` must be one, or one for each of {self.tokens.shape[0]} prompts. Got {ids.size}. "
                "Ask once for each token."
            )
        return ids[:, None, None]

    def _texts_of(self, ids: np.ndarray) -> list:
        tokenizer = self.model.tokenizer
        if tokenizer is None:
            return []
        texts = {int(token): tokenizer.decode([int(token)]) for token in np.unique(ids)}
        return np.vectorize(texts.__getitem__, otypes=[object])(ids).tolist()

    def _over_sites(self, measure: Callable[[mx.array], Sequence[mx.array]]) -> list[np.ndarray]:
        """What a function makes of the logits of every site, in float32. Each of shape `(site, ...)`."""
        columns: list[list[np.ndarray]] = []
        for logits in self._logits_in_parts():
            arrays = measure(logits)
            mx.eval(arrays)
            columns.append([np.array(array) for array in arrays])
        return [np.concatenate(column) for column in zip(*columns, strict=True)]

    def _logits_in_parts(self) -> Iterator[mx.array]:
        """The logits of some sites after others. Shape `(site, batch, pos, d_vocab)`; in float32."""
        last = last_stream(self.model)
        n_sites = max(1, _AT_ONCE // max(1, self.final.size))
        waiting: list[Site] = []
        for site in self.sites:
            if site == last:
                if waiting:
                    yield self._read(waiting)
                    waiting = []
                yield self.final[None].astype(mx.float32)
                continue
            waiting.append(site)
            if len(waiting) == n_sites:
                yield self._read(waiting)
                waiting = []
        if waiting:
            yield self._read(waiting)

    def _read(self, sites: Sequence[Site]) -> mx.array:
        stacked = mx.stack([self._read_at(site) for site in sites])
        return read_out(self.model.layout, stacked).astype(mx.float32)

    def _read_at(self, site: Site) -> mx.array:
        """What the final norm reads for a site: the stream, or what a fitted lens makes of it."""
        if self.through is None:
            return self.streams[site]
        return self.through.translated(site, self.streams[site])


def _at(logits: mx.array, ids: mx.array) -> mx.array:
    """The logits of a token for each prompt. Shape `(site, batch, pos)`."""
    shape = (*logits.shape[:-1], 1)
    return mx.take_along_axis(logits, mx.broadcast_to(ids, shape), axis=-1)[..., 0]
