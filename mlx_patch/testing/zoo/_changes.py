"""Changes of a configuration: all blocks dense, one KV head, another window, ... each by its name.

A change is a function of a configuration, the names of the fields that its `ModelArgs` has, and a random generator. It
returns the fields that it changes; none where the architecture has no such field.
"""

from collections.abc import Callable, Iterable, Mapping
from random import Random
from typing import Any

Config = dict[str, Any]
ConfigChange = Callable[[Config, Mapping[str, Any], Random], Config]

_LAYERS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers", "num_transformer_layers")
_HEADS = ("num_attention_heads", "n_head", "n_heads", "num_heads")
_KV_HEADS = ("num_key_value_heads", "n_kv_heads", "num_kv_heads", "kv_n_heads")
_MORE_KV_HEADS = ("num_swa_key_value_heads", "swa_num_key_value_heads", "num_global_key_value_heads")
_HEAD_WIDTHS = ("head_dim", "hidden_size_per_head", "v_head_dim", "qk_nope_head_dim", "swa_head_dim", "swa_v_head_dim")
_WIDTHS = ("hidden_size", "n_embd", "model_dim", "d_model", "hidden_dim", "block_dim")
_WINDOWS = (
    "sliding_window",
    "window_size",
    "sliding_window_size",
    "attention_window_size",
    "attention_chunk_size",
    "loop_window_size",
)
_TIED = ("tie_word_embeddings", "tie_embedding", "share_input_output_layers")
_CHOSEN = (
    "num_experts_per_tok",
    "num_experts_per_token",
    "moe_topk",
    "moe_top_k",
    "moe_k",
    "top_k_experts",
)
_EXPERTS = (
    "num_experts",
    "num_local_experts",
    "n_routed_experts",
    "moe_num_experts",
)
_GROUPS = ("n_group", "num_expert_group")
_FEW: Mapping[str, tuple[Any, ...]] = {
    "activation_sparsity_pattern": (None,),
    "altup_num_inputs": (2, 3),
    "attention_k_eq_v": (True, False),
    "attn_layer_offset": (0,),
    "attn_layer_period": (1, 2),
    "attn_logit_softcapping": (None, 3.0),
    "cla_share_factor": (1, 3),
    "decoder_sparse_step": (2, 3),
    "conv_L_cache": (2, 4),
    "conv_kernel": (2, 3),
    "conv_window": (2,),
    "expert_layer_offset": (0,),
    "expert_layer_period": (1, 3),
    "final_logit_softcapping": (None, 5.0),
    "full_attention_interval": (1, 3),
    "group_norm_size": (1,),
    "hc_mult": (3,),
    "hidden_size_per_layer_input": (0, 16),
    "index_n_heads": (1, 4),
    "index_topk": (1, 64),
    "interleave_moe_layer_step": (1, 2, 3),
    "kv_lora_rank": (16,),
    "layer_group_size": (1, 3),
    "loop_num": (1, 3),
    "mamba_expand": (1,),
    "mamba_n_groups": (1,),
    "mamba_step": (1, 3),
    "mla_use_output_gate": (True, False),
    "moe_latent_size": (None, 16),
    "moe_shared_expert_intermediate_size": (48,),
    "n_groups": (1,),
    "n_shared_experts": (None, 0, 2),
    "num_kv_reuse_layers": (0, 1),
    "num_kv_shared_layers": (0, 1),
    "num_loops": (1, 3),
    "num_shared_expert": (2,),
    "num_shared_experts": (0, 2),
    "partial_rotary_factor": (0.0, 0.25, 1.0),
    "q_lora_rank": (None, 16),
    "qk_rope_head_dim": (8,),
    "rope_scaling": (None, {"type": "linear", "factor": 2.0}),
    "score_function": ("softmax", "sigmoid"),
    "scoring_func": ("softmax", "sigmoid"),
    "shared_expert_intermediate_size": (48,),
    "shared_intermediate_size": (0, 48),
    "sliding_window_pattern": (1, 3),
    "time_step_limit": ((1.0, 2.0),),
    "time_step_rank": ("auto", 8),
    "topk_method": ("greedy", "group_limited_greedy", "noaux_tc"),
    "zero_expert_num": (0, 1),
}
"""Other values of fields that have only a few."""


def n_layers(config: Config) -> int:
    """The number of layers of a configuration."""
    return next((config[name] for name in _LAYERS if name in config), 0)


def _n_heads(config: Config) -> Any:
    return next((config[name] for name in _HEADS if name in config), 0)


def _each(names: Iterable[str], fields: Mapping[str, Any], value: Any) -> Config:
    return {name: value for name in names if name in fields}


