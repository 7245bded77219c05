"""What TransformerLens and nnsight call things, and what they are called here.

Sites that mean the same have both names. Every other name gets a hint: what to write, or why there is no such thing.
"""

from collections.abc import Callable, Iterable, Mapping
from functools import wraps
from typing import NoReturn, ParamSpec, TypeVar

from mlx_patch.errors import KindError, UnknownAttributeError, did_you_mean

Arguments = ParamSpec("Arguments")
Returned = TypeVar("Returned")

SITE_ALIASES = {
    "attn": "pattern",
    "attn_logits": "attn_scores",
    "query": "q",
    "key": "k",
    "value": "v",
    "post": "mlp_post",
}
"""TransformerLens's short names of sites, and the same sites here."""

_NO_SPLIT = "edit what one head reads with a path: `edit.via('q', layer=11, head=3)`"

SITE_HINTS = {
    "pre": "the gate and the up projection are raw paths, 'model.layers.3.mlp.gate_proj:output'",
    "mlp_pre": "the gate and the up projection are raw paths, 'model.layers.3.mlp.gate_proj:output'",
    "pre_linear": "the up projection is a raw path, 'model.layers.3.mlp.up_proj:output'",
    "mid": "what enters the down projection is 'mlp_post'",
    "mlp_mid": "what enters the down projection is 'mlp_post'",
    "result": "a head's share of 'attn_out' is `mp.lens.direct_logits(..., by='head')`",
    "scale": "a norm's output is a raw path, 'model.layers.3.input_layernorm:output'",
    "normalized": "the last norm is 'final_norm', and others are raw paths, 'model.layers.3.input_layernorm:output'",
    "pos_embed": "a learned position embedding is a raw path, 'transformer.wpe:output', and part of 'embed'",
    "attn_in": _NO_SPLIT,
    "q_input": _NO_SPLIT,
    "k_input": _NO_SPLIT,
    "v_input": _NO_SPLIT,
    "mlp_in": "what the MLP reads is 'resid_mid', and a path takes it alone: `edit.via('mlp', layer=3)`",
    "tokens": "the tokens of a run are `cache.tokens`",
}
"""TransformerLens's names of sites that there are not, and what to use."""

_WEIGHTS = (
    "weights are the modules' own, `model.model.layers[3].self_attn.q_proj.weight`, packed where they are quantised"
)
_UNALTERED = "weights are never folded or centred: the model stays as mlx_lm loaded it"
_NO_HOOKS = "edits last for one run, `model.run(tokens, edits)`, or for a block, `with model.editing(*edits):`"
_MODULES = "modules are the mlx_lm model's, `model.model`"
_DEVICE = "MLX has one memory for all devices; `mx.set_default_device` chooses"

