"""The list of seeded faults, first part: tables that lie about the stream, the MLP and the experts.

Each must turn a law red, the one that is named, or be refused with the error that is named.
"""

from dataclasses import dataclass, replace

import mlx.core as mx
import mlx.nn as nn
import pytest

from mlx_patch.architectures import Point, View, attribute_at, family_of
from mlx_patch.errors import ArchitectureError
from mlx_patch.testing import tiny_model

AXES, SUM, OWN, DECIDES, FORWARD, HEADS = 1, 2, 3, 4, 5, 7


@dataclass(frozen=True)
class Multiplied(View):
    """A factor that is read and not taken back."""

    factor: str

    def read(self, raw: mx.array, block: nn.Module) -> mx.array:
        return raw * attribute_at(block, self.factor)

    def write(self, raw: mx.array, new: mx.array, block: nn.Module) -> mx.array:
        return new


def enters(path, carried=None):
    return Point(path, "input", carried=carried)


def leaves(path):
    return Point(path, "output")


NOT_TAKEN_BACK = Point("mlp", "output", Multiplied("residual_multiplier"))
STREAM = [
    ("llama", "resid_pre behind its norm", {"resid_pre": leaves("input_layernorm")}, SUM),
    ("qwen2", "resid_pre at its norm, the skip left behind", {"resid_pre": enters("input_layernorm")}, DECIDES),
    ("llama", "resid_mid at the input norm", {"resid_mid": enters("input_layernorm", "mlp_out")}, SUM),
    ("gemma2", "resid_mid at the post norm", {"resid_mid": enters("post_attention_layernorm", "mlp_out")}, SUM),
    ("llama", "resid_mid behind its norm", {"resid_mid": enters("mlp", "mlp_out")}, SUM),
    ("gpt2", "resid_mid, the skip left behind", {"resid_mid": enters("ln_2")}, DECIDES),
    ("gpt2", "resid_mid carried on with attention", {"resid_mid": enters("ln_2", "attn_out")}, DECIDES),
    ("llama", "resid_post before the MLP", {"resid_post": enters("post_attention_layernorm")}, ArchitectureError),
    ("qwen3", "resid_post at what is added", {"resid_post": leaves("mlp")}, ArchitectureError),
    ("gpt_neox-parallel", "resid_post at what is added", {"resid_post": leaves("mlp")}, SUM),
]
ADDED = [
    ("gemma2", "before the post norm", {"attn_out": leaves("self_attn"), "mixer_out": leaves("self_attn")}, SUM),
    ("gemma2", "attn_out alone before the post norm", {"attn_out": leaves("self_attn")}, SUM),
    ("gemma2", "mlp_out before the post norm", {"mlp_out": leaves("mlp")}, SUM),
    ("gemma2", "mlp_out at the norm before the MLP", {"mlp_out": leaves("pre_feedforward_layernorm")}, SUM),
    ("llama", "mlp_out at the norm before the MLP", {"mlp_out": leaves("post_attention_layernorm")}, SUM),
    ("llama", "mlp_out at attention", {"mlp_out": leaves("self_attn")}, SUM),
    ("granite", "mlp_out at the gate", {"mlp_out": leaves("mlp.gate_proj")}, AXES),
    ("gpt2", "attn_out at the MLP", {"attn_out": leaves("mlp")}, DECIDES),
    ("gpt_neox-parallel", "attn_out at the MLP", {"attn_out": leaves("mlp")}, DECIDES),
    (
        "gpt_neox-parallel",
        "attention and MLP exchanged, which in parallel have one sum",
        {"attn_out": leaves("mlp"), "mixer_out": leaves("mlp"), "mlp_out": leaves("attention")},
        DECIDES,
    ),
    (
        "gpt_neox-parallel",
        "mixer and MLP exchanged, attn_out right",
        {"mixer_out": leaves("mlp"), "mlp_out": leaves("attention")},
        DECIDES,
    ),
    ("granite", "multiplier forgotten", {"attn_out": leaves("self_attn"), "mixer_out": leaves("self_attn")}, SUM),
    ("granite", "multiplier forgotten at attn_out alone", {"attn_out": leaves("self_attn")}, SUM),
    ("granite", "multiplier forgotten at the MLP", {"mlp_out": leaves("mlp")}, SUM),
    ("granite", "multiplier not taken back", {"mlp_out": NOT_TAKEN_BACK}, OWN),
]
INSIDE = [
    ("llama", "mlp_post at the gate", {"mlp_post": leaves("mlp.gate_proj")}, DECIDES),
    ("granite", "mlp_post at the up projection", {"mlp_post": leaves("mlp.up_proj")}, DECIDES),
    ("gemma2", "mlp_post at the gate", {"mlp_post": leaves("mlp.gate_proj")}, DECIDES),
    ("gpt2", "mlp_post before the activation", {"mlp_post": leaves("mlp.c_fc")}, DECIDES),
    ("gpt_neox-sequential", "mlp_post at the MLP's input", {"mlp_post": enters("mlp")}, DECIDES),
    ("gpt_neox-parallel", "mlp_post before the activation", {"mlp_post": leaves("mlp.dense_h_to_4h")}, DECIDES),
    ("mixtral", "router_logits at what the router reads", {"router_logits": enters("block_sparse_moe.gate")}, AXES),
    ("mixtral", "expert_weights at the router", {"expert_weights": leaves("block_sparse_moe.gate")}, DECIDES),
]
FAULTS = [*STREAM, *ADDED, *INSIDE]


@pytest.mark.parametrize(("model", "what", "points", "law"), FAULTS, ids=[f"{m}: {what}" for m, what, _, _ in FAULTS])
def test_a_wrong_point_is_seen(broken, model, what, points, law):
    assert law in broken(model, points)


@pytest.mark.parametrize(
    ("where", "law"),
    [
        ({"final_norm": "model.layers.2.post_attention_layernorm"}, DECIDES),
        ({"final_norm": "model.ln_f"}, ArchitectureError),
        ({"blocks": "model.h"}, ArchitectureError),
        ({"width": "args.vocab_size"}, AXES),
    ],
    ids=str,
)
def test_a_wrong_place_of_the_whole_is_seen(broken, where, law):
    family = replace(family_of(tiny_model("llama")), **where)
    assert law in broken("llama", family=family)
