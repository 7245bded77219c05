"""One forward pass: what it returns, what it takes, what it refuses, and how it leaves the model."""

import gc
from copy import deepcopy
from functools import partial

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten

from mlx_patch import Ablate, Add, Apply, HookedModel, Replace, Scale, Site
from mlx_patch.errors import EditNotUsedError, KindError, MissingSiteError, SelectionError, ShapeError, UnknownNameError

ROUNDING = 8 * float(mx.finfo(mx.float32).eps)  # of the largest logit: a product of one row sums in another order


def same(a, b):
    return a.dtype == b.dtype and mx.array_equal(a, b).item()


def close(a, b):
    return a.shape == b.shape and mx.max(mx.abs(a - b)).item() <= ROUNDING * mx.max(mx.abs(b)).item()


def classes(model):
    return [type(module) for module in model.model.modules()]


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "4bit"])
def test_a_run_without_edits_is_the_model_bit_for_bit(tiny, tokens, precision):
    model = tiny("llama", precision)
    plain = model.model(tokens)
    assert same(model(tokens), plain)
    assert same(model.run(tokens), plain)
    assert same(model.run_with_cache(tokens, sites=("resid_post", "z"))[0], plain)


def test_what_a_run_kept_is_let_go_with_its_cache(tiny):
    """At once: a circle of objects would hold it until Python looks for circles, which it does by their number."""
    tokens = mx.array([[n % 90 + 1 for n in range(256)]])
    tiny().run_with_cache(tokens)
    gc.collect()
    gc.disable()
    try:
        before = mx.get_active_memory()
        logits, cache = tiny().run_with_cache(tokens, sites=("resid_post", "z", "mlp_post"))
        held = mx.get_active_memory() - before
        del logits, cache
        left = mx.get_active_memory() - before
        assert left < 20_000 < held
    finally:
        gc.enable()


def every_site(model, tokens):
    return model.run_with_cache(tokens, model.sites)


def of_a_generation(model, tokens):
    return model.generate_with_cache(tokens, ("resid_post", "rot_k"), max_tokens=2)


def of_a_stream(model, tokens):
    return list(model.stream(tokens, [Scale(1.0).at("rot_k")], max_tokens=2))


@pytest.mark.parametrize("captures", [every_site, of_a_generation, of_a_stream], ids=lambda call: call.__name__)
@pytest.mark.parametrize("name", ["llama", "mixtral", "muse_spark"])
def test_no_run_leaves_a_circle_of_objects(tiny, tokens, word_tokenizer, name, captures):
    model = HookedModel(tiny(name).model, word_tokenizer)
    captures(model, tokens)
    gc.collect()
    gc.disable()
    try:
        captures(model, tokens)
        assert gc.collect() == 0
    finally:
        gc.enable()


def test_a_class_that_is_changed_after_a_run_is_seen_by_the_next(tiny, tokens, monkeypatch):
    model = tiny()
    first = model.run_with_cache(tokens, sites=("resid_post",))[0]
    cls, plain = type(model.model), type(model.model).__call__
    monkeypatch.setattr(cls, "__call__", lambda self, ids, **more: 2 * plain(self, ids, **more))
    assert same(model.run_with_cache(tokens, sites=("resid_post",))[0], 2 * first)


@pytest.mark.parametrize("at", [0, -1, 5, [2, -2], slice(3, None), slice(None, 4, 2), range(6, 8)], ids=repr)
@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2"])
def test_logits_at_are_a_slice_of_all(tiny, tokens, name, at):
    model = tiny(name)
    index = [at % 8] if isinstance(at, int) else list(range(8)[at]) if isinstance(at, slice) else [p % 8 for p in at]
    assert close(model.run(tokens, logits_at=at), model.run(tokens)[:, mx.array(index)])


def test_an_edit_of_the_final_norm_comes_before_the_slice(tiny, tokens):
    edit = Scale(2.0).at("final_norm", pos=6)
    whole = tiny().run(tokens, [edit])
    assert close(tiny().run(tokens, [edit], logits_at=[6, 7]), whole[:, 6:])


