"""`fit_tuned_lens`: learn, layer by layer, what a stream lacks to be read as the last one is.

The loss is KL(final distribution || lens). Its derivative by the lens's logits is the difference of the two
distributions, so that it goes back through the head by `mx.vjp`, and the loss is never computed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import mlx.core as mx
import numpy as np

from mlx_patch import arguments
from mlx_patch.errors import KindError, ValueRefusedError
from mlx_patch.lens._corpus import Corpus, activations_of, batches, checked_skip, split_corpus, stream_sites
from mlx_patch.lens._fit_record import FitRecord
from mlx_patch.lens._fitted_lens import last_stream, lens_identity
from mlx_patch.lens._held_out import chunks_of, held_out_scores
from mlx_patch.lens._normaliser import probabilities
from mlx_patch.lens._tuned_lens import TunedLens, affine
from mlx_patch.model import HookedModel, SiteChoice, checked_count, read_out, refuse_read_out, require_hooked
from mlx_patch.sites import Site

if TYPE_CHECKING:
    import mlx.optimizers

_Parameters = dict[str, dict[str, mx.array]]
"""A matrix and a bias, in units of the stream's size, by the name of their site."""


def fit_tuned_lens(
    model: HookedModel,
    corpus: Corpus,
    sites: SiteChoice = "resid_post",
    *,
    steps: int = 250,
    positions: int = 64,
    batch_size: int = 8,
    learning_rate: float = 1e-3,
    optimizer: mlx.optimizers.Optimizer | None = None,
    skip: int = 1,
    held_out: float = 0.2,
    seed: int = 0,
) -> TunedLens:
    """Learn an affine map a site, so that the model's final norm and head read there what they read at the end.

    Each step runs some prompts, or reads them from a store, draws some of their positions, and improves the maps of all
    sites. So memory holds the streams of one batch, and the logits of some sites at `positions` positions. A step costs
    a run of the batch, and for each site the unembedding of `positions` positions three times.

    Args:
        model: The model. Its weights stay as they are.
        corpus: Texts, chats or token ids; or an `ActivationStore` that holds `sites` and the last `resid_post`. Of a
            store, one file is in memory at a time, and prompts come in its order.
        sites: Of the stream: "resid_pre", "resid_mid", "resid_post" at all layers, or single ones.
        steps: How many steps. 0 leaves the logit lens as it is, bit for bit.
        positions: How many positions a step draws.
        batch_size: How many prompts they are drawn from.
        learning_rate: Of AdamW at the beginning; it falls to 0 along half a cosine.
        optimizer: One of mlx.optimizers in AdamW's place, not used before; `learning_rate` is then its own.
        skip: How many first positions are left out. The first one's stream is hundreds of times longer than the others
            in most models, and is another distribution.
        held_out: The share of prompts that is held out, above 0 and below 1.
        seed: Which, and which positions each step draws.
    Returns:
        The lens. `fit` has the divergences on held-out prompts, before and after.
    Raises:
        MissingSiteError: A site is not of the stream, or the stream alone does not decide the model's logits.
        ValueRefusedError: There are fewer than two prompts; a number does not fit; the loss became NaN.
        PatchError: As `HookedModel.run_each_with_cache` says.
    Source:
        Belrose et al. 2023, https://arxiv.org/abs/2303.08112, sections 3 and 3.1.
    """
    model = require_hooked("model", model)
    refuse_read_out(model.layout)
    chosen = stream_sites(model, sites)
    skip = checked_skip(skip)
    activations = activations_of(model, corpus, chosen, skip)
    halves = split_corpus(len(activations), held_out, seed)
    steps, seed = _checked_steps(steps), arguments.whole_number("seed", seed, 0)
    used = _optimizer(optimizer, learning_rate, steps)
    positions = checked_count("positions", positions, "positions")
    batch_size = checked_count("batch_size", batch_size, "prompts")
    generator = np.random.default_rng(seed)
    trained_on = batches(activations, halves.fitted, batch_size, generator)
    training = _Training.of(model, chosen, next(trained_on), used)
    for _ in range(steps):
        training.step(_drawn(next(trained_on), positions, generator))
    matrices, biases = training.maps()
    _refuse_not_finite(matrices)

    def translated(site: Site, stream: mx.array) -> mx.array:
        return affine(stream, matrices[site], biases[site])

    scores = held_out_scores(model, activations, halves.held_out, chosen, translated)
    settings: dict[str, Any] = {
        "steps": steps,
        "positions": positions,
        "batch_size": batch_size,
        "optimizer": type(used).__name__,
        "learning_rate": learning_rate,
        "skip": skip,
        "held_out": held_out,
        "seed": seed,
    }
    identity = lens_identity(model)
    fit = FitRecord(settings, identity, len(halves.fitted), training.n_positions, *scores)
    return TunedLens(model, identity, matrices, fit, biases)


def _checked_steps(steps: object) -> int:
    return arguments.whole_number("steps", steps, 0, kind_error=ValueRefusedError)


