"""What a cell reads is there: keys of the whole prompt, positions behind the last block, the embedding."""

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.models.cache import make_prompt_cache

import mlx_patch as mp
from mlx_patch.engine import offset_of
from mlx_patch.errors import SelectionError
from mlx_patch.interventions import Edit

PROMPT = mx.array([[5, 9, 2, 7, 11, 3, 8, 1, 4, 6, 12, 15]])
DIFF = mp.metrics.LogitDiff(10, 20)
WINDOWED = ["gemma3_text", "llama-sliding", "muse_spark", "gemma3n", "gpt_oss", "recurrent_gemma", "llama4_text"]


def hidden_key(scores, site):
    """Hide the key two places before the last."""
    scores[..., 9] = 0.0 if site.name == "pattern" else float(mx.finfo(scores.dtype).min)
    return scores


def backwards(activation, site):
    """Read other positions than the one that is written."""
    return 0.5 * activation + 0.5 * activation[:, ::-1]


def agree(model, tokens, *cells, metric=DIFF, executors=("rows", "auto")):
    """Every executor gives what one plain run a cell gives, and the cells do something."""
    edits = [[cell] if isinstance(cell, Edit) else cell for cell in cells]
    wanted = np.stack([np.array(metric(model.run(tokens, cell))) for cell in edits])
    assert np.abs(wanted - np.array(metric(model.run(tokens)))).max() > 1e-3
    for executor in executors:
        found = mp.sweep(model, tokens, over=list(cells), metric=metric, executor=executor, progress=False).values
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", WINDOWED)
def test_keys_are_those_of_the_whole_prompt(tiny, name):
    model = tiny(name)
    for site in ("pattern", "attn_scores"):
        layers = [here.layer for here in model.sites if here.name == site]
        hidden = [mp.Apply(hidden_key).at(site, layer=layers[0], pos=pos) for pos in (-1, (10, 11))]
        other = model.run_with_cache(PROMPT[:, ::-1], site)[1]
        agree(model, PROMPT, *hidden, mp.Interpolate(other, 0.5).at(site, layer=layers[-1], pos=-1))


def test_keys_are_those_of_the_whole_prompt_where_it_is_long(tiny):
    model, tokens = tiny(), mx.array([[1 + i % 40 for i in range(300)]])
    for site in ("pattern", "attn_scores"):
        other = model.run_with_cache(tokens[:, ::-1], site, logits_at=-1)[1]
        hidden = mp.Apply(lambda keys, site: mx.where(mx.arange(keys.shape[-1]) == 280, 0 * keys, keys))
        agree(model, tokens, mp.Replace(other).at(site, layer=1), hidden.at("pattern", layer=0))
        agree(model, tokens, hidden.at("pattern", layer=0, pos=slice(250, 290)), executors=("auto",))


@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt2", "deepseek_v3", "mixtral"])
def test_positions_behind_the_last_block_are_computed(tiny, name):
    model = tiny(name)
    norm = model.layout.final_norm
    readers = [mp.Ablate("mean"), mp.Ablate("noise"), mp.Apply(backwards)]
    cells = [
        [mp.Scale(1.3).at("resid_post", layer=0), reader.at(site)]
        for reader in readers
        for site in ("final_norm", f"{norm}:input", f"{norm}:output")
        if reader == readers[2] or ":" not in site
    ]
    agree(model, PROMPT, *cells)
    agree(
        model, PROMPT, [mp.Scale(1.3).at("mlp_out", layer=0), mp.Apply(backwards).at("final_norm", pos=slice(4, None))]
    )


def test_an_edit_at_the_read_position_leaves_the_rest_alone(tiny):
    """Of the last block. The price of item after item: one position of its MLP, unless others are read."""
    model = tiny()
    agree(model, PROMPT, [mp.Scale(1.3).at("mlp_out", layer=0), mp.Scale(2.0).at("final_norm", pos=-1)])


@pytest.mark.parametrize(
    "name", ["muse_spark", "gemma3n", "talkie", "llama", "gpt2", "kimi_k3", "rwkv7", "deepseek_v41"]
)
def test_the_embedding_is_edited_in_every_executor(tiny, name):
    model = tiny(name)
    edits = [mp.Ablate("zero").at("embed", pos=3), mp.Scale(1.5).at("embed"), mp.Apply(backwards).at("embed")]
    agree(model, PROMPT, *edits, [mp.Scale(0.5).at("embed", pos=2), mp.Scale(1.5).at("resid_post", layer=0)])


