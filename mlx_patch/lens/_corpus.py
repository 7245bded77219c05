"""The prompts that a lens is fitted to, and those that are held out: run when they are wanted, or read from a store."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeGuard, runtime_checkable

import mlx.core as mx
import numpy as np

from mlx_patch import arguments
from mlx_patch.cache import ActivationCache
from mlx_patch.errors import KindError, SelectionError, ValueRefusedError, listed
from mlx_patch.fingerprints import differences
from mlx_patch.lens._fitted_lens import last_stream
from mlx_patch.lens._logit_lens import refuse_other_sites
from mlx_patch.model import HookedModel, SiteChoice, chosen_sites, prompts_of
from mlx_patch.sites import Site


@runtime_checkable
class Caches(Protocol):
    """What a store is: activations of prompts, by number."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: Any, /) -> Any: ...


Corpus = Iterable[Any] | Caches
"""Texts, chats or token ids; or an `ActivationStore`, or a list of caches."""


@dataclass(frozen=True, eq=False)
class Split:
    """The numbers of prompts that are fitted to, and of those that are held out. In order."""

    fitted: tuple[int, ...]
    held_out: tuple[int, ...]


def split_corpus(n_prompts: int, held_out: float, seed: int) -> Split:
    """Hold a share of the prompts out, at least one, chosen by a seed.

    Raises:
        ValueRefusedError: There are fewer than two prompts, or the share leaves none to fit to.
    """
    held_out = arguments.share("held_out", held_out)
    seed = arguments.whole_number("seed", seed, 0)
    n_held_out = max(1, round(held_out * n_prompts))
    if n_held_out >= n_prompts:
        raise ValueRefusedError(
            f"`corpus` must hold 2 prompts or more, one to fit to and one to hold out. Got {n_prompts} with "
            f"held_out={held_out}. Give more prompts."
        )
    order = np.random.default_rng(seed).permutation(n_prompts).tolist()
    fitted, held = sorted(order[n_held_out:]), sorted(order[:n_held_out])
    return Split(tuple(fitted), tuple(held))


@dataclass(frozen=True, eq=False)
class Runs:
    """The activations of prompts, each run when it is asked for.

    Attributes:
        model: The model.
        prompts: Token ids, each of shape `(1, pos)`.
        sites: What is captured.
        skip: How many first positions are left out.
    """

    model: HookedModel
    prompts: Sequence[mx.array]
    sites: tuple[Site, ...]
    skip: int

    def __len__(self) -> int:
        return len(self.prompts)

    def order(self, numbers: Sequence[int], generator: np.random.Generator) -> list[int]:
        """The order of an epoch: a shuffled one."""
        return generator.permutation(numbers).tolist()

    def rows(self, numbers: Sequence[int]) -> dict[Site, mx.array]:
        """The streams of some prompts, without their first positions, one below the other. Shape `(row, d_model)`."""
        prompts = [self.prompts[number] for number in numbers]
        _, caches = self.model.run_each_with_cache(prompts, self.sites, logits_at=-1)
        return _rows(caches, self.sites, self.skip)


@dataclass(frozen=True, eq=False)
class FromStore:
    """The activations of prompts that were captured before. As `Runs`."""

    caches: Caches
    sites: tuple[Site, ...]
    skip: int

    def __len__(self) -> int:
        return len(self.caches)

    def order(self, numbers: Sequence[int], generator: np.random.Generator) -> list[int]:
        """The order of an epoch: that of the store, of which one file is in memory at a time."""
        return sorted(numbers)

    def rows(self, numbers: Sequence[int]) -> dict[Site, mx.array]:
        """As that of `Runs`."""
        return _rows([self.caches[number] for number in numbers], self.sites, self.skip)


def batches(
    corpus: Runs | FromStore, numbers: Sequence[int], size: int, generator: np.random.Generator
) -> Iterator[dict[Site, mx.array]]:
    """The streams of batches of prompts, epoch after epoch, without end."""
    while True:
        order = corpus.order(numbers, generator)
        for begin in range(0, len(order), size):
            yield corpus.rows(order[begin : begin + size])