def _by_layer(config: Config) -> Config:
    """The fields with an entry for each layer."""
    lists = {name: value for name, value in config.items() if isinstance(value, list)}
    return {name: value for name, value in lists.items() if len(value) == n_layers(config)}


def one_layer(config: Config, fields: Mapping[str, Any], draw: Random) -> Config:
    """One block, of any of the kinds."""
    layer = draw.randrange(max(n_layers(config), 1))
    entries = {name: [value[layer]] for name, value in _by_layer(config).items()}
    return {**_each(_LAYERS, fields, 1), **entries}


def more_layers(config: Config, fields: Mapping[str, Any], draw: Random) -> Config:
    """Two blocks more."""
    entries = {name: (2 * value)[: len(value) + 2] for name, value in _by_layer(config).items()}
    return {**_each(_LAYERS, fields, n_layers(config) + 2), **entries}


def one_kind(config: Config, fields: Mapping[str, Any], draw: Random) -> Config:
    """Blocks of one kind only."""
    layer = draw.randrange(max(n_layers(config), 1))
    return {name: [value[layer]] * len(value) for name, value in _by_layer(config).items()}


def other_order(config: Config, fields: Mapping[str, Any], draw: Random) -> Config:
    """The kinds of blocks in another order."""
    order = list(range(n_layers(config)))
    draw.shuffle(order)
    return {name: [value[layer] for layer in order] for name, value in _by_layer(config).items()}


def one_kv_head(config: Config, fields: Mapping[str, Any], draw: Random) -> Config:
    """One KV head, which all queries read."""
    names = (*_KV_HEADS, *_MORE_KV_HEADS)
    by_layer = [name for name in names if isinstance(config.get(name), list)]
    entries = {name: [1] * len(config[name]) for name in by_layer}
    return {**_each(names, fields, 1), **entries}


def kv_head_each(config: Config, fields: Mapping[str, Any], draw: Random) -> Config:
    """As many KV heads as heads."""
    return _each(_KV_HEADS, fields, _n_heads(config))


def other_heads(config: Config, fields: Mapping[str, Any], draw: Random) -> Config:
    """Another number of heads."""
    heads = draw.choice((2, 6, 8))
    return {**_each(_HEADS, fields, heads), **_each(_KV_HEADS, fields, 2)}


def other_head_width(config: Config, fields: Mapping[str, Any], draw: Random) -> Config:
    """Heads whose width is not d_model / heads."""
    return {name: draw.choice((8, 24, 48)) for name in _HEAD_WIDTHS if name in fields}


def other_width(config: Config, fields: Mapping[str, Any], draw: Random) -> Config:
    """Another width of the stream."""
    return _each(_WIDTHS, fields, draw.choice((32, 96, 128)))


def tied(config: Config, fields: Mapping[str, Any], draw: Random) -> Config:
    """The unembedding is the embedding."""
    return _each(_TIED, fields, True)


def untied(config: Config, fields: Mapping[str, Any], draw: Random) -> Config:
    """The unembedding is not the embedding."""
    return _each(_TIED, fields, False)


def _flags(config: Config, fields: Mapping[str, Any]) -> dict[str, bool]:
    values = {name: config.get(name, default) for name, default in fields.items() if name not in _TIED}
    return {name: value for name, value in values.items() if isinstance(value, bool)}


def biases(config: Config, fields: Mapping[str, Any], draw: Random) -> Config:
    """Biases on all that may have some."""
    return {name: True for name in _flags(config, fields) if "bias" in name}


def no_biases(config: Config, fields: Mapping[str, Any], draw: Random) -> Config:
    """No biases."""
    return {name: False for name in _flags(config, fields) if "bias" in name}


def other_flags(config: Config, fields: Mapping[str, Any], draw: Random) -> Config:
    """One or two flags that are no biases the other way."""
    flags = {name: value for name, value in _flags(config, fields).items() if "bias" not in name}
    size = min(len(flags), draw.choice((1, 2)))
    chosen = draw.sample(sorted(flags), size)
    return {name: not flags[name] for name in chosen}


def short_window(config: Config, fields: Mapping[str, Any], draw: Random) -> Config:
    """Windows that are shorter than the prompt."""
    return _each(_WINDOWS, fields, draw.choice((2, 3, 6)))


def long_window(config: Config, fields: Mapping[str, Any], draw: Random) -> Config:
    """Windows that are longer than the prompt."""
    return _each(_WINDOWS, fields, 64)