def test_the_final_norm_is_captured_whole(tiny, tokens):
    """However few logits are wanted."""
    _, cache = tiny().run_with_cache(tokens, sites="final_norm", logits_at=-1)
    assert cache["final_norm"].shape == (1, 8, 64)


@pytest.mark.parametrize("given", [[1, 2, 3], (1, 2, 3), np.array([1, 2, 3]), mx.array([1, 2, 3])], ids=type)
def test_one_prompt_may_come_without_a_batch_axis(tiny, given):
    assert same(tiny().run(given), tiny().run([[1, 2, 3]]))


def test_rows_of_a_batch_are_as_they_are_alone(tiny, tokens):
    other = (tokens + 40) % 96
    both, cache = tiny().run_with_cache(
        mx.concatenate([tokens, other]), sites="z", edits=[Scale(0.5).at("z.1", head=2)]
    )
    for row, prompt in enumerate((tokens, other)):
        alone, held = tiny().run_with_cache(prompt, sites="z", edits=[Scale(0.5).at("z.1", head=2)])
        assert close(both[row : row + 1], alone)
        assert close(cache["z", 2][row : row + 1], held["z", 2])


def test_an_edit_of_one_row_leaves_the_others(tiny, tokens):
    both = mx.concatenate([tokens, (tokens + 40) % 96])
    plain, edited = tiny().run(both), tiny().run(both, [Ablate("zero").at("attn_out", layer=1, batch=1)])
    assert same(edited[0], plain[0])
    assert not same(edited[1], plain[1])


def test_ids_out_of_the_vocabulary_are_refused(tiny):
    with pytest.raises(SelectionError, match=r"`tokens` must lie in 0 to 95\. Got 96"):
        tiny().run([[1, 96]])
    with pytest.raises(KindError, match="`tokens` must be integers"):
        tiny().run([[0.5]])
    with pytest.raises(ShapeError, match="and not be empty"):
        tiny().run(mx.zeros((1, 0), mx.int32))


@pytest.mark.parametrize("argument", ["pos", "logits_at"])
@pytest.mark.parametrize("wrong", [8, -9, [0, 99]])
def test_positions_that_are_not_there_are_refused(tiny, tokens, argument, wrong):
    with pytest.raises(SelectionError, match=r"`pos` must lie in -8 to 7, the 8 positions\. Got"):
        tiny().run_with_cache(tokens, **{argument: wrong})


def test_what_is_no_edit_is_refused(tiny, tokens):
    with pytest.raises(KindError, match=r"`edits` must hold edits, which `\.at\(\.\.\.\)` makes\. Got Scale\(2\.0\)"):
        tiny().run(tokens, [Scale(2.0)])


def test_one_edit_need_not_be_in_a_list(tiny, tokens):
    edit = Scale(2.0).at("z", layer=0)
    assert same(tiny().run(tokens, edit), tiny().run(tokens, [edit]))


def test_edits_of_one_site_act_in_order(tiny, tokens):
    x = tiny().run_with_cache(tokens)[1]["resid_post", 1]
    ones = mx.ones((64,))
    add, scale = Add(ones).at("resid_post", layer=1), Scale(2.0).at("resid_post", layer=1)
    for edits, wanted in (([add, scale], (x + ones) * 2.0), ([scale, add], x * 2.0 + ones)):
        assert same(tiny().run_with_cache(tokens, edits=edits)[1]["resid_post", 1], wanted)


def test_captures_are_of_what_the_edits_made(tiny, tokens):
    _, cache = tiny().run_with_cache(tokens, sites="z", edits=[Ablate("zero").at("z", layer=1, head=3)])
    assert not mx.any(cache["z", 1][:, :, 3]).item()
    assert mx.any(cache["z", 1][:, :, 2]).item()


def test_negative_layers_count_from_the_last(tiny, tokens):
    assert same(
        tiny().run(tokens, [Scale(0.0).at("mlp_out", layer=-1)]),
        tiny().run(tokens, [Scale(0.0).at("mlp_out", layer=2)]),
    )


