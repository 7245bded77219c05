"""What the D1 study measures after its conversation, as metrics that a sweep can take."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import mlx.core as mx
import numpy as np
from d1_data import TOOL_STRINGS, as_plain_text, build_conversation

import mlx_patch as mp

ANSWER = "<tool_call>"
TOP = 5


@mp.metric("d1_entropy")
@dataclass(frozen=True, repr=False)
class D1Entropy(mp.metrics.RowMetric):
    """Entropy of the next token in nats, with the original's 1e-10 that keeps log(0) away."""

    def measure_row(self, row: mx.array) -> mx.array:
        """One number per example, from logits of shape `(batch, d_vocab)`."""
        probs = mx.softmax(row, axis=-1)
        return -mx.sum(probs * mx.log(probs + 1e-10), axis=-1)


@dataclass(frozen=True, repr=False)
class TopId(mp.metrics.RowMetric):
    """The id of the token at a rank, 0 for the likeliest; among equals the lower id comes first."""

    rank: int

    def measure_row(self, row: mx.array) -> mx.array:
        """One number per example, from logits of shape `(batch, d_vocab)`."""
        return mx.argsort(-row, axis=-1)[:, self.rank].astype(mx.float32)


@dataclass(frozen=True, repr=False)
class TopProb(mp.metrics.RowMetric):
    """The probability of the token at a rank, 0 for the likeliest."""

    rank: int

    def measure_row(self, row: mx.array) -> mx.array:
        """One number per example, from logits of shape `(batch, d_vocab)`."""
        return mx.sort(mx.softmax(row, axis=-1), axis=-1)[:, -1 - self.rank]


class Probe:
    """The conversation as tokens, and what is measured after it.

    The tokens go on with all of `<tool_call>` but its last token, so that one pass gives the probability of the whole
    string. Attention is causal, so what is measured at the prompt's end does not see them.
    """

    def __init__(self, model: mp.HookedModel, positions: str, plain: bool = False):
        conversation = build_conversation()
        tokenizer, prompt = model.tokenizer, model.tokenize(as_plain_text(conversation) if plain else conversation)
        self.prompt = prompt
        self.answer = tokenizer.encode(ANSWER, add_special_tokens=False)
        self.tokens = mx.concatenate([prompt, mx.array([self.answer[:-1]], dtype=prompt.dtype)], axis=1)
        self.n_tokens = prompt.shape[1]
        self.measured = range(self.n_tokens - 1, self.tokens.shape[1])
        self.patched = None if positions == "all" else self.n_tokens - 1
        self.tokenizer = tokenizer
        self.metrics = self._metrics()

    def _metrics(self) -> dict[str, mp.metrics.Metric]:
        end = self.n_tokens - 1
        tools = {name: mp.metrics.TokenSetProb(name, pos=end).resolve(self.tokenizer) for name in TOOL_STRINGS}
        said = {f"logprob {i}": mp.metrics.LogProb(token, pos=end + i) for i, token in enumerate(self.answer)}
        ids = {f"id {rank}": TopId(rank, pos=end) for rank in range(TOP)}
        probs = {f"prob {rank}": TopProb(rank, pos=end) for rank in range(TOP)}
        named = {**tools, "entropy": D1Entropy(pos=end), **said, **ids, **probs}
        return {name: replace(metric, name=name) for name, metric in named.items()}

    def __call__(self, logits: mx.array) -> dict[str, Any]:
        """The study's numbers, from the logits at the prompt's end and after each token of the answer but the last."""
        first = self.measured[0]
        return self.numbers({n: float(replace(m, pos=(m.pos or 0) - first)(logits)) for n, m in self.metrics.items()})

    def numbers(self, measured: Mapping[str, float]) -> dict[str, Any]:
        """The study's numbers, rounded as the original rounds them, from what each metric gives."""
        probs = {name: round(measured[name], 8) for name in TOOL_STRINGS}
        return {
            "tool_call_prob": probs[ANSWER],
            "tool_call_logprob": round(sum(measured[f"logprob {i}"] for i in range(len(self.answer))), 6),
            "top5": [self._token(int(measured[f"id {rank}"]), measured[f"prob {rank}"]) for rank in range(TOP)],
            "entropy": round(measured["entropy"], 4),
            "tool_probs": probs,
        }

    def _token(self, token: int, prob: float) -> dict[str, Any]:
        text = self.tokenizer.decode([token]).replace("\n", "\\n")
        return {"id": token, "token": text, "prob": round(prob, 6)}

    def of_layers(self, result: mp.SweepResult) -> dict[int, dict[str, Any]]:
        """The study's numbers for each layer of a sweep."""
        rows = np.asarray(result.values)[:, :, 0].tolist()
        return {
            layer: self.numbers(dict(zip(self.metrics, row, strict=True)))
            for layer, row in zip(result.coords["layer"], rows, strict=True)
        }
