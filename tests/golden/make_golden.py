"""Make the golden folders: tiny random models, and what Hugging Face transformers computes on them.

    python -m venv /tmp/hf && /tmp/hf/bin/pip install torch==2.13.0 transformers==5.23.0 numpy safetensors
    /tmp/hf/bin/python tests/golden/make_golden.py

Nothing here knows mlx, mlx_lm or mlx_patch. Every array is one that transformers' own forward pass holds: taken by
torch hooks, at the arguments of its eager attention, of its rotary embedding and of the softmax in that attention. The
one exception is granite's `attn_out` and `mlp_out`: its residual multiplier acts inside an expression that no hook
sees, so the hooked output is multiplied by it here.
"""

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
import transformers
from safetensors.torch import load_file, save_file

HERE = Path(__file__).parent
BATCH, POS, VOCAB = 2, 9, 61
SEED = 20240607

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Family:
    """A tiny model, and where its modules are.

    Attributes:
        hf: Names of the configuration and the model class in transformers.
        config: What goes into `config.json`, for mlx_lm; transformers reads the same.
        blocks: Path of the list of blocks.
        attn: Attention, in a block.
        out: Output projection, in attention.
        mlp: MLP, in a block.
        down: Down projection, in the MLP; None where experts have many.
        qkv: Projections, in attention; None where they are fused.
        attn_adds: The module whose output attention adds to the stream.
        mlp_adds: The same of the MLP.
        before_mlp: The norm that reads the stream between the two; None where they run in parallel.
        norm: Path of the final norm.
        prefix: Taken off the names of the weights: mlx_lm reads those of the model without its head.
    """

    hf: tuple[str, str]
    config: Mapping[str, Any]
    blocks: str = "model.layers"
    attn: str = "self_attn"
    out: str = "o_proj"
    mlp: str = "mlp"
    down: str | None = "down_proj"
    qkv: tuple[str, str, str] | None = ("q_proj", "k_proj", "v_proj")
    attn_adds: str = "self_attn"
    mlp_adds: str = "mlp"
    before_mlp: str | None = "post_attention_layernorm"
    norm: str = "model.norm"
    prefix: str = ""


def llama_like(model_type: str, **more: Any) -> dict[str, Any]:
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 44, "vocab_size": VOCAB}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64}
    rest = {"rms_norm_eps": 1e-5, "rope_theta": 300.0, "tie_word_embeddings": False}
    return {"model_type": model_type, **shape, **heads, **rest, **more}


def gpt_neox(parallel: bool) -> Family:
    config = {
        "model_type": "gpt_neox",
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "intermediate_size": 128,  # mlx_lm has 4 times hidden_size, whatever the config says
        "num_attention_heads": 4,
        "vocab_size": VOCAB,
        "max_position_embeddings": 64,
        "layer_norm_eps": 1e-5,
        "rotary_emb_base": 300,
        "rotary_pct": 0.5,
        "hidden_act": "gelu_new",  # mlx_lm has the tanh approximation, whatever the config says
        "use_parallel_residual": parallel,
        "tie_word_embeddings": False,
    }
    return Family(
        ("GPTNeoXConfig", "GPTNeoXForCausalLM"),
        config,
        blocks="gpt_neox.layers",
        attn="attention",
        out="dense",
        down="dense_4h_to_h",
        qkv=None,
        attn_adds="attention",
        before_mlp=None if parallel else "post_attention_layernorm",
        norm="gpt_neox.final_layer_norm",
    )