MODEL_HINTS = {
    "to_tokens": "write `model.tokenize(text)`",
    "to_str_tokens": "write `model.str_tokens(tokens)`",
    "to_string": "write `model.tokenizer.decode(ids)`",
    "to_single_token": "metrics and `model.directions` take the text itself, ' Mary'",
    "to_single_str_token": "write `model.str_tokens([token])`",
    "get_token_position": "write `mp.pos.token(' Mary')` or `mp.pos.text('Mary')` as `pos=`",
    "tokens_to_residual_directions": "write `model.directions([' Mary', ' John'])`",
    "W_U": "write `model.directions(tokens)`: rows of the unembedding, dequantised",
    "W_E": "write `model.model.model.embed_tokens`, or capture the site 'embed'",
    "W_pos": _WEIGHTS,
    "W_Q": _WEIGHTS,
    "W_K": _WEIGHTS,
    "W_V": _WEIGHTS,
    "W_O": _WEIGHTS,
    "W_in": _WEIGHTS,
    "W_out": _WEIGHTS,
    "W_gate": _WEIGHTS,
    "b_U": _WEIGHTS,
    "b_Q": _WEIGHTS,
    "b_K": _WEIGHTS,
    "b_V": _WEIGHTS,
    "b_O": _WEIGHTS,
    "b_in": _WEIGHTS,
    "b_out": _WEIGHTS,
    "QK": _WEIGHTS,
    "OV": _WEIGHTS,
    "cfg": "write `model.n_layers`, `n_heads`, `d_model`, `d_head`, `d_vocab` or `dtype`; others: `model.model.args`",
    "config": "the configuration is `model.model.args`",
    "add_hook": _NO_HOOKS,
    "add_perma_hook": _NO_HOOKS,
    "reset_hooks": "nothing is left to reset: " + _NO_HOOKS,
    "remove_all_hook_fns": "nothing is left to remove: " + _NO_HOOKS,
    "hooks": _NO_HOOKS,
    "hook_dict": "every place is in `model.sites`",
    "hook_points": "every place is in `model.sites`",
    "mod_dict": "every place is in `model.sites`; " + _MODULES,
    "blocks": "a block's places are sites, `('resid_post', 3)`; " + _MODULES,
    "layers": _MODULES,
    "embed": "it is a site: `sites=('embed',)`",
    "ln_final": "write `model.final_norm(stream)`, or capture the site 'final_norm'",
    "lm_head": "write `model.unembed(stream)`",
    "from_pretrained": "write `HookedModel.load(path_or_hub_id)`",
    "from_pretrained_no_processing": "write `HookedModel.load(path_or_hub_id)`: nothing is ever processed",
    "boot_transformers": "write `HookedModel.load(path_or_hub_id)`",
    "forward": "write `model(tokens)` or `model.run(tokens)`",
    "loss_fn": "measure with a metric, `mp.metrics.LogProb(' Mary')`, or from the logits",
    "get_caching_hooks": "write `model.run_with_cache(tokens, sites=...)`",
    "cache_all": "write `model.run_with_cache(tokens, sites='all')`",
    "cache_some": "write `model.run_with_cache(tokens, sites=...)`",
    "add_caching_hooks": "write `model.run_with_cache(tokens, sites=...)`",
    "check_hooks_to_add": _NO_HOOKS,
    "all_head_labels": "heads are coordinates, `result.coords['head']`",
    "accumulated_bias": "`cache.parts()` has what each layer adds, its bias with it",
    "fold_layer_norm": _UNALTERED,
    "fold_value_biases": _UNALTERED,
    "center_writing_weights": _UNALTERED,
    "center_unembed": _UNALTERED,
    "process_weights_": _UNALTERED,
    "refactor_factored_attn_matrices": _UNALTERED,
    "set_use_attn_result": "a head's share of 'attn_out' is `mp.lens.direct_logits(..., by='head')`",
    "set_use_split_qkv_input": _NO_SPLIT,
    "set_use_attn_in": _NO_SPLIT,
    "set_use_hook_mlp_in": SITE_HINTS["mlp_in"],
    "set_ungroup_grouped_query_attention": "'k' and 'v' have the real KV heads, `model.n_kv_heads`",
    "set_tokenizer": "write `HookedModel(model, tokenizer)`",
    "sample_datapoint": "prompts are yours; `mp.tasks` has classic ones",
    "to": _DEVICE,
    "cuda": _DEVICE,
    "cpu": _DEVICE,
    "mps": _DEVICE,
    "device": _DEVICE,
    "half": "write `model.model.set_dtype(mx.float16)` before it is wrapped",
    "eval": "write `model.model.eval()`",
    "train": "write `model.model.train()`",
    "parameters": "write `model.model.parameters()`",
    "named_parameters": "write `mlx.utils.tree_flatten(model.model.parameters())`",
    "state_dict": "write `model.model.parameters()`",
    "trace": "write `model.run_with_cache(tokens, sites, edits)`: edits and captures are values, and need no block",
    "session": "runs share work in `mp.sweep`; models stay loaded between runs",
    "invoke": "prompts are rows of `tokens`, or a list in `mp.sweep` and `model.run_each`",
    "scan": "`mp.plan(...)` says what a sweep would run, and shapes are checked before it runs",
    "edit": "write `mp.Replace(cache).at('resid_post', layer=3)` and `model.run(tokens, edits)`",
}
"""Names of a model in TransformerLens and nnsight, and what to write."""

CACHE_HINTS = {
    "decompose_resid": "write `cache.parts()`, and `cache.stack` for one site of all layers",
    "get_full_resid_decomposition": "write `cache.parts()`",
    "accumulated_resid": "write `cache.accumulated()`",
    "logit_attrs": "write `mp.lens.direct_logits(model, tokens, ' Mary', ' John', by='part')`",
    "stack_head_results": "write `mp.lens.direct_logits(model, tokens, ' Mary', ' John', by='head')`",
    "compute_head_results": "write `mp.lens.direct_logits(model, tokens, ' Mary', ' John', by='head')`",
    "stack_neuron_results": "write `mp.lens.direct_logits(model, tokens, ' Mary', ' John', by='neuron')`",
    "get_neuron_results": "write `mp.lens.direct_logits(model, tokens, ' Mary', ' John', by='neuron')`",
    "stack_activation": "write `cache.stack('pattern')`",
    "apply_ln_to_stack": "write `model.final_norm(stream)`, which computes the norm anew for each part",
    "remove_batch_dim": "index the array, `cache['z', 3][0]`",
    "apply_slice_to_batch_dim": "index the array, `cache['z', 3][:2]`",
    "has_batch_dim": "every array has a batch axis",
    "cache_dict": "a cache is a mapping: `dict(cache)`",
    "toggle_autodiff": "for gradients, write `mp.attribute`, or `mx.grad` of a function that calls `model.run`",
    "to": _DEVICE,
    "cpu": _DEVICE,
}
"""Names of a cache in TransformerLens, and what to write."""

