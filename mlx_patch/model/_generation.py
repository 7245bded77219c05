"""Generation through mlx_lm with edits in force: its KV cache and samplers, absolute positions."""

from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any, cast

import mlx_lm
from mlx_lm.generate import GenerationResponse

from mlx_patch.architectures import Layout
from mlx_patch.engine import Frame, Hook, offset_of, refuse_misfit
from mlx_patch.errors import KindError, ValueRefusedError
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
    """A text, and what was kept while it was generated."""

    text: str
    ran: RunResult


@dataclass(frozen=True)
class _Generation:
    """All that is checked before a generation begins.

    Attributes:
        layout: The model.
        tokenizer: Its tokenizer.
        prompt: Token ids.
        placing: What resolves selectors.
        clock: What follows the passes.
        hooks: The edits.
        options: What mlx_lm's function is given besides.
    """

    layout: Layout
    tokenizer: Any
    prompt: list[int]
    placing: SelectorResolver
    clock: Clock
    hooks: list[Hook]
    options: dict[str, Any] = field(default_factory=dict)

    def call(self, function: Callable[..., Any]) -> Any:
        """What a function of mlx_lm's returns."""
        return function(self.layout.model, self.tokenizer, self.prompt, **self.options)

    def frame(self, more: Sequence[Hook] = ()) -> Frame:
        """The edits, and more hooks, in force."""
        return Frame(self.layout.model, [*self.hooks, *more], self.clock.begin)


def generate(layout: Layout, tokenizer: Any, prompt: Any, edits: Iterable[Edit], max_tokens: int, **kwargs: Any) -> str:
    """The generated text. See `HookedModel.generate`."""
    made = _prepared(layout, tokenizer, prompt, edits, {"max_tokens": max_tokens, **kwargs})
    text = made.frame().around(made.call, mlx_lm.generate)
    refuse_unused(made.hooks)
    return text


def stream(
    layout: Layout, tokenizer: Any, prompt: Any, edits: Iterable[Edit], max_tokens: int, **kwargs: Any
) -> Generator[GenerationResponse, None, None]:
    """The responses, one by one. See `HookedModel.stream`."""
    return _responses(_prepared(layout, tokenizer, prompt, edits, {"max_tokens": max_tokens, **kwargs}))


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
    made = _prepared(layout, tokenizer, prompt, edits, {"max_tokens": max_tokens, **kwargs})
    chosen = made.placing.choice("pos", positions_of_text(pos, made.placing.offset, made.clock.prompt))
    keeping = CaptureOverGeneration(layout, sites, chosen, made.clock)
    text = ""
    for response in _responses(made, keeping.hooks()):
        text += response.text
        keeping.compute()
    return GeneratedText(text, keeping.ran)


def _responses(made: _Generation, more: Sequence[Hook] = ()) -> Generator[GenerationResponse, None, None]:
    """mlx_lm's responses. The frame is in force while mlx_lm computes one, and not while the caller looks at it."""
    frame = made.frame(more)
    with closing(made.call(mlx_lm.stream_generate)) as responses:
        while True:
            response = frame.around(next, responses, None)
            if response is None:
                break
            yield response
    refuse_unused([*made.hooks, *more])


def _prepared(
    layout: Layout, tokenizer: Any, prompt: Any, edits: Iterable[Edit], options: dict[str, Any]
) -> _Generation:
    if tokenizer is None and not is_text_or_chat(prompt):
        raise KindError("`tokenizer` must be there to generate text. Got None. Pass it to HookedModel.")
    _refuse_options(options)
    ids = tokens_of(prompt, tokenizer, layout.d_vocab)
    if ids.shape[0] != 1:
        raise KindError(f"`prompt` must be one prompt. Got a batch of {ids.shape[0]}. Generate from one at a time.")
    if (prompt_cache := options.get("prompt_cache")) is not None:
        refuse_misfit(layout.model, prompt_cache, 1)
    placing = SelectorResolver(ids, tokenizer, offset_of(prompt_cache))
    _refuse_unlearned(layout, placing.offset + ids.shape[1], options["max_tokens"])
    clock = Clock(placing.offset + ids.shape[1])
    hooks = edit_hooks(layout, placing.edits(edits), clock.span, generation=True)
    return _Generation(layout, tokenizer, cast("list[int]", ids[0].tolist()), placing, clock, hooks, options)


def _refuse_unlearned(layout: Layout, prompt: int, max_tokens: int) -> None:
    """Refuse a prompt, or one with all that may be generated, that is longer than what the model has learned."""
    learned = layout.n_positions
    refuse_unlearned(layout, prompt + 1, "prompt", "Shorten it, to leave room for a token.")
    if learned and not 0 < max_tokens <= learned - prompt:
        raise ValueRefusedError(
            f"`max_tokens` must be {learned - prompt} or fewer: the model has learned {learned} positions, of which "
            f"the prompt takes {prompt}. Got {max_tokens}. Write a smaller number."
        )


def _refuse_options(options: dict[str, Any]) -> None:
    if options.get("draft_model") is not None:
        raise KindError(
            "`draft_model` must be None with edits: a pass then reads several tokens, some of which are taken back, so "
            "that steps and captures have no meaning. Leave it out, or use mlx_lm.generate inside `model.editing`."
        )
    if options.get("input_embeddings") is not None:
        raise KindError(
            "`input_embeddings` must be None with edits: positions are counted in tokens. "
            "Leave it out, and edit `embed` with Replace."
        )
    at_most = options["max_tokens"]
    if isinstance(at_most, bool) or not isinstance(at_most, int) or not (at_most == -1 or at_most > 0):
        raise ValueRefusedError(f"`max_tokens` must be 1 or more, or -1 for no limit. Got {at_most!r}.")