def _optimizer(optimizer: object, learning_rate: float, steps: int) -> mlx.optimizers.Optimizer:
    """The caller's optimizer, or AdamW.

    Raises:
        KindError: It is none of mlx.optimizers.
        ValueRefusedError: It was used before, so that its state is another model's; or the rate is not above 0.
    """
    from mlx.optimizers import AdamW, Optimizer, cosine_decay

    learning_rate = arguments.number("learning_rate", learning_rate, above=0)
    if optimizer is None:
        return AdamW(cosine_decay(learning_rate, max(1, steps)))
    if not isinstance(optimizer, Optimizer):
        raise KindError(f"`optimizer` must be one of mlx.optimizers. Got {type(optimizer).__name__}.")
    if optimizer.step.item():
        raise ValueRefusedError(
            f"`optimizer` must not have been used before. Got one after {optimizer.step.item()} steps. Make a new one."
        )
    return optimizer


def _drawn(rows: Mapping[Site, mx.array], positions: int, generator: np.random.Generator) -> dict[Site, mx.array]:
    """Some positions of a batch, the same at every site."""
    n_rows = len(next(iter(rows.values())))
    chosen = mx.array(generator.permutation(n_rows)[:positions])
    return {site: stream[chosen] for site, stream in rows.items()}


def _is_finite(matrix: mx.array) -> bool:
    return bool(mx.all(mx.isfinite(matrix)).item())


def _refuse_not_finite(matrices: Mapping[Site, mx.array]) -> None:
    broken = [site for site, matrix in matrices.items() if not _is_finite(matrix)]
    if broken:
        raise ValueRefusedError(
            f"`learning_rate` must be small enough that the maps stay finite. Got infinite ones at {broken[0]} and "
            f"{len(broken) - 1} other sites. Choose a smaller one."
        )


@dataclass(eq=False)
class _Training:
    """Maps that are being learnt.

    Attributes:
        model: The model.
        sizes: The root mean square of the stream at each site: the unit in which its bias is learnt.
        parameters: The maps.
        optimizer: What improves them.
        n_positions: How many positions were drawn so far.
    """

    model: HookedModel
    sizes: dict[Site, float]
    parameters: _Parameters
    optimizer: mlx.optimizers.Optimizer
    n_positions: int = 0

    @classmethod
    def of(
        cls,
        model: HookedModel,
        sites: Sequence[Site],
        rows: Mapping[Site, mx.array],
        optimizer: mlx.optimizers.Optimizer,
    ) -> _Training:
        """Maps that add nothing, for streams of the size of some."""
        sizes, parameters = {}, {}
        for site in sites:
            stream = rows[site].astype(mx.float32)
            width = stream.shape[-1]
            size = mx.sqrt((stream * stream).mean())
            sizes[site] = float(np.array(size))
            parameters[str(site)] = {"matrix": mx.zeros((width, width)), "bias": mx.zeros(width)}
        return cls(model, sizes, parameters, optimizer)

    def step(self, rows: Mapping[Site, mx.array]) -> None:
        """Improve the maps by some positions. Each of `rows` has the shape `(position, d_model)`."""
        final = read_out(self.model.layout, rows[last_stream(self.model)])
        expected = probabilities(final.astype(mx.float32))
        self.n_positions += len(final)
        gradients: _Parameters = {}
        for chunk in chunks_of(tuple(self.sizes), final.size):
            gradients |= self._gradients(chunk, rows, expected)
        self.parameters = self.optimizer.apply_gradients(gradients, self.parameters)
        mx.eval(self.parameters, self.optimizer.state)

    def _gradients(self, chunk: Sequence[Site], rows: Mapping[Site, mx.array], expected: mx.array) -> _Parameters:
        """The derivative of the mean divergence at some sites by their maps."""
        streams = [rows[site].astype(mx.float32) for site in chunk]

        def read(*parameters: mx.array) -> list[mx.array]:
            matrices, biases = parameters[::2], parameters[1::2]
            scaled = [self.sizes[site] * bias for site, bias in zip(chunk, biases, strict=True)]
            translated = mx.stack(list(map(affine, streams, matrices, scaled)))
            return [read_out(self.model.layout, translated)]

        flat: list[mx.array] = []
        for site in chunk:
            parameters = self.parameters[str(site)]
            flat += [parameters["matrix"], parameters["bias"]]
        [logits] = read(*flat)
        slope = probabilities(logits.astype(mx.float32)) - expected
        _, slopes = mx.vjp(read, flat, [slope.astype(logits.dtype)])
        gradients = [array / len(expected) for array in slopes]
        mx.eval(gradients)
        matrices, biases = gradients[::2], gradients[1::2]
        by_site = zip(chunk, matrices, biases, strict=True)
        return {str(site): {"matrix": matrix, "bias": bias} for site, matrix, bias in by_site}

    def maps(self) -> tuple[dict[Site, mx.array], dict[Site, mx.array]]:
        """The matrices and the biases, in the stream's own units."""
        matrices, biases = {}, {}
        for site, size in self.sizes.items():
            parameters = self.parameters[str(site)]
            matrices[site] = parameters["matrix"]
            biases[site] = size * parameters["bias"]
        mx.eval(matrices, biases)
        return matrices, biases
