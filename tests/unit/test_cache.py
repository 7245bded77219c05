import copy
import gc
import subprocess
import sys

import mlx.core as mx
import numpy as np
import pytest

from mlx_patch import ActivationCache, Site
from mlx_patch.errors import FileError, MissingSiteError, SelectionError, ShapeError, UnknownNameError

GATE = "model.layers.1.mlp.gate_proj:output"


@pytest.fixture(scope="module")
def cache(tiny, tokens):
    return tiny().run_with_cache(tokens, sites=("resid_post", "z", "final_norm", GATE))[1]


@pytest.fixture(scope="module")
def partial(tiny, tokens):
    """Layer 1 of three, and nothing else."""
    return tiny().run_with_cache(tokens, sites="resid_post.1")[1]


def same(a, b):
    return a.dtype == b.dtype and mx.array_equal(a, b).item()


@pytest.mark.parametrize(
    "key", [("resid_post", 2), ("resid_post", -1), "blocks.2.hook_resid_post", "resid_post.2", Site("resid_post", 2)]
)
def test_every_spelling_is_the_same_array(cache, key):
    assert cache[key] is cache["resid_post", 2]
    assert key in cache


@pytest.mark.parametrize("key", ["final_norm", ("final_norm",), "ln_final.hook_normalized", Site("final_norm")])
def test_a_site_without_a_layer_is_read_without_one(cache, key):
    assert cache[key] is cache[Site("final_norm")]


def test_the_part_may_be_said_as_in_transformer_lens(cache):
    """The part of the block, as in `cache["z", 1, "attn"]`."""
    assert cache["z", 1, "attn"] is cache["z", -2, "attn"] is cache["z", 1]


@pytest.mark.parametrize("key", [("z", 1, "mlp"), ("z", "1"), (3, 1), (), ("z", 1, "attn", 4)])
def test_another_tuple_is_refused(cache, key):
    with pytest.raises(UnknownNameError, match=r"`site` must be a name, a Site, or \(name, layer\)\. Got \("):
        cache[key]


def test_a_raw_path_is_read_as_it_was_asked_for(cache):
    assert cache[GATE].shape == (1, 8, 96)


def test_a_cache_is_a_mapping_of_sites_in_the_order_asked_for(cache):
    names = [*(f"blocks.{i}.hook_resid_post" for i in range(3)), *(f"blocks.{i}.attn.hook_z" for i in range(3))]
    assert [str(site) for site in cache] == [*names, "ln_final.hook_normalized", GATE]
    assert len(cache) == 8
    assert dict(cache.items())[Site("z", 0)] is cache["z", 0]
    assert cache.layers("z") == (0, 1, 2)


def test_what_is_no_key_is_not_in_a_cache(cache):
    assert 3 not in cache
    assert Site("q", 0) not in cache
    assert ("resid_post", 7) not in cache


def test_a_site_that_is_not_held_is_refused_with_the_remedy(cache):
    message = r"The cache does not hold blocks\.0\.attn\.hook_q\. It has: .*\. Capture it"
    with pytest.raises(MissingSiteError, match=message):
        cache["q", 0]


def test_an_unknown_name_gets_the_nearest(cache):
    with pytest.raises(UnknownNameError, match="Did you mean resid_post"):
        cache["resid_pots", 0]


def test_negative_layers_count_from_the_model_s_last(partial):
    """Not from the last that the cache holds."""
    assert partial["resid_post", -2] is partial["resid_post", 1]
    with pytest.raises(MissingSiteError, match=r"does not hold blocks\.2\.hook_resid_post"):
        partial["resid_post", -1]


def test_a_negative_layer_past_the_first_is_refused(cache):
    with pytest.raises(SelectionError, match=r"`layer` must be a block's number\. Got -4 for a cache that has 3"):
        cache["resid_post", -4]


def test_a_negative_layer_needs_the_number_of_layers():
    """It is refused where nobody knows how many there are."""
    lone = ActivationCache({Site("resid_post", 0): mx.zeros((1, 1, 2))}, mx.array([[0]]), (0,), 1)
    with pytest.raises(SelectionError, match="does not know how many the model has"):
        lone["resid_post", -1]


def test_a_stack_has_the_layers_first(cache):
    stacked = cache.stack("resid_post")
    assert stacked.shape == (3, 1, 8, 64)
    assert all(same(stacked[i], cache["resid_post", i]) for i in range(3))
    assert same(cache.stack("resid_post", [2, 0])[0], cache["resid_post", 2])


