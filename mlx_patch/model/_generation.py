"""Generation through mlx_lm, its KV cache and its samplers, with edits in force."""

from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any, cast

import mlx_lm
from mlx_lm.generate import GenerationResponse

from mlx_patch.architectures import Layout
from mlx_patch.engine import Frame, Hook, offset_of, refuse_misfit
from mlx_patch.errors import KindError, ValueRefusedError, shown
from mlx_patch.interventions import Edit
from mlx_patch.model._capture_over_generation import CaptureOverGeneration, PositionsOfText, positions_of_text
from mlx_patch.model._clock import Clock
from mlx_patch.model._hooks import edit_hooks, refuse_unused
from mlx_patch.model._room import refuse_unlearned
from mlx_patch.model._running import RunResult
from mlx_patch.model._selector_resolver import SelectorResolver
from mlx_patch.sites import Site
from mlx_patch.tokens import is_text_or_chat, tokens_of


@dataclass(frozen=True)
class GeneratedText:
    """A generated text, and the activations captured while it was generated."""

    text: str
    captures: RunResult


@dataclass(frozen=True)
class _Generation:
    """A generation that is checked and ready to begin.

    Attributes:
        layout: The model.
        tokenizer: Its tokenizer.
        prompt: Token ids.
        resolver: It resolves selectors.
        clock: It records the passes.
        hooks: The edits.
        options: Further keywords of mlx_lm's function.
    """

    layout: Layout
    tokenizer: Any
    prompt: list[int]
    resolver: SelectorResolver
    clock: Clock
    hooks: list[Hook]
    options: dict[str, Any] = field(default_factory=dict)

    def call(self, function: Callable[..., Any]) -> Any:
        """Call one of mlx_lm's generating functions."""
        return function(self.layout.model, self.tokenizer, self.prompt, **self.options)

    def frame(self, captures: Sequence[Hook] = ()) -> Frame:
        """The frame of the edits and of some captures."""
        return Frame(self.layout.model, [*self.hooks, *captures], self.clock.begin)


def generate(layout: Layout, tokenizer: Any, prompt: Any, edits: Iterable[Edit], max_tokens: int, **kwargs: Any) -> str:
    """The generated text. See `HookedModel.generate`."""
    generation = _prepare(layout, tokenizer, prompt, edits, {"max_tokens": max_tokens, **kwargs})
    text = generation.frame().around(generation.call, mlx_lm.generate)
    refuse_unused(generation.hooks)
    return text


def stream(
    layout: Layout, tokenizer: Any, prompt: Any, edits: Iterable[Edit], max_tokens: int, **kwargs: Any
) -> Generator[GenerationResponse, None, None]:
    """The responses, one by one. See `HookedModel.stream`."""
    generation = _prepare(layout, tokenizer, prompt, edits, {"max_tokens": max_tokens, **kwargs})
    return _responses(generation)


def generate_with_cache(
    layout: Layout,
    tokenizer: Any,
    prompt: Any,
    edits: Iterable[Edit],
    max_tokens: int,
    *,
    sites: tuple[Site, ...],
    pos: PositionsOfText,
    **kwargs: Any,
) -> GeneratedText:
    """The generated text and the activations. See `HookedModel.generate_with_cache`."""
    generation = _prepare(layout, tokenizer, prompt, edits, {"max_tokens": max_tokens, **kwargs})
    resolver, clock = generation.resolver, generation.clock
    positions = resolver.choice("pos", positions_of_text(pos, resolver.offset, clock.prompt))
    capture = CaptureOverGeneration(layout, sites, positions, clock)
    text = ""
    for response in _responses(generation, capture.hooks()):
        text += response.text
        capture.compute()
    return GeneratedText(text, capture.result())


def _responses(generation: _Generation, captures: Sequence[Hook] = ()) -> Generator[GenerationResponse, None, None]:
    """mlx_lm's responses. The frame is in force while mlx_lm computes one, and not while the caller looks at it."""
    frame = generation.frame(captures)
    with closing(generation.call(mlx_lm.stream_generate)) as responses:
        while True:
            response = frame.around(next, responses, None)
            if response is None:
                break
            yield response
    refuse_unused([*generation.hooks, *captures])


def _prepare(
    layout: Layout, tokenizer: Any, prompt: Any, edits: Iterable[Edit], options: dict[str, Any]
) -> _Generation:
    if tokenizer is None and not is_text_or_chat(prompt):
        raise KindError("`tokenizer` must be given to generate text. Got None. Pass it to HookedModel.")
    _refuse_options(options)
    ids = tokens_of(prompt, tokenizer, layout.d_vocab)
    if ids.shape[0] != 1:
        raise KindError(f"`prompt` must be one prompt. Got a batch of {ids.shape[0]}. Generate from one at a time.")
    prompt_cache = options.get("prompt_cache")
    if prompt_cache is not None:
        refuse_misfit(layout.model, prompt_cache, 1)
    resolver = SelectorResolver(ids, tokenizer, offset_of(prompt_cache))
    end = resolver.offset + ids.shape[1]
    _refuse_unlearned(layout, end, options["max_tokens"])
    clock = Clock(end)
    hooks = edit_hooks(layout, resolver.edits(edits), clock.span, generation=True)
    token_ids = cast("list[int]", ids[0].tolist())
    return _Generation(layout, tokenizer, token_ids, resolver, clock, hooks, options)


def _refuse_unlearned(layout: Layout, prompt: int, max_tokens: int) -> None:
    """Refuse more tokens, of the prompt and generated, than the positions that the model has learned."""
    learned = layout.n_positions
    refuse_unlearned(layout, prompt + 1, "prompt", "Shorten it, to leave room for a token.")
    if learned and not 0 < max_tokens <= learned - prompt:
        raise ValueRefusedError(
            f"`max_tokens` must be {learned - prompt} or fewer: the model has learned {learned} positions, and the "
            f"prompt takes {prompt}. Got {max_tokens}. Write a smaller number."
        )


def _refuse_options(options: dict[str, Any]) -> None:
    if options.get("draft_model") is not None:
        raise KindError(
            "`draft_model` must be None with edits. With one, a pass reads several tokens and takes some back, so "
            "steps and captures have no meaning. Leave it out, or use mlx_lm.generate inside `model.editing`."
        )
    if options.get("input_embeddings") is not None:
        raise KindError(
            "`input_embeddings` must be None with edits: positions are counted in tokens. "
            "Leave it out, and edit `embed` with Replace."
        )
    _refuse_limit(options["max_tokens"])


def _refuse_limit(max_tokens: object) -> None:
    if isinstance(max_tokens, bool) or not isinstance(max_tokens, int) or not (max_tokens == -1 or max_tokens > 0):
        raise ValueRefusedError(f"`max_tokens` must be 1 or more, or -1 for no limit. Got {shown(max_tokens)}.")
