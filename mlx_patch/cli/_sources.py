"""Where activations come from: runs of the sources, and their positions in the prompts."""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from mlx_patch.cache import ActivationCache
from mlx_patch.cli._prompts import PromptArguments
from mlx_patch.cli._values import read_edits, sites_of_edits
from mlx_patch.cli._verb import UsageError
from mlx_patch.errors import ShapeError, shown
from mlx_patch.interventions import Edit, Interpolate, Intervention, Replace
from mlx_patch.model import HookedModel, chosen_sites, trace
from mlx_patch.positions import align
from mlx_patch.tokens import tokens_of


@dataclass(frozen=True)
class SourceRuns:
    """The runs that activations and reference logits come from."""

    model: HookedModel
    prompts: PromptArguments
    dry: bool

    def caches(self, sites: Sequence[str]) -> list[Any]:
        """The activations of each source; None for no source."""
        sources = self.prompts.sources
        if not sources:
            return [None]
        if self.dry:
            return [self._shapes(source, sites) for source in sources]
        return self.model.run_each_with_cache(sources, sites=tuple(sites), logits_at=-1)[1]

    def reference(self, name: str) -> Any:
        """The last logits of every prompt, or of every source.

        Raises:
            UsageError: There is no such reference.
        """
        prompts = {"prompt": self.prompts.each, "source": list(self.prompts.sources)}.get(name)
        if not prompts:
            raise UsageError(
                f"`kl` must compare with 'prompt', or with 'source' where there is one. Got {shown(name)}."
            )
        if self.dry:
            return [mx.zeros((1, 1, self.model.d_vocab)) for _ in prompts]
        logits = self.model.run_each(prompts, logits_at=-1)
        if len(logits) == 1:
            return logits[0]
        return logits

    def _shapes(self, source: Any, sites: Sequence[str]) -> ActivationCache:
        """A cache of zeros, with the shapes of what a run would keep."""
        model = self.model
        tokens = _tokens(source, model)
        activations = trace(model.layout, tokens, chosen_sites(model.layout, tuple(sites)))
        zeros = {site: mx.zeros_like(array) for site, array in activations.items()}
        n_positions = tokens.shape[1]
        return ActivationCache(zeros, tokens, range(n_positions), n_positions, model.identity, model.n_layers)


def edits_of_command(options: argparse.Namespace, model: HookedModel, prompts: PromptArguments) -> list[Edit]:
    """The edits of `--edit`, whose source, where they have one, runs once.

    Raises:
        PatchError: A text is no edit, or the source does not run.
    """
    sites = sites_of_edits(options.edit)
    source = None
    if sites and prompts.sources:
        [source] = SourceRuns(model, prompts, dry=False).caches(sites)
    return read_edits(options.edit, source)


def aligned_interventions(
    interventions: Sequence[Intervention], model: HookedModel, prompts: PromptArguments
) -> list[Intervention]:
    """The interventions at the positions of their prompts: one a prompt.

    Raises:
        UsageError: There is no source.
        PatchError: As `mp.align`, or the intervention takes nothing from another prompt.
    """
    if not prompts.sources:
        raise UsageError("`--align` must have a source. Got none. Add --source TEXT.")
    aligned = []
    for intervention, source, prompt in _by_prompt(interventions, prompts):
        alignment = align(_tokens(source, model), _tokens(prompt, model), model.tokenizer)
        aligned.append(intervention.aligned(alignment))
    return aligned


def _by_prompt(
    interventions: Sequence[Intervention], prompts: PromptArguments
) -> Iterator[tuple[Intervention, Any, Any]]:
    """The intervention, the source and the prompt of each prompt. One source serves all."""
    n_repeats = len(prompts.each) // len(interventions)
    yield from zip([*interventions] * n_repeats, [*prompts.sources] * n_repeats, prompts.each, strict=True)


def refuse_unequal(interventions: Sequence[Intervention], model: HookedModel, prompts: PromptArguments) -> None:
    """Refuse sources of another length, where positions of the two must mean the same.

    Raises:
        ShapeError: There is one.
    """
    if not isinstance(interventions[0], Replace | Interpolate):
        return
    for _, source, prompt in _by_prompt(interventions, prompts):
        source_length, length = _tokens(source, model).shape[1], _tokens(prompt, model).shape[1]
        if source_length != length:
            raise ShapeError(
                f"`--source` must have as many tokens as its prompt, {length}. Got {source_length}. Add --align, "
                "which maps the positions of one to those of the other."
            )


def _tokens(prompt: Any, model: HookedModel) -> mx.array:
    """The tokens of one prompt. Shape `(1, pos)`."""
    return tokens_of(prompt, model.tokenizer, model.d_vocab)