def test_a_stack_of_nothing_is_refused(cache):
    with pytest.raises(MissingSiteError, match="The cache does not hold 'q'"):
        cache.stack("q")
    with pytest.raises(UnknownNameError, match=r"`name` must be a site\. Got 'resid_pots'\. Did you mean"):
        cache.stack("resid_pots")


def test_a_stack_of_unequal_shapes_is_refused():
    arrays = {Site("z", 0): mx.zeros((1, 2, 3, 4)), Site("z", 1): mx.zeros((1, 2, 5, 4))}
    with pytest.raises(ShapeError, match="`layers` must have activations of one shape to be stacked"):
        ActivationCache(arrays, mx.array([[0, 1]]), (0, 1), 2).stack("z")


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_numpy_gets_every_array_by_its_full_name(tiny, tokens, precision):
    _, held = tiny("llama", precision).run_with_cache(tokens)
    arrays = held.to_numpy()
    assert list(arrays) == [f"blocks.{i}.hook_resid_post" for i in range(3)]
    wanted = np.float16 if precision == "float16" else np.float32
    for site, array in zip(held, arrays.values(), strict=True):
        assert array.dtype == wanted
        assert (array == np.array(held[site].astype(mx.float32))).all()


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16", "4bit"])
def test_a_saved_cache_comes_back_as_it_was(tiny, tokens, tmp_path, precision):
    model = tiny("llama", precision)
    _, held = model.run_with_cache(tokens, sites=("resid_post", "pattern", GATE), pos=[1, -1])
    held.save(tmp_path / "a.safetensors")
    back = ActivationCache.load(tmp_path / "a.safetensors")
    assert list(back) == list(held)
    assert all(same(back[site], held[site]) for site in held)
    assert same(back.tokens, held.tokens)
    assert (back.positions, back.n_positions, back.model) == ((1, 7), 8, model.identity)
    assert back["resid_post", -1] is back["resid_post", 2]


def test_a_cache_can_be_saved_over_the_file_it_comes_from(cache, tmp_path):
    path = tmp_path / "a.safetensors"
    cache.save(path)
    ActivationCache.load(path).save(path)
    assert same(ActivationCache.load(path)["z", 1], cache["z", 1])


