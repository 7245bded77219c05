"""The list of seeded faults, second part: tables that lie about heads. Each must turn the named law red."""

from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn
import pytest

from mlx_patch.architectures import ByHead, Fused, HeadsFirst, Interleaved, Point, View, attribute_at
from mlx_patch.errors import ArchitectureError, EditNotUsedError

AXES, DECIDES, HEADS, UNUSED = 1, 4, 7, EditNotUsedError


@dataclass(frozen=True)
class HeadsExchanged(View):
    """Heads and their coordinates taken for one another: `(batch, pos, d_head * head)`."""

    heads: str

    def read(self, raw: mx.array, block: nn.Module) -> mx.array:
        return raw.reshape(*raw.shape[:-1], -1, attribute_at(block, self.heads)).swapaxes(-1, -2)

    def write(self, raw: mx.array, new: mx.array, block: nn.Module) -> mx.array:
        return new.swapaxes(-1, -2).reshape(raw.shape)


@dataclass(frozen=True)
class HeadsReversed(View):
    """The last head first."""

    heads: str

    def read(self, raw: mx.array, block: nn.Module) -> mx.array:
        return raw.reshape(*raw.shape[:-1], attribute_at(block, self.heads), -1)[..., ::-1, :]

    def write(self, raw: mx.array, new: mx.array, block: nn.Module) -> mx.array:
        return new[..., ::-1, :].reshape(raw.shape)


Q, KV = "self_attn.n_heads", "self_attn.n_kv_heads"
MIXTRAL_KV = "self_attn.num_key_value_heads"
NEOX, GPT2 = "attention.num_attention_heads", "attn.n_head"


def projection(name, view):
    return Point(f"self_attn.{name}_proj", "output", view)


def z(view, attention="self_attn.o_proj"):
    return {"z": Point(attention, "input", view)}


def phi3(order, heads=(Q, KV, KV)):
    """Phi-3's fused projection with the parts `order`, of so many heads."""
    return {name: Point("self_attn.qkv_proj", "output", Fused(heads, order.index(name))) for name in order}


def gpt2(order, view=lambda part: Fused((GPT2,) * 3, part)):
    return {name: Point("attn.c_attn", "output", view(part)) for part, name in enumerate(order)}


def neox(order, view=lambda part: Interleaved(NEOX, part)):
    return {name: Point("attention.query_key_value", "output", view(part)) for part, name in enumerate(order)}


def rope(side, view, call):
    return Point("self_attn.rope", side, view, call=call)


def fused(part):
    return Fused((NEOX,) * 3, part)


PARTS = [
    ("phi3", "q and k swapped", {**phi3("kqv"), "v": phi3("qkv")["v"]}, AXES),
    ("phi3", "k and v swapped", phi3("qvk"), DECIDES),
    ("phi3", "keys first", phi3("kqv", (KV, Q, KV)), DECIDES),
    ("phi3", "values first", phi3("vkq", (KV, KV, Q)), DECIDES),
    ("phi3", "as many KV heads as heads", phi3("qkv", (Q, Q, Q)), ArchitectureError),
    ("gpt2", "q and k swapped", gpt2("kqv"), HEADS),
    ("gpt2", "k and v swapped", gpt2("qvk"), DECIDES),
    ("gpt2", "read as interleaved", gpt2("qkv", lambda part: Interleaved(GPT2, part)), DECIDES),
    ("gpt_neox-parallel", "q and k swapped", neox("kqv"), DECIDES),
    ("gpt_neox-sequential", "k and v swapped", neox("qvk"), DECIDES),
    ("gpt_neox-parallel", "read as side by side", neox("qkv", fused), DECIDES),
    ("gpt_neox-sequential", "v read as side by side", {"v": neox("qkv", fused)["v"]}, HEADS),
    ("llama", "q and k swapped", {"q": projection("k", ByHead(KV)), "k": projection("q", ByHead(Q))}, AXES),
    ("qwen3", "k and v swapped", {"k": projection("v", ByHead(KV)), "v": projection("k", ByHead(KV))}, DECIDES),
]
ORDER = [
    ("llama", "z with heads and d_head exchanged", z(HeadsExchanged(Q)), HEADS),
    ("gpt2", "z with its heads reversed", z(HeadsReversed(GPT2), "attn.c_proj"), HEADS),
    ("gpt_neox-parallel", "z with its heads reversed", z(HeadsReversed(NEOX), "attention.dense"), HEADS),
    ("llama", "z by KV heads", z(ByHead(KV)), AXES),
    ("qwen2", "z at what attention returns", {"z": Point("self_attn", "output", ByHead(Q))}, HEADS),
    ("llama", "q with heads and d_head exchanged", {"q": projection("q", HeadsExchanged(Q))}, HEADS),
    ("llama-biased", "q with its heads reversed", {"q": projection("q", HeadsReversed(Q))}, HEADS),
    ("qwen3", "k with its heads reversed", {"k": projection("k", HeadsReversed(KV))}, HEADS),
    ("granite", "v with its heads reversed", {"v": projection("v", HeadsReversed(KV))}, HEADS),
    ("mixtral", "v with heads and d_head exchanged", {"v": projection("v", HeadsExchanged(MIXTRAL_KV))}, HEADS),
    ("llama", "k by as many heads as q", {"k": projection("k", ByHead(Q))}, AXES),
]
ROTATED = [
    ("llama", "rot_q before RoPE", {"rot_q": projection("q", ByHead(Q))}, HEADS),
    ("llama-sliding", "rot_k before RoPE", {"rot_k": projection("k", ByHead(KV))}, HEADS),
    ("gemma2", "rot_q before RoPE", {"rot_q": rope("input", HeadsFirst(), 0)}, HEADS),
    ("gemma2", "rot_q from the call for keys", {"rot_q": rope("output", HeadsFirst(), 1)}, AXES),
    ("gemma2", "rot_q with heads for positions", {"rot_q": Point("self_attn.rope", "output", call=0)}, AXES),
    ("gemma2", "rot_k with heads for positions", {"rot_k": Point("self_attn.rope", "output", call=1)}, AXES),
    ("qwen3", "q inside, where nothing is called so", {"q": Point("self_attn", "inside", recipe="sdpa")}, UNUSED),
]
FAULTS = [*PARTS, *ORDER, *ROTATED]


@pytest.mark.parametrize(("model", "what", "points", "law"), FAULTS, ids=[f"{m}: {what}" for m, what, _, _ in FAULTS])
def test_a_wrong_view_of_heads_is_seen(broken, model, what, points, law):
    assert law in broken(model, points)