FAMILIES = {
    "llama": Family(
        ("LlamaConfig", "LlamaForCausalLM"),
        llama_like("llama", head_dim=10, attention_bias=True, mlp_bias=True),
    ),
    "llama_sliding": Family(  # transformers' llama has no sliding layers; its ministral is llama with them
        ("MinistralConfig", "MinistralForCausalLM"),
        llama_like(
            "llama",
            num_hidden_layers=3,
            head_dim=10,
            layer_types=["sliding_attention", "full_attention", "sliding_attention"],
            sliding_window=4,
        ),
    ),
    "qwen2": Family(
        ("Qwen2Config", "Qwen2ForCausalLM"),
        llama_like("qwen2", tie_word_embeddings=True),
    ),
    "qwen3": Family(
        ("Qwen3Config", "Qwen3ForCausalLM"),
        llama_like("qwen3", head_dim=10),
    ),
    "gemma2": Family(
        ("Gemma2Config", "Gemma2ForCausalLM"),
        llama_like(
            "gemma2",
            head_dim=10,
            hidden_activation="gelu_pytorch_tanh",
            query_pre_attn_scalar=7,
            attn_logit_softcapping=2.0,  # so low that it shows
            final_logit_softcapping=3.0,
            sliding_window=32,  # mlx_lm has none: longer than the prompt
            tie_word_embeddings=True,
        ),
        attn_adds="post_attention_layernorm",
        mlp_adds="post_feedforward_layernorm",
        before_mlp="pre_feedforward_layernorm",
    ),
    "gpt2": Family(
        ("GPT2Config", "GPT2LMHeadModel"),
        {
            "model_type": "gpt2",
            "n_ctx": 64,
            "n_positions": 64,
            "n_embd": 32,
            "n_head": 4,
            "n_layer": 2,
            "layer_norm_epsilon": 1e-5,
            "vocab_size": VOCAB,
            "activation_function": "gelu_new",
        },
        blocks="transformer.h",
        attn="attn",
        out="c_proj",
        down="c_proj",
        qkv=None,
        attn_adds="attn",
        before_mlp="ln_2",
        norm="transformer.ln_f",
        prefix="transformer.",
    ),
    "gpt_neox": gpt_neox(parallel=True),
    "gpt_neox_sequential": gpt_neox(parallel=False),
    "phi3": Family(
        ("Phi3Config", "Phi3ForCausalLM"),
        llama_like("phi3", partial_rotary_factor=0.5),
        qkv=None,
    ),
    "mixtral": Family(
        ("MixtralConfig", "MixtralForCausalLM"),
        llama_like("mixtral", num_local_experts=5, num_experts_per_tok=2),
        down=None,
    ),
    "granite": Family(
        ("GraniteConfig", "GraniteForCausalLM"),
        llama_like(
            "granite",
            attention_bias=True,
            mlp_bias=True,
            attention_multiplier=0.5,
            embedding_multiplier=3.0,
            residual_multiplier=0.4,
            logits_scaling=2.5,
            tie_word_embeddings=True,
        ),
    ),
}


@dataclass
class Recorder:
    """Keeps what passes through a transformers model, by TransformerLens's names.

    Attributes:
        family: Where the modules are.
        model: The model that runs.
        arrays: What was kept.
        layer: The block that runs now.
    """

    family: Family
    model: torch.nn.Module
    arrays: Arrays = field(default_factory=dict)
    layer: int = -1

    def keep(self, name: str, tensor: torch.Tensor) -> None:
        if name in self.arrays:
            raise RuntimeError(f"{name} came twice.")
        self.arrays[name] = np.ascontiguousarray(tensor.detach().numpy())

    def keep_in_block(self, name: str, tensor: torch.Tensor) -> None:
        self.keep(f"blocks.{self.layer}.{name}", tensor)

    def keep_heads(self, name: str, tensor: torch.Tensor) -> None:
        """Keep what comes as `(batch, pos, head * d_head)`."""
        self.keep_in_block(f"attn.{name}", tensor.unflatten(-1, (-1, self.d_head)))

    def keep_turned(self, name: str, tensor: torch.Tensor) -> None:
        """Keep what comes as `(batch, head, pos, d_head)`."""
        self.keep_in_block(f"attn.{name}", tensor.transpose(1, 2))

    @property
    def d_head(self) -> int:
        config = self.model.config
        return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Hooks on the modules, and wrappers round the functions of this model's file; gone at the end."""
        with ExitStack() as stack:
            for handle in self._hooks():
                stack.callback(handle.remove)
            file = sys.modules[type(self.model).__module__]
            wrapped = patch.object(file, "eager_attention_forward", self._attention(file.eager_attention_forward))
            stack.enter_context(wrapped)
            if self.family.qkv is None and hasattr(file, "apply_rotary_pos_emb"):
                rotary = self._rotary(file.apply_rotary_pos_emb)
                stack.enter_context(patch.object(file, "apply_rotary_pos_emb", rotary))
            yield

    def _hooks(self) -> Iterator[Any]:
        family = self.family
        for layer, block in enumerate(self.model.get_submodule(family.blocks)):
            yield block.register_forward_pre_hook(self._enter(layer), with_kwargs=True)
            yield block.register_forward_hook(after(lambda x: self.keep_in_block("hook_resid_post", x)))
            attn, mlp = block.get_submodule(family.attn), block.get_submodule(family.mlp)
            for letter, projection in zip("qkv", family.qkv or (), strict=False):
                keep = after(lambda x, name=f"hook_{letter}": self.keep_heads(name, x))
                yield attn.get_submodule(projection).register_forward_hook(keep)
            out = attn.get_submodule(family.out)
            yield out.register_forward_pre_hook(before(lambda x: self.keep_heads("hook_z", x)))
            for name, path in (("hook_attn_out", family.attn_adds), ("hook_mlp_out", family.mlp_adds)):
                factor = getattr(block, "residual_multiplier", 1.0)
                keep = after(lambda x, name=name, factor=factor: self.keep_in_block(name, x * factor))
                yield block.get_submodule(path).register_forward_hook(keep)
            if family.before_mlp:
                keep = before(lambda x: self.keep_in_block("hook_resid_mid", x))
                yield block.get_submodule(family.before_mlp).register_forward_pre_hook(keep)
            if family.down:
                keep = before(lambda x: self.keep_in_block("mlp.hook_post", x))
                yield mlp.get_submodule(family.down).register_forward_pre_hook(keep)
            else:
                yield mlp.gate.register_forward_hook(self._router)
        norm = self.model.get_submodule(family.norm)
        yield norm.register_forward_hook(after(lambda x: self.keep("ln_final.hook_normalized", x)))

    def _enter(self, layer: int) -> Callable:
        def hook(module, args, kwargs) -> None:
            self.layer = layer
            stream = args[0] if args else kwargs["hidden_states"]
            self.keep_in_block("hook_resid_pre", stream)
            if layer == 0:
                self.keep("hook_embed", stream)

        return hook

    def _router(self, module, args, output) -> None:
        logits, weights, experts = output  # one row a token, batch and position in one
        by_token = (BATCH, -1, logits.shape[-1])
        self.keep_in_block("mlp.hook_router_logits", logits.reshape(by_token))
        dense = torch.zeros_like(logits).scatter(1, experts, weights)
        self.keep_in_block("mlp.hook_expert_weights", dense.reshape(by_token))

    def _attention(self, original: Callable) -> Callable:
        def eager_attention_forward(module, query, key, value, *args, **kwargs):
            self.keep_turned("hook_rot_q", query)
            self.keep_turned("hook_rot_k", key)
            if self.family.qkv is None:
                self.keep_turned("hook_v", value)
            if "gpt2" in type(module).__name__.lower():  # no RoPE: attention sees what was projected
                self.keep_turned("hook_q", query)
                self.keep_turned("hook_k", key)
            with patch.object(torch.nn.functional, "softmax", self._softmax(torch.nn.functional.softmax)):
                output, pattern = original(module, query, key, value, *args, **kwargs)
            self.keep_in_block("attn.hook_pattern", pattern)
            return output, pattern

        return eager_attention_forward

    def _softmax(self, original: Callable) -> Callable:
        def softmax(scores, *args, **kwargs):
            self.keep_in_block("attn.hook_attn_scores", scores)
            return original(scores, *args, **kwargs)

        return softmax

    def _rotary(self, original: Callable) -> Callable:
        def apply_rotary_pos_emb(q, k, *args, **kwargs):
            self.keep_turned("hook_q", q)
            self.keep_turned("hook_k", k)
            return original(q, k, *args, **kwargs)

        return apply_rotary_pos_emb