@pytest.mark.parametrize("layer", [3, -4])
def test_a_layer_that_is_not_there_is_refused_first(tiny, tokens, layer):
    """Before anything runs."""
    with pytest.raises(SelectionError, match=rf"`layer` must lie in -3 to 2\. Got {layer}"):
        tiny().run(tokens, [Scale(0.0).at("mlp_out", layer=layer)])
    with pytest.raises(MissingSiteError, match="gpt_neox has no 'resid_mid': its attention and MLP run in parallel"):
        tiny("gpt_neox-parallel").run_with_cache(tokens, sites="resid_mid")


def test_a_source_with_nan_is_refused_before_anything_runs(tiny, tokens):
    ran = []
    edits = [Apply(lambda x, site: ran.append(site) or x).at("embed"), Replace(mx.array(float("nan"))).at("z", layer=0)]
    with pytest.raises(ValueError, match="`source` must not hold NaN"):
        tiny().run(tokens, edits)
    assert ran == []


def test_a_module_that_never_runs_is_told(tiny, tokens):
    model = tiny()
    model.model.model.spare = nn.Linear(2, 2)
    try:
        message = r"`model\.spare:output` must be computed in a run .* the module at 'model\.spare' was not called"
        with pytest.raises(EditNotUsedError, match=message):
            model.run(tokens, [Scale(2.0).at("model.spare:output")])
        with pytest.raises(EditNotUsedError, match=message):
            model.run_with_cache(tokens, sites="model.spare:output")
    finally:
        del model.model.model.spare


def test_an_edit_that_meets_no_position_is_told(tiny, tokens):
    message = r"`edits` must each act\. The edit at blocks\.0\.attn\.hook_z did not: none of its positions was computed"
    with pytest.raises(EditNotUsedError, match=message):
        tiny().run(tokens, [Scale(2.0).at("z", layer=0, pos=slice(20, None))])


def test_hooks_are_functions_of_an_activation_and_its_site(tiny, tokens):
    seen = []

    def double(activation, site):
        seen.append((str(site), activation.shape))
        return activation * 2.0

    edited = tiny().run_with_hooks(tokens, [("blocks.1.hook_mlp_out", double), ("z", lambda activation, site: None)])
    assert seen == [("blocks.1.hook_mlp_out", (1, 8, 64))]
    assert same(edited, tiny().run(tokens, [Scale(2.0).at("mlp_out", layer=1)]))


def test_a_hook_at_a_short_name_is_at_every_layer(tiny, tokens):
    seen = []
    tiny().run_with_hooks(tokens, [("z", lambda activation, site: seen.append(site.layer) or activation)])
    assert seen == [0, 1, 2]


def test_a_hook_of_transformer_lens_is_given_what_it_knows(tiny, tokens):
    model, seen = tiny(), {}
    _, cache = model.run_with_cache(tokens, sites=("mlp_out", "final_norm"))

    def keeping(value, hook):
        seen[hook.name] = (hook.layer(), hook.layer, value.shape, hook == Site("mlp_out", hook.layer), hook in cache)
        assert cache[hook.name] is cache[hook] is cache["mlp_out", hook.layer()]
        assert isinstance(hook, Site)
        return value

    logits = model.run_with_hooks(tokens, [("mlp_out", keeping)])
    assert same(logits, model.run(tokens))
    assert seen == {f"blocks.{n}.hook_mlp_out": (n, n, (1, 8, 64), True, True) for n in range(3)}

    def named(value, hook):
        assert (hook.name, hook.layer, hook.plain) == ("ln_final.hook_normalized", None, Site("final_norm"))

    model.run_with_hooks(tokens, [("final_norm", named), ("ln_final.hook_normalized", named)])


def by_position(value, position, hook):
    value[:, position] = 0.0
    return value if hook.layer() == 1 else None


def by_hook_alone(value, *, hook):
    value[:, 3] = 0.0