def test_long_prompts_whose_first_piece_is_wholly_edited(tiny):
    """An array of the picked part's shape is in the order of the picks, also where they are all of a piece."""
    model, tokens = tiny(), mx.array([[1 + i % 40 for i in range(300)]])
    turned = tuple(reversed(range(256)))
    values = mx.random.normal((1, 256, 64), key=mx.random.key(0))
    agree(model, tokens, mp.Replace(values).at("mlp_out", layer=1, pos=turned), executors=("auto",))


@pytest.mark.parametrize("name", [*WINDOWED, "deepseek_v41"])
@pytest.mark.parametrize("cut", [7, 11])
def test_keys_behind_a_prompt_cache_are_the_whole_prompt_s(tiny, name, cut):
    model, layers = tiny(name), [site.layer for site in tiny(name).sites if site.name == "pattern"]
    hidden = mp.Apply(hidden_key).at("pattern", layer=layers[0], pos=-1)
    whole = model.run_with_cache(PROMPT, "pattern")[1]
    prompt_cache = make_prompt_cache(model.model)
    model.run(PROMPT[:, :cut], prompt_cache=prompt_cache)
    logits, seen = model.run_with_cache(PROMPT[:, cut:], "pattern", [hidden], prompt_cache=prompt_cache)
    np.testing.assert_allclose(np.array(logits[:, -1]), np.array(model.run(PROMPT, [hidden])[:, -1]), atol=1e-4)
    for layer in layers[1:]:
        rows = np.array(whole["pattern", layer][:, :, cut:])
        assert seen["pattern", layer].shape == rows.shape
    np.testing.assert_allclose(np.array(seen["pattern", layers[0]][..., -1, 9]), 0.0)


@pytest.mark.parametrize("name", ["gemma3_text", "deepseek_v41", "llama-sliding"])
def test_an_edit_that_attends_to_keys_that_are_gone_is_refused(tiny, name):
    model = tiny(name)
    layer = next(site.layer for site in model.sites if site.name == "pattern")
    prompt_cache = make_prompt_cache(model.model)
    model.run(PROMPT[:, :11], prompt_cache=prompt_cache)
    spread = mp.Apply(lambda pattern, site: mx.full(pattern.shape, 1 / pattern.shape[-1])).at("pattern", layer=layer)
    with pytest.raises(SelectionError, match="must not attend to keys that the prompt cache no longer holds"):
        model.run(PROMPT[:, 11:], [spread], prompt_cache=prompt_cache)
    assert offset_of(prompt_cache) == 11


@pytest.mark.parametrize("name", ["llama", "granite", "gemma4_text", "longcat_flash", "iquestloopcoder"])
def test_an_argument_is_not_the_stream_whatever_other_cells_edit(tiny, name):
    """`resid_mid` goes on along the skip connection; what the norm there is given does not, alone and together."""
    model = tiny(name)
    mid = next(site for site in model.sites if site.name == "resid_mid")
    place = model.layout.place(mid)
    path = next(path for path, module in model.model.named_modules() if module is place.module)
    call = "" if place.point.call is None else f"[{place.point.call}]"
    stream, argument = mp.Scale(0.5).at(mid), mp.Scale(0.5).at(f"{path}:input{call}", pos=-1)
    agree(model, PROMPT, stream, argument, [stream, argument], [argument, stream])
    both = [[stream, argument], [argument, stream]]
    assert DIFF(model.run(PROMPT, both[0])).item() == DIFF(model.run(PROMPT, both[1])).item()


def test_keys_behind_those_of_positions_are_sources_too(tiny):
    model = tiny("deepseek_v41")
    other = model.run_with_cache(PROMPT[:, ::-1], "pattern")[1]
    agree(
        model,
        PROMPT,
        mp.Replace(other).at("pattern", layer=1),
        mp.Interpolate(other, 0.5).at("pattern", layer=1, pos=-1),
    )


def test_weights_of_experts_beside_a_raw_path_inside_them(tiny):
    """Weights of experts that were not chosen run them a second time, and the raw path would be refused."""
    model, tokens = tiny("bailing_hybrid-plain", "4bit"), mx.array([[36, 92, 7, 93, 91], [93, 92, 46, 93, 91]])
    weights = mp.Ablate("noise", seed=3, scale=3.0).at("expert_weights", layer=1, pos=0)
    inside = mp.Scale(0.5).at("model.layers.1.mlp.switch_mlp.gate_proj:input")
    metric = mp.metrics.LogProb(3)
    result = mp.sweep(model, tokens, over=[[weights], [inside]], metric=metric)
    for values, edit in zip(result.values, (weights, inside), strict=True):
        assert np.allclose(values, np.array(metric(model.run(tokens, [edit]))), atol=1e-3)
