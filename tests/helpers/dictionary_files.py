"""Folders of synthetic dictionaries, in each dialect, with the arrays that they hold."""

import json

import mlx.core as mx
import numpy as np

LLAMA_SCOPE = {
    "hook_point_in": "blocks.19.hook_resid_post",
    "hook_point_out": "blocks.19.hook_resid_post",
    "d_model": 6,
    "d_sae": 10,
    "act_fn": "jumprelu",
    "jump_relu_threshold": 0.25,
    "norm_activation": "dataset-wise",
}
"""What its configurations say of a dictionary of these sizes, without the mean length of activations."""


def arrays_of(draw, d_in=6, n_features=10, d_out=None):
    """Arrays of a dictionary, float32, under SAELens's names. Thresholds are above 0."""
    d_out = d_out or d_in
    shapes = {
        "W_enc": (d_in, n_features),
        "W_dec": (n_features, d_out),
        "b_enc": (n_features,),
        "b_dec": (d_out,),
    }
    arrays = {name: draw.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    arrays["threshold"] = draw.uniform(0.1, 1.0, n_features).astype(np.float32)
    return arrays


def write_json(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values), encoding="utf-8")


def write_tensors(path, arrays):
    path.parent.mkdir(parents=True, exist_ok=True)
    mx.save_safetensors(str(path), {name: mx.array(np.ascontiguousarray(array)) for name, array in arrays.items()})


def saelens_folder(folder, arrays, config=None):
    """A folder as SAELens 6 writes it."""
    d_in, d_sae = arrays["W_enc"].shape
    values = {
        "architecture": "standard",
        "d_in": d_in,
        "d_sae": d_sae,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": True,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": {"sae_lens_version": "6.12.1", "model_name": "tiny"},
        **(config or {}),
    }
    write_json(folder / "cfg.json", values)
    write_tensors(folder / "sae_weights.safetensors", arrays)
    return folder


def without(arrays, *names):
    return {name: array for name, array in arrays.items() if name not in names}
