"""The loop of the script that the D1 study comes from, as it stands there: an oracle that owes nothing to mlx_patch.

Layer by layer in Python, with an additive causal mask in float16, every layer evaluated by itself. The one change: the
softmax of the measurement is in float32, whatever the logits are in.
"""

import mlx.core as mx
import mlx.nn as nn


def causal_mask(length):
    return nn.MultiHeadAttention.create_additive_causal_mask(length).astype(mx.float16)


def unembedded(model, h):
    h = model.model.norm(h)
    logits = model.lm_head(h) if "lm_head" in model else model.model.embed_tokens.as_linear(h)
    mx.eval(logits)
    return logits


def capture_all_activations(model, input_ids, mask):
    """The stream after every layer, and the logits. Shapes `(1, pos, d_model)` and `(1, pos, d_vocab)`."""
    h = model.model.embed_tokens(input_ids)
    activations = []
    for layer in model.model.layers:
        h = layer(h, mask=mask)
        mx.eval(h)
        activations.append(h)
    return activations, unembedded(model, h)


def patched_forward(model, donor_activations, patch_layer, input_ids, mask):
    """The logits with the donor's stream in place of the model's own after one layer."""
    h = model.model.embed_tokens(input_ids)
    for i, layer in enumerate(model.model.layers):
        h = layer(h, mask=mask)
        if i == patch_layer:
            h = donor_activations[patch_layer]
        mx.eval(h)
    return unembedded(model, h)


def measure_tool_probability(logits, tokenizer, tool_strings):
    """The script's numbers at the last position, rounded as it rounds them."""
    last_logits = logits[0, -1, :].astype(mx.float32)
    probs = mx.softmax(last_logits)
    tool_probs = {}
    for name in tool_strings:
        max_p = 0.0
        for tid in tokenizer.encode(name, add_special_tokens=False):
            if tid < probs.shape[0]:
                max_p = max(max_p, float(probs[tid].item()))
        tool_probs[name] = round(max_p, 8)
    top5 = []
    for idx in mx.argsort(last_logits)[::-1][:5].tolist():
        token = tokenizer.decode([idx]).replace("\n", "\\n")
        top5.append({"id": idx, "token": token, "prob": round(float(probs[idx].item()), 6)})
    entropy = -float(mx.sum(probs * mx.log(probs + 1e-10)).item())
    return {
        "tool_probs": tool_probs,
        "top5": top5,
        "entropy": round(entropy, 4),
        "tool_call_prob": tool_probs["<tool_call>"],
    }