@pytest.mark.parametrize("hook", [partial(by_position, position=3), partial(by_position, hook=None), by_hook_alone])
def test_hooks_are_called_as_transformer_lens_calls_them(tiny, tokens, hook):
    model, wanted = tiny(), tiny().run(tokens, [Ablate("zero").at("mlp_out", layer=1, pos=3)])
    if getattr(hook, "keywords", {}) == {"hook": None}:
        with pytest.raises(TypeError, match="position"):  # as there
            model.run_with_hooks(tokens, [("mlp_out.1", hook)])
        return
    assert same(model.run_with_hooks(tokens, [("blocks.1.hook_mlp_out", hook)]), wanted)


def test_an_edit_by_a_function_is_given_the_same_hook(tiny, tokens):
    model = tiny()
    _, cache = model.run_with_cache(tokens, sites="mlp_out")
    store = {}

    def doubled(value, hook):
        store[hook.name] = hook.layer()
        return 2.0 * cache[hook.name]

    edited = model.run(tokens, [Apply(doubled).at("mlp_out", layer=[0])])
    assert same(edited, model.run(tokens, [Scale(2.0).at("mlp_out", layer=0)]))
    assert store == {"blocks.0.hook_mlp_out": 0}


def test_a_hook_stands_for_its_site_wherever_one_is_taken(tiny, tokens):
    model, hooks = tiny(), []
    model.run_with_hooks(tokens, [("z.1", lambda value, hook: hooks.append(hook))])
    [hook] = hooks
    assert same(model.run(tokens, [Scale(0.5).at(hook)]), model.run(tokens, [Scale(0.5).at("z", layer=1)]))
    assert list(model.run_with_cache(tokens, sites=[hook])[1]) == [Site("z", 1)]
    assert {hook: 1} == {Site("z", 1): 1}
    assert (hook.axes, hook.is_raw, str(hook), hook) == (Site("z", 1).axes, False, hook.name, deepcopy(hook))


@pytest.mark.parametrize("stop", [ValueError, KeyboardInterrupt, SystemExit])
def test_whatever_stops_a_run_leaves_the_model_as_before(tiny, tokens, stop):
    model = tiny()
    before, plain = classes(model), model.run(tokens)

    def fail(activation, site):
        raise stop

    for site in ("embed", "pattern.1", "resid_mid.1", "final_norm", "model.layers.2.mlp.up_proj:output"):
        with pytest.raises(stop):
            model.run_with_hooks(tokens, [(site, fail)])
        assert classes(model) == before
    assert same(model.run(tokens), plain)


def test_an_error_inside_the_model_leaves_it_as_before(tiny, tokens):
    model = tiny()
    before = classes(model)
    with pytest.raises(ShapeError, match="must return the shape it received"):
        model.run_with_hooks(tokens, [("resid_post.1", lambda activation, site: activation[:, :3])])
    assert classes(model) == before


def test_a_tapped_module_is_to_others_what_it_was(tiny, tokens):
    """And to the model."""
    model = tiny()
    block = model.model.model.layers[1]
    cls, paths = type(block), [path for path, _ in tree_flatten(model.model.parameters())]
    inside = []

    def look(activation, site):
        now = type(block)
        inside.append(now is not cls)
        assert isinstance(block, cls)
        assert (now.__name__, now.__qualname__, now.__module__) == (cls.__name__, cls.__qualname__, cls.__module__)
        assert [path for path, _ in tree_flatten(model.model.parameters())] == paths
        assert repr(block) == before
        return activation

    before = repr(block)
    model.run_with_hooks(tokens, [("resid_post.1", look)])
    assert inside == [True]
    assert type(block) is cls


def test_sites_are_chosen_by_name_by_site_and_by_function(tiny, tokens):
    def kept(sites):
        return [str(site) for site in tiny().run_with_cache(tokens, sites=sites)[1]]

    assert kept("final_norm") == ["ln_final.hook_normalized"]
    assert kept(["z.1", "blocks.1.attn.hook_z"]) == ["blocks.1.attn.hook_z"]
    assert kept(lambda site: site.layer == 0 and site.name in ("q", "z")) == [
        "blocks.0.attn.hook_q",
        "blocks.0.attn.hook_z",
    ]
    assert kept(()) == []
    with pytest.raises(UnknownNameError, match=r"`sites` must hold names or Sites\. Got 3"):
        kept([3])
