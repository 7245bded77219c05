"""`HookedModel`: an mlx_lm model whose activations can be read and edited."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NoReturn

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx_lm.generate import GenerationResponse

from mlx_patch import arguments
from mlx_patch.architectures import UNKNOWN, Family, registered_family
from mlx_patch.cache import ActivationCache
from mlx_patch.errors import KindError
from mlx_patch.idioms import MODEL_HINTS, knows_idioms, refuse_attribute
from mlx_patch.interventions import Edit, PositionChoice
from mlx_patch.laws import Report, check_laws
from mlx_patch.metrics import Answers, as_answers
from mlx_patch.model._capture_over_generation import PositionsOfText
from mlx_patch.model._each import EditsOfEach, prompts_of, run_rows
from mlx_patch.model._editing import Editing
from mlx_patch.model._evaluated import evaluate_buffers
from mlx_patch.model._generation import generate, generate_with_cache, stream
from mlx_patch.model._hooks import (
    HookFunction,
    SiteChoice,
    chosen_sites,
    function_edits,
)
from mlx_patch.model._loading import adapted, load_model
from mlx_patch.model._model_page import model_page
from mlx_patch.model._plain import check_call
from mlx_patch.model._running import cache_of, run, trace
from mlx_patch.model._unembedding import final_norm, find_head, ids_of_answers, unembed
from mlx_patch.model._unknown import layout_for
from mlx_patch.provenance import model_identity
from mlx_patch.sites import Site
from mlx_patch.tokens import Prompt, as_tokens, is_text_or_chat, token_texts, tokenize, tokens_of


class HookedModel:
    """An mlx_lm model whose activations can be read and edited. It wraps: it copies nothing and renames nothing.

    Args:
        model: A model of mlx_lm, loaded, quantised, adapted or not.
        tokenizer: Its tokenizer, for `tokenize`, `generate` and metrics that are given strings.
        name: Where it came from, for provenance.
        family: A table to read it with in place of the registered one.

    Raises:
        KindError: `model` is not an `nn.Module`; compiled functions cannot be tapped.
        ArchitectureError: There is no table for its architecture, and short runs show that its blocks cannot be told.
    """

    def __init__(
        self, model: nn.Module, tokenizer: Any = None, *, name: str | None = None, family: Family | None = None
    ):
        if not issubclass(type(model), nn.Module):  # a compiled module passes for an instance of its class
            raise KindError(
                f"`model` must be an mlx.nn.Module. Got {type(model).__name__}. "
                "Pass the model itself, not a compiled function or the pair that mlx_lm.load returns."
            )
        if name is not None:
            name = arguments.string("name", name)
        if family is not None:
            arguments.instance("family", family, Family)
        self.model = model
        self.tokenizer = tokenizer
        self.layout = layout_for(model, family)
        evaluate_buffers(model)
        self.name = name
        self._tuned = ""

    @classmethod
    def load(cls, path_or_hub_id: str | os.PathLike[str], **kwargs: Any) -> HookedModel:
        """Load a model and its tokenizer through `mlx_lm.load`, whose keywords it takes. It runs in any thread.

        Every array is read before this returns, with `lazy=True` as well: what is still on the disk can be read in
        the thread that loaded it and in no other. To read only what a run uses, for a model larger than memory, load
        it with `mlx_lm.load(path, lazy=True)`, wrap it with `HookedModel(model, tokenizer)`, and stay in that thread.
        A thread that loads and ends before the process should end with `mx.clear_streams()`, as MLX asks for.

        Raises:
            FileError: It cannot be found, fetched or read.
            ArchitectureError: As for the class.
        """
        model, tokenizer, tuned = load_model(path_or_hub_id, **kwargs)
        hooked = cls(model, tokenizer, name=os.fspath(path_or_hub_id))
        hooked._tuned = tuned
        return hooked

    def with_adapter(self, adapter_path: str | os.PathLike[str]) -> HookedModel:
        """A second model: this one with an adapter (LoRA, DoRA, full fine-tune), on the same weights in memory.

        It equals `HookedModel.load(..., adapter_path=...)` bit for bit. This model stays as it is, and both can run,
        be edited and patched into each other.

        Args:
            adapter_path: The adapter's folder, as `mlx_lm.lora` writes it: adapter_config.json, adapters.safetensors.
        Raises:
            FileError: The folder holds no adapter, or one of another model.
            ValueRefusedError: This model has an adapter already.
        """
        model, tuned = adapted(self.model, adapter_path, self._tuned)
        return _rebuild(model, self.tokenizer, self.name, self.layout.family, tuned)

    @property
    def n_layers(self) -> int:
        """The number of blocks."""
        return len(self.layout.blocks)

    @property
    def d_model(self) -> int:
        """The width of the stream."""
        return self.layout.d_model

    @property
    def d_vocab(self) -> int:
        """How many tokens the unembedding knows, which may be more than the tokenizer does."""
        return self.layout.d_vocab

    @property
    def n_heads(self) -> int | None:
        """The query heads of an attention; None where the architecture has none, or its layers differ."""
        return self._heads_of("z")[0]

    @property
    def n_kv_heads(self) -> int | None:
        """The heads of keys of an attention; None where the architecture has none, or its layers differ."""
        return self._heads_of("k")[0]

    @property
    def d_head(self) -> int | None:
        """The width of a head of `z`; None where the architecture has none, or its layers differ."""
        return self._heads_of("z")[1]

    def _heads_of(self, name: str) -> tuple[int, int] | tuple[None, None]:
        """The heads of a site, and their width, if all layers that have it agree."""
        sites = tuple(site for site in self.sites if site.name == name)
        activations = trace(self.layout, mx.array([[0]]), sites)
        shapes = {array.shape[2:] for array in activations.values()}
        if len(shapes) != 1:
            return None, None
        n_heads, width = shapes.pop()
        return n_heads, width

    @property
    def dtype(self) -> mx.Dtype:
        """The dtype of the stream, which quantised weights have as well."""
        embed = Site("embed")
        return trace(self.layout, mx.array([[0]]), (embed,))[embed].dtype

    @property
    def sites(self) -> tuple[Site, ...]:
        """Every named site, in the order in which a forward pass meets them. Raw module paths work beside them."""
        return self.layout.sites

    @property
    def identity(self) -> dict[str, str]:
        """What the model is, in a few strings: name, architecture, hash of the config, dtypes, bits, adapter."""
        return model_identity(self.model, self.name, self._tuned)

    @knows_idioms
    def tokenize(self, prompt: Prompt, *, allow_special: bool = False, **template: Any) -> mx.array:
        """The tokens of a text, with one BOS and never two, or of chat messages, exactly those of mlx_lm.

        Args:
            prompt: A text, or messages with `role` and `content`, which get the generation prompt.
            allow_special: Messages may hold special tokens, which begin and end turns there.
            template: More for the chat template: `enable_thinking`, `tools` ...
        Returns:
            Token ids. Shape `(1, pos)`.
        Raises:
            TokenError: There is no tokenizer or no chat template, the template refuses the messages, one of them holds
                a special token, or the text gives no token.
            KindError: The tokenizer encodes otherwise than mlx_lm's; `template` is there for a text, or says how to
                encode.
        """
        return tokenize(self.tokenizer, prompt, allow_special=allow_special, **template)

    def str_tokens(self, tokens: Any) -> list[str] | list[list[str]]:
        """The text of each token, as in TransformerLens: a list for one prompt, a list of lists for a batch.

        Args:
            tokens: A text, chat messages, or token ids of shape `(batch, pos)` or `(pos,)`.
        Raises:
            TokenError: The model has no tokenizer.
        """
        ids = tokens_of(tokens, self.tokenizer, self.d_vocab)
        rows = [token_texts(self.tokenizer, row) for row in np.array(ids).tolist()]
        if len(rows) == 1:
            return rows[0]
        return rows

    def final_norm(self, stream: mx.array) -> mx.array:
        """The stream behind the final norm, from the stream that leaves the last block, by the model's own code.

        Args:
            stream: As `resid_post` holds it. Shape `(..., d_model)`.
        Returns:
            Shape `(..., d_model)`, as `final_norm` holds it.
        Raises:
            MissingSiteError: The stream alone does not decide it, or the table does not say which norm is the final.
            ShapeError: The stream has another width.
        """
        return final_norm(self.layout, stream)

    def unembed(self, stream: mx.array) -> mx.array:
        """The logits of a stream behind the final norm, by the model's own code: scale, bias and soft-cap too.

        `unembed(final_norm(cache["resid_post", -1]))` is the logits of the run, bit for bit.

        Args:
            stream: As `final_norm` returns it. Shape `(..., d_model)`.
        Returns:
            Logits. Shape `(..., d_vocab)`.
        Raises:
            MissingSiteError: The table does not say which norm is the final one.
            ShapeError: The stream has another width.
        """
        return unembed(self.layout, stream)

    def directions(self, tokens: Answers) -> mx.array:
        """Rows of the unembedding: what a stream behind the final norm is multiplied with for the logit of a token.

        They are dequantised one by one. A number that the model multiplies its logits with is not in them, nor is a
        bias or a soft-cap.

        Args:
            tokens: A string of one token or a token id, or several.
        Returns:
            Shape `(d_model,)` for one token, `(token, d_model)` for several. In float32.
        Raises:
            TokenError: A string is not one token.
            SelectionError: An id is past the vocabulary.
            ArchitectureError: No weights of the model are its unembedding: it has an adapter there, say.
        """
        answers = as_answers("tokens", tokens)
        rows = find_head(self.layout).rows(ids_of_answers("tokens", answers, self.tokenizer, self.d_vocab))
        if isinstance(answers, tuple):
            return rows
        return rows[0]

    def __call__(self, tokens: mx.array | Prompt, *args: Any, **kwargs: Any) -> mx.array:
        """What the model returns for tokens, a text or a chat, lazily, bit for bit. Shape `(batch, pos, d_vocab)`.

        `run(tokens)` gives the same logits, but for one architecture: gemma3n is itself only over a prompt cache, which
        `run` makes for it.

        Raises:
            ValueRefusedError: The tokens go beyond the positions that the model has learned.
        Warns:
            UncachedWarning: The model is itself only over a prompt cache, and is given none: these are not the logits
                of `run(tokens)`.
        """
        if is_text_or_chat(tokens):
            tokens = self.tokenize(tokens)
        if not isinstance(tokens, mx.array):
            tokens = as_tokens(tokens, self.d_vocab)
        check_call(self.layout, tokens, args, kwargs)
        return self.model(tokens, *args, **kwargs)

    @knows_idioms
    def run(
        self,
        tokens: Any,
        edits: Iterable[Edit] = (),
        logits_at: PositionChoice = None,
        prompt_cache: Sequence[Any] | None = None,
    ) -> mx.array:
        """One forward pass with edits.

        Args:
            tokens: A text, chat messages, or token ids of shape `(batch, pos)` or `(pos,)`.
            edits: What `Intervention.at` makes. Edits of one site act in order.
            logits_at: The positions to unembed, absolute or from the end; None is all.
            prompt_cache: mlx_lm's, holding the positions before. It takes these in, as in a plain run; if the run
                fails it is as before. None is none, but for gemma3n: it is itself only with one, and gets an empty one.
        Returns:
            Logits. Shape `(batch, pos, d_vocab)`, `pos` being those of `logits_at`, in order. Evaluated.
        Raises:
            PatchError: As the tokens, the edits and their sources say, before anything is computed.
            EditNotUsedError: An edit never acted.
        """
        result = run(
            self.layout, tokens, edits, logits_at=logits_at, prompt_cache=prompt_cache, tokenizer=self.tokenizer
        )
        return result.logits

    @knows_idioms
    def run_with_cache(
        self,
        tokens: Any,
        sites: SiteChoice = ("resid_post",),
        edits: Iterable[Edit] = (),
        logits_at: PositionChoice = None,
        pos: PositionChoice = None,
        prompt_cache: Sequence[Any] | None = None,
    ) -> tuple[mx.array, ActivationCache]:
        """One forward pass that keeps activations, as they are after the edits.

        Args:
            tokens: A text, chat messages, or token ids of shape `(batch, pos)` or `(pos,)`.
            sites: Short names (all layers), full names, Sites, raw module paths, or a function of a Site; "all" is
                every site that the model has.
            edits: As in `run`.
            logits_at: As in `run`.
            pos: The positions to keep, absolute or from the end; None is all. At `attn_scores` and `pattern` these
                are query positions.
            prompt_cache: As in `run`.
        Returns:
            Logits as in `run`, and the activations. Both evaluated, together.
        Raises:
            PatchError: As in `run`.
        """
        chosen = chosen_sites(self.layout, sites)
        result = run(
            self.layout,
            tokens,
            edits,
            sites=chosen,
            pos=pos,
            logits_at=logits_at,
            prompt_cache=prompt_cache,
            tokenizer=self.tokenizer,
        )
        return result.logits, cache_of(result, self.identity, self.n_layers)

    def run_each(
        self,
        prompts: Iterable[Any],
        edits: EditsOfEach = (),
        logits_at: PositionChoice = None,
        batch_size: int = 8,
    ) -> list[mx.array]:
        """One forward pass of each prompt, whatever its length. Prompts of one length run together; none is padded.

        Args:
            prompts: Texts, chats or token ids, one an entry.
            edits: As in `run`, for every prompt; or a list of edits for each. An edit sees one prompt at a time, a
                batch of 1, as it would if the prompt ran alone.
            logits_at: As in `run`, of each prompt.
            batch_size: The most prompts in one forward pass.
        Returns:
            For each prompt, in the order given, what `run` returns for it. Each of shape `(1, pos, d_vocab)`.
        Raises:
            PatchError: As in `tokenize` and `run`.
        """
        rows = list(prompts_of(prompts, self.tokenizer, self.d_vocab))
        results = run_rows(
            self.layout, rows, edits, logits_at=logits_at, batch_size=batch_size, tokenizer=self.tokenizer
        )
        return [result.logits for result in results]

    def run_each_with_cache(
        self,
        prompts: Iterable[Any],
        sites: SiteChoice = ("resid_post",),
        edits: EditsOfEach = (),
        logits_at: PositionChoice = None,
        pos: PositionChoice = None,
        batch_size: int = 8,
    ) -> tuple[list[mx.array], list[ActivationCache]]:
        """`run_each`, and the activations of each prompt. For more prompts than fit in memory: `ActivationStore`.

        Args:
            prompts: As in `run_each`.
            sites: As in `run_with_cache`.
            edits: As in `run_each`.
            logits_at: As in `run`, of each prompt.
            pos: As in `run_with_cache`, of each prompt.
            batch_size: The most prompts in one forward pass.
        Returns:
            Logits and caches, one a prompt, in the order given.
        Raises:
            PatchError: As in `tokenize` and `run`.
        """
        chosen = chosen_sites(self.layout, sites)
        rows = list(prompts_of(prompts, self.tokenizer, self.d_vocab))
        results = run_rows(
            self.layout,
            rows,
            edits,
            sites=chosen,
            pos=pos,
            logits_at=logits_at,
            batch_size=batch_size,
            tokenizer=self.tokenizer,
        )
        identity = self.identity
        caches = [cache_of(result, identity, self.n_layers) for result in results]
        return [result.logits for result in results], caches

    @knows_idioms
    def run_with_hooks(
        self,
        tokens: Any,
        fwd_hooks: Iterable[tuple[str | Site, HookFunction]],
        logits_at: PositionChoice = None,
        prompt_cache: Sequence[Any] | None = None,
    ) -> mx.array:
        """One forward pass with plain functions at sites, as in TransformerLens.

        Args:
            tokens: A text, chat messages, or token ids of shape `(batch, pos)` or `(pos,)`.
            fwd_hooks: Pairs of a site and a function `fn(activation, hook)`, written for TransformerLens or not, that
                returns the new activation, or None to leave it; what it wrote into its own counts. `hook` is the site:
                `hook.name` is its full name, `hook.layer()` its block, and `cache[hook.name]` its array in a cache. A
                short name without a layer is every layer.
            logits_at: As in `run`.
            prompt_cache: As in `run`.
        Returns:
            Logits, as in `run`.
        Raises:
            PatchError: As in `run`.
        """
        return self.run(tokens, function_edits(fwd_hooks), logits_at, prompt_cache)

    def editing(self, *edits: Edit) -> Editing[HookedModel]:
        """A block in which every run of `model.model` is edited, from mlx_lm's own functions too.

        Positions are absolute. Negative ones count from the end of a forward pass that has no prompt cache; with one,
        the end of the prompt is not known, and they are refused.

        The edits are in force for the function that opens the block and for what it calls. A coroutine or a generator
        that opens one keeps its edits to itself: while it is suspended, no other run is edited. Work that the block
        hands to another thread or task, with `asyncio.create_task`, `gather` or `to_thread`, is not edited: open the
        block there. Blocks may close in any order, and each opens once.

        Raises:
            KindError: The same block is opened again.
            EditNotUsedError: At the end of the block, an edit never acted.
        """
        return Editing(self, self.layout, edits)

    @knows_idioms
    def generate(
        self, prompt: Prompt | mx.array, edits: Iterable[Edit] = (), max_tokens: int = 100, **kwargs: Any
    ) -> str:
        """Text that the model continues with, through `mlx_lm.generate`, with edits in force.

        Args:
            prompt: A text, chat messages or token ids. Shape `(pos,)` or `(1, pos)`.
            edits: Positions are absolute, those of generated tokens too; negative ones count from the prompt's end.
            max_tokens: At most so many.
            kwargs: As `mlx_lm.generate` takes them: `sampler`, `prompt_cache` ...
        Raises:
            PatchError: As in `run`.
            EditNotUsedError: An edit never acted.
        """
        return generate(self.layout, self.tokenizer, prompt, edits, max_tokens, **kwargs)

    def stream(
        self, prompt: Prompt | mx.array, edits: Iterable[Edit] = (), max_tokens: int = 100, **kwargs: Any
    ) -> Iterator[GenerationResponse]:
        """What `mlx_lm.stream_generate` yields, with edits in force while it runs, and not between two responses.

        Args:
            prompt: As in `generate`.
            edits: As in `generate`.
            max_tokens: At most so many.
            kwargs: As `mlx_lm.stream_generate` takes them.
        Returns:
            A generator of responses with `text`, `token`, `logprobs` ... It may be closed early.
        Raises:
            PatchError: As in `run`, before the first response is asked for.
            EditNotUsedError: After the last response, an edit never acted.
        """
        return stream(self.layout, self.tokenizer, prompt, edits, max_tokens, **kwargs)

    def generate_with_cache(
        self,
        prompt: Prompt | mx.array,
        sites: SiteChoice = ("resid_post",),
        edits: Iterable[Edit] = (),
        max_tokens: int = 100,
        pos: PositionsOfText = None,
        **kwargs: Any,
    ) -> tuple[str, ActivationCache]:
        """`generate`, and the activations of the prompt and of the generated tokens, as they are after the edits.

        Args:
            prompt: As in `generate`.
            sites: As in `run_with_cache`, without `attn_scores` and `pattern`, whose keys become more with each token.
            edits: As in `generate`.
            max_tokens: At most so many.
            pos: The positions to keep: "prompt", "generated", absolute positions, or those that count from the prompt's
                end; None is all.
            kwargs: As in `generate`.
        Returns:
            The text; and the activations, whose `tokens` are all that the model has read: the prompt, and each
            generated token, a last one that ends the text too. Evaluated.
        Raises:
            PatchError: As in `generate`.
            SelectionError: A position was never computed, or a site has no position axis that grows.
        """
        chosen = chosen_sites(self.layout, sites)
        generated = generate_with_cache(
            self.layout, self.tokenizer, prompt, edits, max_tokens, sites=chosen, pos=pos, **kwargs
        )
        return generated.text, cache_of(generated.captures, self.identity, self.n_layers)

    def verify(self, prompt: Prompt | mx.array | None = None) -> Report:
        """Check the laws of `mlx_patch.laws` on this very model, with a short prompt.

        Args:
            prompt: A text, messages or token ids; None is a few tokens of the vocabulary.
        Returns:
            A table of laws, with the largest deviation of each and whether it held.
        """
        return check_laws(self, prompt)

    def __getattr__(self, name: str) -> NoReturn:
        """Names that there are not: what to write for those of other libraries.

        Raises:
            UnknownAttributeError: Always.
        """
        refuse_attribute("HookedModel", name, MODEL_HINTS, dir(type(self)))

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies and pickles hold no table that can be looked up again from the model's class."""
        family: Family | None = self.layout.family
        if family.name == UNKNOWN or registered_family(self.model) is family:
            family = None
        return _rebuild, (self.model, self.tokenizer, self.name, family, self._tuned)

    def _repr_html_(self) -> str:
        identity = self.identity
        heads, kv_heads, width = self.n_heads, self.n_kv_heads, self.d_head
        facts = {
            "architecture": self.layout.family.name,
            "layers": self.n_layers,
            "d_model": self.d_model,
            "heads": heads and f"{heads} of width {width}, {kv_heads or 'several numbers of'} KV heads",
            "tokens": self.d_vocab,
            "weights": identity["dtype"],
            "quantised": identity["bits"] and f"{identity['bits']} bits",
            "adapter": identity["adapter"],
        }
        return model_page(repr(self), facts, self.sites)

    def __repr__(self) -> str:
        name = f"{self.name}: " if self.name else ""
        return f"HookedModel({name}{self.layout.family.name}, {self.n_layers} layers, d_model {self.d_model})"


def _rebuild(model: nn.Module, tokenizer: Any, name: str | None, family: Family | None, tuned: str) -> HookedModel:
    hooked = HookedModel(model, tokenizer, name=name, family=family)
    hooked._tuned = tuned
    return hooked