def all_dense(config: Config, fields: Mapping[str, Any], draw: Random) -> Config:
    """All blocks dense, in any of the ways that a configuration may say so."""
    n = n_layers(config)
    ways: Config = {
        "first_k_dense_replace": n,
        "num_dense_layers": n,
        "mlp_only_layers": list(range(n)),
        "moe_layer_freq": [0] * n,
        "is_moe_layer": [False] * n,
        "mlp_layer_types": ["dense"] * n,
        "moe_layer_start_index": n,
        "moe_layers_enum": "",
        "interleave_moe_layer_step": n + 1,
        "expert_layer_period": n + 5,
    }
    return _of_ways(ways, config, fields)


def all_sparse(config: Config, fields: Mapping[str, Any], draw: Random) -> Config:
    """All blocks with experts, in any of the ways that a configuration may say so."""
    n = n_layers(config)
    ways: Config = {
        "first_k_dense_replace": 0,
        "num_dense_layers": 0,
        "mlp_only_layers": [],
        "moe_layer_freq": [1] * n,
        "is_moe_layer": [True] * n,
        "mlp_layer_types": ["sparse"] * n,
        "moe_layer_start_index": 0,
        "moe_layers_enum": ",".join(map(str, range(n))),
        "interleave_moe_layer_step": 1,
        "expert_layer_period": 1,
        "expert_layer_offset": 0,
    }
    return _of_ways(ways, config, fields)


def _of_ways(ways: Config, config: Config, fields: Mapping[str, Any]) -> Config:
    """The fields that there are. `moe_layer_freq` is a list in some, and in others a number that is left alone."""
    changes = {name: value for name, value in ways.items() if name in fields}
    if not isinstance(config.get("moe_layer_freq"), list):
        changes.pop("moe_layer_freq", None)
    return changes


def no_experts(config: Config, fields: Mapping[str, Any], draw: Random) -> Config:
    """No experts at all, by their number."""
    return _each(_EXPERTS, fields, draw.choice((None, 0)))


def one_expert(config: Config, fields: Mapping[str, Any], draw: Random) -> Config:
    """One expert for each token."""
    return _each(_CHOSEN, fields, 1)


def every_expert(config: Config, fields: Mapping[str, Any], draw: Random) -> Config:
    """All experts for each token, without groups."""
    experts = next((config[name] for name in _EXPERTS if name in config), None)
    if not experts:
        return {}
    return {**_each(_CHOSEN, fields, experts), **one_group(config, fields, draw)}


def one_group(config: Config, fields: Mapping[str, Any], draw: Random) -> Config:
    """Experts that are not grouped."""
    return _each(("n_group", "topk_group", "num_expert_group"), fields, 1)


def defaults(config: Config, fields: Mapping[str, Any], draw: Random) -> Config:
    """Three fields left out, where the class's own default is no large number."""
    small = [name for name in sorted(config) if name in fields and _is_small(fields[name])]
    chosen = draw.sample(small, min(3, len(small)))
    return {name: fields[name] for name in chosen if config[name] != fields[name]}


def _is_small(value: Any) -> bool:
    if isinstance(value, int):
        return value <= 128
    return value is None or isinstance(value, str | float)


def other_values(config: Config, fields: Mapping[str, Any], draw: Random) -> Config:
    """Two fields of those whose other values `_FEW` knows."""
    names = [name for name in _FEW if name in fields]
    chosen = draw.sample(names, min(2, len(names)))
    return {name: draw.choice(_FEW[name]) for name in chosen}


def is_sound(config: Config) -> bool:
    """Whether fewer experts and groups are chosen than there are: MLX does not look, and reads what is not there.

    Args:
        config: A configuration, with its defaults.
    """
    n_experts = _count(config, _EXPERTS, 0)
    n_chosen = _count(config, _CHOSEN, 1)
    n_groups = _count(config, _GROUPS, 1)
    n_open_groups = _count(config, ("topk_group",), n_groups)
    if not n_experts or (n_experts == 1 and n_chosen > 1):  # one is no mixture: a dense model
        return True
    if not 0 < n_open_groups <= n_groups or n_experts % n_groups:
        return False
    return 0 < n_chosen <= n_experts // n_groups * n_open_groups


def _count(config: Config, names: Iterable[str], default: int) -> int:
    return next((config[name] for name in names if isinstance(config.get(name), int)), default)


CHANGES: tuple[ConfigChange, ...] = (
    all_dense,
    all_sparse,
    no_experts,
    one_expert,
    every_expert,
    one_group,
    one_layer,
    more_layers,
    one_kind,
    other_order,
    one_kv_head,
    kv_head_each,
    other_heads,
    other_head_width,
    other_width,
    tied,
    untied,
    biases,
    no_biases,
    other_flags,
    short_window,
    long_window,
    defaults,
    other_values,
)
"""Every change, in the order in which they are made."""
