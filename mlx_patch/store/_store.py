"""`ActivationStore`: the activations of many prompts, in a folder of safetensors files with an index."""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from itertools import accumulate
from typing import Any, SupportsIndex, overload

import mlx.core as mx
import numpy as np
from typing_extensions import override

from mlx_patch import arguments
from mlx_patch.cache import ActivationCache, Key, as_numpy
from mlx_patch.errors import (
    FileError,
    MissingSiteError,
    SelectionError,
    ValueRefusedError,
    listed,
    shown,
)
from mlx_patch.interventions import Edit, PositionChoice
from mlx_patch.model import HookedModel, SiteChoice, checked_count
from mlx_patch.sites import Site, site_of
from mlx_patch.store._capture import CaptureProgress, capture
from mlx_patch.store._index import folder_of, read_index
from mlx_patch.store._means import mean_of_positions, mean_of_rows
from mlx_patch.store._rows import Rows, batched, evaluated, joined, prompt_rows
from mlx_patch.store._shards import OpenShard, ShardFile, open_shard, refuse_other_size

_OVER = ("batch_pos", "batch")


class ActivationStore:
    """The activations of many prompts, on disk. `store[i]` is the `ActivationCache` of prompt `i`.

    `ActivationStore.capture` makes it. Prompts may differ in length; nothing is padded. A row is one kept position of
    one prompt; the rows of a prompt stand together, and prompts are in the order in which they were given. Reading
    holds one shard in memory at a time. Its checksum is verified at the first read, and again whenever the file has
    changed on disk. Arrays are evaluated, so that any thread can use them.

    Args:
        path: The folder.

    Raises:
        KindError: It is no path.
        FileError: It holds no store, or one that is not finished; its index is not what was written; or a shard is
            gone, cut off, or a link.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self.path = folder_of(path)
        self._index = read_index(self.path)
        if not self._index.complete:
            raise FileError(
                f"`path` must be a finished store. Got {self.path}, with {len(self._index.shards)} shards so far. Call "
                "`ActivationStore.capture` with the same arguments again to continue."
            )
        for shard in self._index.shards:
            refuse_other_size(self.path, shard)
        self._files = tuple(ShardFile(self.path, shard) for shard in self._index.shards)
        self._ends = tuple(accumulate(shard.prompts for shard in self._index.shards))
        self._last: tuple[int, OpenShard] | None = None

    @classmethod
    def capture(
        cls,
        model: HookedModel,
        prompts: Iterable[Any],
        path: str | os.PathLike[str],
        sites: SiteChoice = ("resid_post",),
        pos: PositionChoice = None,
        edits: Iterable[Edit] = (),
        shard_mb: float = 256,
        batch_size: int = 8,
        progress: CaptureProgress | None = None,
    ) -> ActivationStore:
        """Capture the activations of many prompts into a folder.

        Prompts are taken one after the other, and one shard of them is in memory at a time, so that their number is
        bounded by the disk alone. Within a shard, prompts of one length run together. Layers above the last site are
        not computed.

        To resume an interrupted capture, call it again with the same arguments and prompts: it continues, and writes
        the same files byte for byte.

        Args:
            model: The model.
            prompts: Texts, chats or token ids, one an entry; a generator as well.
            path: The folder, which is made if it is not there.
            sites: As in `run_with_cache`, of those whose axes begin with batch and pos: not scores and pattern.
            pos: The positions of each prompt to keep, absolute or from the end; None is all.
            edits: As in `run`, for every prompt, each of which it sees by itself.
            shard_mb: A file has so many megabytes (10**6 bytes), and up to one prompt more.
            batch_size: The most prompts in one forward pass.
            progress: A function of the prompts that are done and of all, called after every shard. All are None where
                `prompts` has no length.
        Raises:
            FileError: The folder holds something else, or a capture of another model, sites, prompts or version; the
                message says what differs. Or another process captures into it.
            PatchError: As in `run_each`.
        """
        return cls(capture(model, prompts, path, sites, pos, edits, shard_mb, batch_size, progress))

    @property
    def sites(self) -> tuple[Site, ...]:
        """The sites that it holds."""
        return tuple(Site.parse(stored.site) for stored in self._index.sites)

    @property
    def model(self) -> dict[str, str]:
        """The `HookedModel.identity` of the model."""
        return dict(self._index.model)

    @property
    def n_rows(self) -> int:
        """The number of kept positions of all prompts together."""
        return sum(shard.rows for shard in self._index.shards)

    @property
    def lengths(self) -> tuple[int, ...]:
        """How many tokens each prompt has, kept or not."""
        return tuple(length for shard in self._shards() for length in shard.lengths)

    @property
    def rows(self) -> Rows:
        """The prompt, position and token of every row."""
        return joined([prompt_rows(shard) for shard in self._shards()])

    def __len__(self) -> int:
        return self._ends[-1]

    @overload
    def __getitem__(self, index: SupportsIndex) -> ActivationCache: ...

    @overload
    def __getitem__(self, index: slice) -> list[ActivationCache]: ...

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[n] for n in range(len(self))[arguments.checked_slice("store", index)]]
        if not arguments.is_whole(index):
            raise SelectionError(f"`store` must be indexed by the number of a prompt. Got {shown(index)}.")
        n = int(index)
        if not -len(self) <= n < len(self):
            raise SelectionError(f"`store` must be indexed from {-len(self)} to {len(self) - 1}. Got {n}.")
        n %= len(self)
        shard = self._shard(bisect_right(self._ends, n))
        return self._cache(shard, n - shard.first)

    def __iter__(self) -> Iterator[ActivationCache]:
        for shard in self._shards():
            yield from (self._cache(shard, n) for n in range(len(shard.lengths)))

    def array(self, site: Key) -> mx.array:
        """A site at every row. Shape `(row, *rest)`.

        Args:
            site: As a key of `ActivationCache`.
        Raises:
            MissingSiteError: It is not held.
        """
        name = self._name(site)
        arrays = [shard.arrays[name] for shard in self._shards()]
        if len(arrays) == 1:
            return arrays[0]
        return evaluated(mx.concatenate(arrays, axis=0))

    def numpy(self, site: Key) -> np.ndarray:
        """A site at every row, as numpy; bfloat16, which numpy lacks, as float32. Shape `(row, *rest)`.

        Args:
            site: As a key of `ActivationCache`.
        Raises:
            MissingSiteError: It is not held.
        """
        name = self._name(site)
        return np.concatenate([as_numpy(shard.arrays[name]) for shard in self._shards()], axis=0)

    def batches(self, site: Key, rows: int, seed: int | None = None) -> Iterator[tuple[mx.array, Rows]]:
        """Batches of rows of one site, to train on; the last one may be smaller.

        Args:
            site: As a key of `ActivationCache`.
            rows: How many in a batch.
            seed: Shuffle: the shards, and the rows of each shard among themselves. None is the order of prompts.
        Returns:
            Pairs of the values, of shape `(row, *rest)`, and where they come from.
        Raises:
            MissingSiteError: The site is not held.
            ValueRefusedError: `rows` is not 1 or more, or `seed` not 0 or more.
        """
        if seed is not None:
            seed = arguments.whole_number("seed", seed, 0)
        chunks = self._chunks(self._name(site), seed)
        return batched(chunks, checked_count("rows", rows, "rows"))

    def mean(
        self,
        over: str = "batch_pos",
        sites: Iterable[Key] | None = None,
        n_positions: int | None = None,
        skip: int = 0,
    ) -> ActivationCache:
        """The mean activation, for `Ablate("mean", store.mean(...), over=...)` with the same `over`.

        It is summed in float64, shard by shard, and returned in float32.

        Args:
            over: `"batch_pos"`: one mean over every row; a prompt of ten positions counts ten times as much as one of
                one. `"batch"`: a mean for each position, over the prompts that have it.
            sites: Keys of the sites; None is all.
            n_positions: For `"batch"`: the length of the prompts that are to be ablated; None where all that were
                captured have one length.
            skip: For `"batch_pos"`: how many first positions of each prompt are left out. In most models the first one
                is an attention sink, hundreds of times longer than the others, and the mean is mostly its own.
        Returns:
            A cache that is of no prompt and has no tokens. Each array has the shape `(1, pos, *rest)`, where `pos` is
            1 for `"batch_pos"`.
        Raises:
            UnknownNameError: There is no such `over`.
            MissingSiteError: A site is not held.
            ValueRefusedError: `n_positions` is missing where prompts differ in length, or given where it means nothing;
                or `skip` is, is not 0 or more, or leaves no position.
        Warns:
            OutlierPositionWarning: One position has more than 30 times the median norm, so that the mean is its own.
        """
        if sites is None:
            sites = self.sites
        names = tuple(map(self._name, arguments.entries("sites", sites, "a list of keys of sites")))
        over = arguments.choice("over", over, _OVER, " or ".join(_OVER))
        skip = arguments.whole_number("skip", skip, 0)
        if n_positions is not None:
            n_positions = arguments.whole_number("n_positions", n_positions, 1, counted=" positions")
        if over == "batch_pos":
            if n_positions is not None:
                raise ValueRefusedError(f"`n_positions` must be left out of a mean over {over!r}. Got {n_positions}.")
            length = 1
            means, positions = mean_of_rows(self._shards(), names, skip)
        else:
            if skip:
                raise ValueRefusedError(f"`skip` must be left out of a mean over {over!r}. Got {skip}.")
            length = self._mean_length(n_positions)
            means, positions = mean_of_positions(self._shards(), names, length)
        by_site = {Site.parse(name): mean for name, mean in means.items()}
        no_tokens = evaluated(mx.zeros((0, length), dtype=mx.int32))
        return ActivationCache(by_site, no_tokens, positions, length, self.model, self._index.n_layers)

    @override
    def __repr__(self) -> str:
        return f"ActivationStore({str(self.path)!r}: {len(self)} prompts, {self.n_rows} rows, {len(self.sites)} sites)"

    def _mean_length(self, n_positions: int | None) -> int:
        """The length of a mean over prompts: `n_positions`, or the length that all prompts have."""
        if n_positions is not None:
            return checked_count("n_positions", n_positions, "positions")
        lengths = set(self.lengths)
        if len(lengths) > 1:
            raise ValueRefusedError(
                f"`n_positions` must be given if prompts differ in length: they have {min(lengths)} to {max(lengths)} "
                "tokens. Got None. Give the length of the prompts to ablate."
            )
        return lengths.pop()

    def _name(self, key: Key) -> str:
        site = site_of(key, self._index.n_layers)
        if site not in self.sites:
            raise MissingSiteError(
                f"`site` must be one that the store holds. Got {site}. It holds: {listed(self.sites)}. "
                "Capture it with `ActivationStore.capture(..., sites=...)`."
            )
        return str(site)

    def _shards(self) -> Iterator[OpenShard]:
        """Each shard, opened anew, so that its arrays are freed with it."""
        return map(self._open_shard, range(len(self._index.shards)))

    def _shard(self, number: int) -> OpenShard:
        last = self._last
        if last is None or last[0] != number or not self._files[number].is_as_checked():
            self._last = None  # frees the other shard's arrays before this one's are read
            last = self._last = number, self._open_shard(number)
        return last[1]

    def _open_shard(self, number: int) -> OpenShard:
        return open_shard(self._files[number], self._index, number)

    def _chunks(self, name: str, seed: int | None) -> Iterator[tuple[mx.array, Rows]]:
        """The values and rows of each shard; with a seed, shards and the rows of each are shuffled."""
        if seed is None:
            for shard in self._shards():
                yield shard.arrays[name], prompt_rows(shard)
            return
        generator = np.random.default_rng(seed)
        for number in generator.permutation(len(self._index.shards)).tolist():
            shard = self._open_shard(number)
            rows = prompt_rows(shard)
            order = generator.permutation(len(rows))
            yield evaluated(shard.arrays[name][mx.array(order)]), rows[order]

    def _cache(self, shard: OpenShard, n: int) -> ActivationCache:
        """The cache of prompt `n` of a shard."""
        rows = slice(shard.starts[n], shard.starts[n + 1])
        arrays = {site: mx.contiguous(shard.arrays[str(site)][None, rows]) for site in self.sites}
        mx.eval(list(arrays.values()))
        tokens = mx.array([shard.tokens[n]], dtype=mx.int32)
        positions = shard.positions[rows].tolist()
        return ActivationCache(arrays, tokens, positions, shard.lengths[n], self.model, self._index.n_layers)