@pytest.mark.parametrize("stop", [RuntimeError, KeyboardInterrupt])
def test_a_save_that_fails_leaves_no_file(cache, tmp_path, monkeypatch, stop):
    def half(file, *_):
        file.write(b"hal")
        raise stop

    monkeypatch.setattr(mx, "save_safetensors", half)
    with pytest.raises(stop):
        cache.save(tmp_path / "a.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_a_process_killed_while_it_saves_leaves_no_file(tmp_path):
    """None of the name that it saves to."""
    code = """
import os, sys
import mlx.core as mx
from mlx_patch import ActivationCache, Site
whole = mx.save_safetensors
mx.save_safetensors = lambda *given: (whole(*given), os.kill(os.getpid(), 9))
ActivationCache({Site("embed"): mx.zeros((1, 1, 2))}, mx.array([[0]]), (0,), 1).save(sys.argv[1])
"""
    path = tmp_path / "a.safetensors"
    done = subprocess.run([sys.executable, "-c", code, str(path)], check=False, capture_output=True)
    assert done.returncode == -9, done.stderr
    assert not path.exists()


def test_a_path_without_the_suffix_is_refused(cache, tmp_path):
    with pytest.raises(FileError, match=r"`path` must end in '\.safetensors'\. Got .*a\.npz"):
        cache.save(tmp_path / "a.npz")


def test_a_folder_that_is_not_there_is_refused(cache, tmp_path):
    with pytest.raises(FileError, match="must be in a folder that can be written to"):
        cache.save(tmp_path / "none" / "a.safetensors")


def test_a_file_of_another_kind_is_refused(tmp_path):
    mx.save_safetensors(str(tmp_path / "weights.safetensors"), {"a": mx.zeros((2,))})
    with pytest.raises(FileError, match=r"must be a file that ActivationCache\.save wrote.* which is of another kind"):
        ActivationCache.load(tmp_path / "weights.safetensors")


@pytest.mark.parametrize("content", [b"", b"no safetensors", b"\xff" * 64])
def test_a_file_that_cannot_be_read_is_refused(tmp_path, content):
    (tmp_path / "a.safetensors").write_bytes(content)
    with pytest.raises(FileError, match=r"`path` must be a file that ActivationCache\.save wrote"):
        ActivationCache.load(tmp_path / "a.safetensors")


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(FileError, match=r"Got .*none\.safetensors"):
        ActivationCache.load(tmp_path / "none.safetensors")


@pytest.mark.parametrize("pos", [3, -1, [0, 5], slice(2, 5), slice(-2, None), range(1, 8, 3)], ids=repr)
@pytest.mark.parametrize("site", ["resid_post", "z", "pattern", "rot_k"])
def test_positions_kept_at_capture_are_a_slice_of_the_whole(tiny, tokens, site, pos):
    _, whole = tiny().run_with_cache(tokens, sites=site)
    _, some = tiny().run_with_cache(tokens, sites=site, pos=pos)
    index = [pos % 8] if isinstance(pos, int) else list(range(8)[pos]) if isinstance(pos, slice) else list(pos)
    assert some.positions == tuple(index)
    assert some.n_positions == 8
    for held in some:
        axis = 2 if site == "pattern" else 1
        assert same(some[held], mx.take(whole[held], mx.array(index), axis=axis))


@pytest.mark.slow
def test_positions_kept_at_capture_do_not_keep_the_rest_alive(tiny):
    tokens = mx.array([[(11 + 37 * i) % 96 for i in range(256)]] * 4)

    def held_by(**choice):
        gc.collect()
        mx.synchronize()
        before = mx.get_active_memory()
        cache = tiny().run_with_cache(tokens, sites=("resid_post", "z"), **choice)[1]
        gc.collect()
        return mx.get_active_memory() - before, sum(array.nbytes for array in cache.values())

    held_by()
    for choice in ({}, {"pos": -1}, {"pos": 0}, {"pos": slice(0, 4)}):
        used, needed = min(held_by(**choice) for _ in range(3))  # what other tests left may still be let go
        assert needed <= used < 1.1 * needed + 16_384  # buffers come in pages


def test_a_captured_array_is_not_changed_by_later_runs(tiny, tokens, cache):
    before = {site: np.array(array) for site, array in cache.items()}
    tiny().run_with_hooks(tokens, [("resid_post", lambda value, site: value * 0)])
    assert all((np.array(cache[site]) == array).all() for site, array in before.items())


def test_a_copy_holds_the_same_arrays(cache):
    assert dict(copy.copy(cache)) == dict(cache)
    assert copy.copy(cache)["resid_post", -1] is cache["resid_post", 2]


def test_a_cache_says_what_it_holds(tiny, tokens, cache):
    size = sum(array.nbytes for array in cache.values()) / 1000
    sites = f"resid_post 0-2, z 0-2, final_norm, {GATE}"
    assert repr(cache) == f"ActivationCache({sites}; positions 0-7 of 8; {size:.1f} kB)"
    _, some = tiny().run_with_cache(tokens, sites="z.0", pos=[0, -1])
    assert repr(some) == "ActivationCache(z 0; positions 0, 7 of 8; 1.0 kB)"


def test_a_line_of_a_cache_stays_short(tiny, tokens):
    _, everything = tiny().run_with_cache(tokens, sites=lambda site: True)
    names = list(dict.fromkeys(site.name for site in everything))
    assert f"{len(names) - 6} more sites" in repr(everything)
    assert len(repr(everything)) < 160


def test_a_notebook_shows_the_table_of_a_cache(tiny, tokens, cache):
    page = cache._repr_html_()
    for cell in ("resid_post", "0-2", "float32", str(cache["resid_post", 0].shape), "final_norm", GATE):
        assert f">{cell}<" in page
    assert "<script" not in page


def test_prompts_are_counted_where_there_are_several(tiny, tokens):
    _, batch = tiny().run_with_cache(mx.concatenate([tokens, tokens]), sites="embed")
    assert "embed; 2 prompts; positions" in repr(batch)


def test_every_key_of_a_cache_completes(cache):
    keys = cache._ipython_key_completions_()
    assert [cache[key] for key in keys] == list(cache.values())
    assert keys[0] == ("resid_post", 0)
    assert "final_norm" in keys