def before(keep: Callable[[torch.Tensor], None]) -> Callable:
    return lambda module, args: keep(args[0])


def after(keep: Callable[[torch.Tensor], None]) -> Callable:
    return lambda module, args, output: keep(output[0] if isinstance(output, tuple) else output)


def record(family: Family, model: torch.nn.Module, tokens: torch.Tensor) -> Arrays:
    """Every array of one forward pass, `tokens` and `logits` with them."""
    recorder = Recorder(family, model)
    with torch.no_grad(), recorder.recording():
        logits = model(tokens, use_cache=False).logits
    return {"tokens": tokens.numpy().astype(np.int32), **recorder.arrays, "logits": logits.numpy()}


def built(family: Family) -> torch.nn.Module:
    """The model in eager attention and float32, with weights in which nothing is 0, 1 or the same twice."""
    config_class, model_class = (getattr(transformers, name) for name in family.hf)
    config = {key: value for key, value in family.config.items() if key != "model_type"}
    special = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    model = model_class(config_class(**config, **special, attn_implementation="eager")).eval()
    generator = torch.Generator().manual_seed(SEED)
    zero_centred = "gemma" in family.config["model_type"]
    with torch.no_grad():
        for name, weight in model.named_parameters():
            noise = torch.randn(weight.shape, generator=generator)
            is_norm = weight.ndim == 1 and name.endswith("weight")
            weight.copy_(0.2 * noise + (1.0 if is_norm and not zero_centred else 0.0))
    return model


def write_model(family: Family, model: torch.nn.Module, folder: Path) -> None:
    """`config.json` and `model.safetensors`, in the names that transformers itself saves."""
    model.save_pretrained(folder)
    weights = load_file(folder / "model.safetensors")
    for extra in folder.iterdir():
        extra.unlink()
    renamed = {name.removeprefix(family.prefix): weight.contiguous() for name, weight in weights.items()}
    save_file(renamed, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(family.config, indent=2) + "\n")


def main() -> None:
    torch.set_num_threads(1)
    for name, family in FAMILIES.items():
        folder = HERE / name
        folder.mkdir(exist_ok=True)
        model = built(family)
        write_model(family, model, folder)
        tokens = torch.randint(VOCAB, (BATCH, POS), generator=torch.Generator().manual_seed(SEED + 1))
        arrays = record(family, model, tokens)
        np.savez_compressed(folder / "expected.npz", **arrays)
        print(f"{name}: {len(arrays)} arrays")


if __name__ == "__main__":
    main()
