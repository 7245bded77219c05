"""Any module by its path: what it is given, what it returns, and which of its calls is meant."""

import mlx.core as mx
import mlx.nn as nn
import pytest

from mlx_patch import HookedModel, Replace, Scale, Site
from mlx_patch.errors import EditNotUsedError, KindError, SelectionError, UnknownNameError
from mlx_patch.testing import tiny_model

ROPE = "model.layers.1.self_attn.rope"


def same(a, b):
    return a.dtype == b.dtype and mx.array_equal(a, b).item()


@pytest.mark.parametrize(
    ("raw", "named"),
    [
        ("model.layers.1:input", "resid_pre.1"),
        ("model.layers.1:output", "resid_post.1"),
        ("model.layers.1.mlp:output", "mlp_out.1"),
        ("model.layers.1.mlp.down_proj:input", "mlp_post.1"),
        ("model.norm:output", "final_norm"),
    ],
)
def test_a_raw_path_is_the_named_site_that_stands_there(tiny, tokens, raw, named):
    _, cache = tiny().run_with_cache(tokens, sites=(raw, named))
    assert same(cache[raw], cache[named])
    assert same(tiny().run(tokens, [Scale(0.5).at(raw)]), tiny().run(tokens, [Scale(0.5).at(named)]))


def test_what_has_no_name_can_be_read_and_edited(tiny, tokens):
    gate = "model.layers.0.mlp.gate_proj:output"
    plain, cache = tiny().run_with_cache(tokens, sites=gate)
    assert cache[gate].shape == (1, 8, 96)
    assert same(tiny().run(tokens, [Replace(cache).at(gate)]), plain)
    edited = tiny().run(tokens, [Scale(0.0).at(gate, pos=4)])
    assert same(edited[:, :4], plain[:, :4])
    assert not same(edited[:, 4:], plain[:, 4:])


def test_the_whole_model_has_an_output_and_an_input(tiny, tokens):
    logits, cache = tiny().run_with_cache(tokens, sites=(":output", ":input"))
    assert same(cache[":output"], logits)
    assert same(cache[":input"], tokens)


def test_a_module_that_runs_twice_needs_the_call_s_number(tiny, tokens):
    """It is refused without."""
    message = (
        rf"`{ROPE}:output` must say which call it means\. Got a module that runs 2 times .* Write {ROPE}:output\[0\]"
    )
    with pytest.raises(SelectionError, match=message):
        tiny().run_with_cache(tokens, sites=f"{ROPE}:output")
    with pytest.raises(SelectionError, match=message):
        tiny().run(tokens, [Scale(2.0).at(f"{ROPE}:output")])


def test_each_call_of_a_module_is_a_site_of_its_own(tiny, tokens):
    model = tiny()
    calls = [f"{ROPE}:output[{n}]" for n in range(2)]
    _, cache = model.run_with_cache(tokens, sites=(*calls, "rot_q.1", "rot_k.1"))
    for call, named in zip(calls, ("rot_q", "rot_k"), strict=True):
        assert same(cache[call].swapaxes(1, 2), cache[named, 1])
        assert same(model.run(tokens, [Scale(0.5).at(call)]), model.run(tokens, [Scale(0.5).at(named, layer=1)]))


def test_both_calls_can_be_edited_in_one_run(tiny, tokens):
    by_call = [Scale(0.5).at(f"{ROPE}:output[0]"), Scale(2.0).at(f"{ROPE}:output[1]")]
    by_name = [Scale(0.5).at("rot_q", layer=1), Scale(2.0).at("rot_k", layer=1)]
    assert same(tiny().run(tokens, by_call), tiny().run(tokens, by_name))


def test_calls_are_counted_anew_in_every_pass(tiny, tokens):
    model = tiny()
    with model.editing(Scale(0.5).at(f"{ROPE}:output[1]")):
        first, second = model.model(tokens), model.model(tokens)
        mx.eval(first, second)
    assert same(first, second)


def test_a_call_that_does_not_come_is_told(tiny, tokens):
    with pytest.raises(EditNotUsedError, match=rf"`{ROPE}:output\[2\]` must be computed in a run"):
        tiny().run(tokens, [Scale(2.0).at(f"{ROPE}:output[2]")])


def test_an_edit_by_position_needs_positions_on_axis_1(tiny, tokens):
    """It is refused where positions do not run along the second axis."""
    with pytest.raises(SelectionError, match="`site` must have the 8 positions of this pass along axis 1"):
        tiny().run(tokens, [Scale(2.0).at(f"{ROPE}:output[0]", pos=1)])


def test_a_path_that_leads_nowhere_gets_the_nearest(tiny, tokens):
    message = r"`site` must be a module's path\. Got 'model\.layers\.1\.mpl'\. Did you mean .*model\.layers\.1\.mlp"
    with pytest.raises(UnknownNameError, match=message):
        tiny().run_with_cache(tokens, sites="model.layers.1.mpl:output")


class Pair(nn.Module):
    """Returns two arrays."""

    def __call__(self, x):
        return x, x


class WithPair(nn.Module):
    """An MLP in which something returns two arrays."""

    def __init__(self):
        super().__init__()
        self.pair = Pair()

    def __call__(self, x):
        return self.pair(x)[0]


def test_a_module_that_returns_no_array_is_refused(tokens):
    model = HookedModel(tiny_model("llama"))
    model.model.model.layers[1].mlp = WithPair()
    plain = model.run(tokens)
    with pytest.raises(KindError, match=r"`model\.layers\.1\.mlp\.pair:output` must be an array .* Got tuple\. Choose"):
        model.run_with_cache(tokens, sites="model.layers.1.mlp.pair:output")
    assert same(model.run_with_cache(tokens, sites="model.layers.1.mlp.pair:input")[0], plain)


@pytest.mark.parametrize("name", ["llama", "gpt2", "gpt_neox-parallel", "mixtral", "phi3"])
def test_every_linear_map_of_a_model_can_be_watched(tiny, tokens, name):
    model = tiny(name)
    paths = [path for path, module in model.model.named_modules() if isinstance(module, nn.Linear)]
    logits, cache = model.run_with_cache(tokens, sites=[f"{path}:input" for path in paths])
    assert len(cache) == len(paths) > 5
    assert all(isinstance(site, Site) and site.is_raw for site in cache)
    assert same(logits, model.model(tokens))