def activations_of(model: HookedModel, corpus: Corpus, sites: tuple[Site, ...], skip: int) -> Runs | FromStore:
    """The activations of a corpus at some sites and where the last block ends.

    Raises:
        KindError: It is one prompt, or holds something that is none.
        ValueRefusedError: A prompt has no position left behind the first ones, or a store is of another model.
        MissingSiteError: A store does not hold a site.
    """
    needed = tuple(dict.fromkeys((*sites, last_stream(model))))
    if _are_caches(corpus):
        stored = FromStore(corpus, needed, skip)
        _refuse_other_store(model, corpus[0], needed)
        return stored
    return Runs(model, prompts_behind(model, corpus, skip), needed, skip)


def prompts_behind(model: HookedModel, corpus: Corpus, skip: int) -> list[mx.array]:
    """The tokens of each prompt of a corpus. Shape `(1, pos)`.

    Raises:
        KindError: It is a store, one prompt, or holds something that is none.
        ValueRefusedError: A prompt has no position left behind the first ones.
    """
    if _are_caches(corpus) or not isinstance(corpus, Iterable):
        raise KindError(
            "`corpus` must hold prompts, whose gradients are taken here. Got activations. Give texts, chats or token "
            "ids."
        )
    prompts = list(prompts_of(corpus, model.tokenizer, model.d_vocab))
    for number, prompt in enumerate(prompts):
        if prompt.shape[1] <= skip:
            raise ValueRefusedError(
                f"`corpus` must hold prompts of more than {skip} tokens, of which the first are left out. Got "
                f"{prompt.shape[1]} in entry {number}. Leave it out, or choose a smaller `skip`."
            )
    return prompts


def stream_sites(model: HookedModel, sites: SiteChoice) -> tuple[Site, ...]:
    """The sites to fit a lens at, of the stream, but for where the last block ends, which needs none.

    Raises:
        MissingSiteError: A site is not of the stream.
        SelectionError: None is left.
    """
    every_site = chosen_sites(model.layout, sites)
    refuse_other_sites(every_site)
    chosen = tuple(site for site in every_site if site != last_stream(model))
    if not chosen:
        raise SelectionError(
            f"`sites` must have one before {last_stream(model)}, which the model reads itself. Got none."
        )
    return chosen


def checked_skip(skip: object) -> int:
    """How many first positions are left out.

    Raises:
        ValueRefusedError: It is no number from 0.
    """
    return arguments.whole_number("skip", skip, 0, counted=" positions", kind_error=ValueRefusedError)


def _are_caches(corpus: Any) -> TypeGuard[Caches]:
    if isinstance(corpus, str | Mapping) or not (hasattr(corpus, "__getitem__") and hasattr(corpus, "__len__")):
        return False
    if isinstance(corpus, mx.array | np.ndarray):
        return False
    return len(corpus) > 0 and isinstance(corpus[0], ActivationCache)


def _refuse_other_store(model: HookedModel, cache: ActivationCache, needed: Sequence[Site]) -> None:
    stored = {"model": _without_name(cache.model)}
    clauses = listed(differences(stored, {"model": _without_name(model.identity)}))
    if clauses:
        raise ValueRefusedError(
            f"`corpus` must hold activations of this model. Got those of {clauses}. Capture them again."
        )
    for site in needed:
        cache[site]  # the cache says what it lacks


def _without_name(identity: Mapping[str, str]) -> dict[str, str]:
    """An identity without the folder that the model was loaded from."""
    return {name: text for name, text in identity.items() if name != "name"}


def _rows(caches: Sequence[ActivationCache], sites: Sequence[Site], skip: int) -> dict[Site, mx.array]:
    rows = {}
    for site in sites:
        streams = [_behind(cache, site, skip) for cache in caches]
        rows[site] = mx.concatenate(streams)
    if not rows[sites[0]].size:
        raise ValueRefusedError(
            f"`corpus` must hold positions behind the first {skip}. Got none. Choose a smaller `skip`."
        )
    mx.eval(rows)
    return rows


def _behind(cache: ActivationCache, site: Site, skip: int) -> mx.array:
    """A stream behind the first positions. Shape `(row, d_model)`."""
    indices = [index for index, position in enumerate(cache.positions) if position >= skip]
    stream = cache[site][:, mx.array(indices, mx.int32)]
    return stream.flatten(0, -2)
