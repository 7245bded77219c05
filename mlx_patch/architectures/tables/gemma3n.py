"""Gemma 3n: four streams, of which attention and MLP read and write one.

A block predicts all four, works on the prediction of the active one, and corrects them all by what came of it.
`resid_pre` and `resid_post` are the four side by side. Upper layers read keys and values of lower ones, from the prompt
cache: without one mlx_lm gives them keys of their own, which no trained model has, so a run always has one.
"""

from typing import Any

import mlx.core as mx

from mlx_patch.architectures._family import DENSE, Family, Point, Stream
from mlx_patch.architectures._views import SideBySide
from mlx_patch.architectures.tables.gemma3_text import SANDWICH

_TOWER = "model.language_model"
_STREAMS = SideBySide()


def _own_keys(block: Any) -> bool:
    return not block.self_attn.is_kv_shared_layer


def _predicted(stream: mx.array, block: Any) -> tuple[mx.array, mx.array]:
    """The predicted streams, the active one first by itself."""
    config = block.config
    streams = mx.unflatten(stream, -1, (config.altup_num_inputs, -1)).transpose(2, 0, 1, 3)
    predictions = block.altup.predict(streams)
    return predictions[config.altup_active_idx], predictions


def _mid(stream: mx.array, added: mx.array, block: Any) -> mx.array:
    """The predicted streams, and what the MLP reads. Shape `(1 + stream, batch, pos, d_model)`."""
    active, predictions = _predicted(stream, block)
    laurel = block.laurel(block.input_layernorm(active))
    middle = (active + added + laurel) * (2.0**-0.5)
    return mx.concatenate([middle[None], predictions])


def _post(stream: mx.array, added: mx.array, block: Any, more: mx.array) -> mx.array:
    corrected = block.altup.correct(stream[1:], stream[0] + added)
    return _STREAMS.read(mx.concatenate([corrected[:1], corrected[1:] + more]), block)


GEMMA3N = Family(
    "gemma3n",
    {
        **{name: point for name, point in SANDWICH.items() if name != "resid_mid"},
        "resid_pre": Point("", "input", _STREAMS),
        "resid_post": Point("", "output", _STREAMS),
        "k": Point("self_attn.k_norm", "input", given=_own_keys),
        "v": Point("self_attn.v_norm", "output", given=_own_keys),
        "rot_k": Point("self_attn", "inside", recipe="sdpa", given=_own_keys),
    },
    absent={
        **DENSE,
        "resid_mid": "its MLP reads the active stream plus a low-rank map of it, and the block then corrects four "
        "predicted streams",
    },
    blocks=f"{_TOWER}.layers",
    final_norm=f"{_TOWER}.norm",
    width=f"{_TOWER}.config.hidden_size",
    vocabulary=f"{_TOWER}.config.vocab_size",
    stream=Stream(
        says="x = predicted(resid_pre), y = (x + mixer_out + laurel(x)) / sqrt(2) of the active one, "
        "resid_post = corrected(x, y + mlp_out), and what the layer's own embedding adds to all but the first",
        mid=_mid,
        post=_post,
        more="post_per_layer_input_norm",
    ),
    shared=("rot_k", "v"),
    streams=f"{_TOWER}.config.altup_num_inputs",
    cached=True,
    rereads=True,
)