_ALWAYS_BOS = "a text gets one BOS where the tokenizer adds one, and a chat is its template's"

ARGUMENT_HINTS = {
    "names_filter": "write `sites=`, which takes names, Sites or a function of a Site",
    "return_type": "logits are returned; measure them with a metric",
    "stop_at_layer": "leave it out: what no site depends on is not computed",
    "start_at_layer": "replace the stream there: `mp.Replace(array).at('resid_pre', layer=3)`",
    "pos_slice": "write `pos=`",
    "remove_batch_dim": "index the array, `cache['z', 3][0]`",
    "return_cache_object": "leave it out: a cache reads as a dict does",
    "incl_bwd": "for gradients, write `mp.attribute`",
    "bwd_hooks": "for gradients, write `mp.attribute`, or `mx.grad` of a function that calls `model.run`",
    "reset_hooks_end": "leave it out: hooks last for one run",
    "clear_contexts": "leave it out: hooks last for one run",
    "prepend_bos": f"leave it out: {_ALWAYS_BOS}",
    "padding_side": "prompts of several lengths run without padding: `model.run_each(prompts)`",
    "loss_per_token": "measure the logits with a metric",
    "past_kv_cache": "write `prompt_cache=`, mlx_lm's own",
    "attention_mask": "prompts of several lengths run without padding: `model.run_each(prompts)`",
    "device": _DEVICE,
    "fwd_hooks": "write `edits=`, or call `model.run_with_hooks(tokens, fwd_hooks)`",
    "max_new_tokens": "write `max_tokens=`",
    "do_sample": "write `sampler=`, one of mlx_lm's `make_sampler`",
    "temperature": "write `sampler=make_sampler(temp=0.7)`, of mlx_lm",
    "top_p": "write `sampler=make_sampler(top_p=0.9)`, of mlx_lm",
    "top_k": "write `sampler=make_sampler(top_k=40)`, of mlx_lm",
    "stop_at_eos": "leave it out: text always ends there",
}
"""Arguments in TransformerLens, and what to write."""

_SWEEP = "write `mp.sweep(model, clean, mp.Replace(cache), at=..., over=('layer', 'pos'), metric=...)`"

MODULE_HINTS = {
    "HookedTransformer": "write `mp.HookedModel`",
    "LanguageModel": "write `mp.HookedModel`",
    "HookedTransformerConfig": "a model is as mlx_lm loads it: `mp.HookedModel.load`",
    "FactoredMatrix": "MLX multiplies matrices as they are",
    "HookPoint": "places are values, `mp.Site('resid_post', 3)`",
    "patching": _SWEEP,
    "generic_activation_patch": _SWEEP,
    "get_act_patch_resid_pre": _SWEEP,
    "get_act_patch_attn_head_out_all_pos": _SWEEP,
    "get_act_patch_block_every": _SWEEP,
    "path_patch": "write `mp.sweep(..., via=mp.Receiver('logits'))`",
    "act_patch": _SWEEP,
    "utils": "sites are `mp.Site`, positions `mp.pos`, metrics `mp.metrics`",
    "get_act_name": "write `mp.Site('resid_post', 3)`, whose text is the hook's name",
    "evals": "`mp.tasks` has classic tasks",
    "logit_lens": "write `mp.lens.logit_lens`",
}
"""Names of the packages themselves, and what to write."""


def refuse_attribute(owner: str, name: str, hints: Mapping[str, str], names: Iterable[str]) -> NoReturn:
    """Refuse a name that an object does not have, with what to write in its place.

    Args:
        owner: The object in words: "`HookedModel`".
        name: The name.
        hints: What to write for the names of other libraries.
        names: The names that the object has, private ones too.
    Raises:
        UnknownAttributeError: Always.
    """
    if name in hints:
        raise UnknownAttributeError(f"{owner} has no `{name}`: {hints[name]}.")
    public_names = [known for known in names if not known.startswith("_")]
    raise UnknownAttributeError(f"{owner} has no `{name}`. {did_you_mean(name, public_names)}")


def knows_idioms(function: Callable[Arguments, Returned]) -> Callable[Arguments, Returned]:
    """A function that refuses the arguments of other libraries with a hint, and does what it does else.

    Raises:
        KindError: It is called with one.
    """

    @wraps(function)
    def wrapper(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Returned:
        for name in kwargs.keys() & ARGUMENT_HINTS.keys():
            if name not in own_names:
                raise KindError(f"`{function.__name__}` has no argument `{name}`: {ARGUMENT_HINTS[name]}.")
        return function(*args, **kwargs)

    code = function.__code__
    own_names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    return wrapper
