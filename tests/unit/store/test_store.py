"""Stores: what was captured is read back, prompt by prompt, row by row, and as means."""

import json

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten
from rounding import same

from mlx_patch import Ablate, ActivationCache, ActivationStore, Apply, HookedModel, Replace, Scale, Site, sweep
from mlx_patch.errors import (
    FileError,
    KindError,
    MissingSiteError,
    SelectionError,
    ShapeError,
    TokenError,
    UnknownNameError,
    ValueRefusedError,
)
from mlx_patch.store import Rows, _capture, _means
from mlx_patch.testing import tiny_model

SITES = ("embed", "resid_post", "mixer_out", "z", "mlp_post", "mlp_out", "final_norm")
PROMPTS = [[(7 * n + 3 * p * p) % 95 + 1 for p in range(1 + (5 * n) % 7)] for n in range(17)]
ROWS = sum(map(len, PROMPTS))


def sites_of(model):
    return tuple(site for site in model.sites if site.name in SITES)


def equal(one, other):
    return one.shape == other.shape and one.dtype == other.dtype and mx.array_equal(one, other).item()


def contents(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.fixture(scope="module")
def stored(tiny, tmp_path_factory):
    """A store of 17 prompts in several shards, and its model."""
    model, folder = tiny("llama"), tmp_path_factory.mktemp("shared") / "store"
    return ActivationStore.capture(model, PROMPTS, folder, sites=sites_of(model), shard_mb=0.1), model


@pytest.mark.parametrize(
    ("name", "precision"),
    [
        ("llama", "float32"),
        ("llama", "bfloat16"),
        ("llama", "4bit"),
        ("gemma2", "float32"),
        ("gpt2", "float32"),
        ("qwen3_next", "float32"),
        ("mamba", "float32"),
        ("mixtral", "float32"),
    ],
)
def test_each_prompt_is_read_back_as_its_own_run_gave_it(tiny, tmp_path, name, precision):
    """In the order given, in its dtype, bit for bit but where half types round in batches."""
    model = tiny(name, precision)
    sites = sites_of(model)
    prompts = PROMPTS[:11]
    store = ActivationStore.capture(model, prompts, tmp_path / "store", sites=sites, shard_mb=0.05)
    assert len(list(tmp_path.glob("store/shard-*.safetensors"))) > 1
    assert (len(store), store.n_rows, store.sites, store.lengths) == (
        11,
        sum(map(len, prompts)),
        sites,
        tuple(map(len, prompts)),
    )
    for prompt, cache, by_number in zip(prompts, store, map(store.__getitem__, range(11)), strict=True):
        _, alone = model.run_with_cache([prompt], sites=sites)
        assert list(cache) == list(alone)
        assert all(equal(cache[site], alone[site]) for site in sites)
        assert all(equal(by_number[site], alone[site]) for site in sites)
        assert (cache.tokens.tolist(), cache.positions) == ([prompt], alone.positions)
        assert (cache.n_positions, cache.n_layers, cache.model) == (len(prompt), model.n_layers, alone.model)


def test_a_cache_from_a_store_is_a_source(stored):
    store, model = stored
    prompt, other = PROMPTS[2], PROMPTS[16]
    assert len(prompt) == len(other)
    _, cache = model.run_with_cache([other])
    edits = [Replace(source).at("resid_post", layer=1) for source in (store[16], cache)]
    assert equal(model.run([prompt], edits[:1]), model.run([prompt], edits[1:]))


def test_rows_are_positions_one_prompt_after_the_other(stored):
    store, model = stored
    caches = [model.run_with_cache([prompt], sites=("z", "embed"))[1] for prompt in PROMPTS]
    by_hand = mx.concatenate([cache["z", 1][0] for cache in caches], axis=0)
    assert equal(store.array(("z", 1)), by_hand)
    assert np.array_equal(store.numpy(("z", -2)), np.array(by_hand))
    assert equal(store.array("hook_embed"), mx.concatenate([cache["embed"][0] for cache in caches], axis=0))
    rows = store.rows
    assert rows.prompts.tolist() == [n for n, prompt in enumerate(PROMPTS) for _ in prompt]
    assert rows.positions.tolist() == [p for prompt in PROMPTS for p in range(len(prompt))]
    assert rows.tokens.tolist() == [token for prompt in PROMPTS for token in prompt]


def test_bfloat16_comes_to_numpy_as_float32(tiny, tmp_path):
    store = ActivationStore.capture(tiny("llama", "bfloat16"), PROMPTS, tmp_path / "store")
    assert store.array("resid_post.0").dtype == mx.bfloat16
    assert store.numpy("resid_post.0").dtype == np.float32
    assert np.array_equal(store.numpy("resid_post.0"), np.array(store.array("resid_post.0").astype(mx.float32)))


@pytest.mark.parametrize("size", [1, 5, 16, ROWS, 1000])
def test_batches_are_all_rows_in_order(stored, size):
    store, _ = stored
    batches = list(store.batches("resid_post.2", size))
    assert [len(rows) for _, rows in batches[:-1]] == [size] * (len(batches) - 1)
    assert sum(len(rows) for _, rows in batches) == ROWS
    assert equal(mx.concatenate([values for values, _ in batches], axis=0), store.array("resid_post.2"))
    for name in ("prompts", "positions", "tokens"):
        assert (
            np.concatenate([getattr(rows, name) for _, rows in batches]).tolist() == getattr(store.rows, name).tolist()
        )


def test_shuffled_batches_have_every_row_once_with_its_place(stored):
    store, _ = stored
    batches = list(store.batches("resid_post.2", 16, seed=0))
    place = {(c, p): row for row, (c, p) in enumerate(zip(store.rows.prompts, store.rows.positions, strict=True))}
    order = [place[c, p] for _, rows in batches for c, p in zip(rows.prompts, rows.positions, strict=True)]
    assert sorted(order) == list(range(ROWS))
    assert order != sorted(order)
    values = mx.concatenate([values for values, _ in batches], axis=0)
    assert equal(values, store.array("resid_post.2")[mx.array(order)])
    assert [t for _, rows in batches for t in rows.tokens] == store.rows.tokens[order].tolist()
    again = [values for values, _ in store.batches("resid_post.2", 16, seed=0)]
    assert all(equal(one, other) for one, (other, _) in zip(again, batches, strict=True))
    other = next(store.batches("resid_post.2", 16, seed=1))[0]
    assert not equal(other, batches[0][0])


def test_what_is_read_does_not_depend_on_how_it_was_cut(tiny, tmp_path):
    stores = [ActivationStore.capture(tiny(), PROMPTS, tmp_path / f"{mb}", shard_mb=mb) for mb in (1e-6, 0.02, 256)]
    assert [len(list(store.path.glob("shard-*"))) for store in stores] == [17, 3, 1]
    for store in stores[1:]:
        assert same(store.array("resid_post.1"), stores[0].array("resid_post.1"), tiny())
        assert store.rows.tokens.tolist() == stores[0].rows.tokens.tolist()


def test_positions_are_kept_of_each_prompt(tiny, tmp_path):
    model = tiny()
    store = ActivationStore.capture(model, PROMPTS, tmp_path / "store", pos=-1, shard_mb=0.01)
    assert (store.n_rows, len(store)) == (17, 17)
    assert store.rows.positions.tolist() == [len(prompt) - 1 for prompt in PROMPTS]
    assert store.rows.tokens.tolist() == [prompt[-1] for prompt in PROMPTS]
    for prompt, cache in zip(PROMPTS, store, strict=True):
        _, alone = model.run_with_cache([prompt], pos=-1)
        assert (cache.positions, cache.n_positions) == (alone.positions, len(prompt))
        assert cache.tokens.tolist() == [prompt]
        assert same(cache["resid_post", 2], alone["resid_post", 2], model)


def test_edits_are_in_force_for_each_prompt_by_itself(tiny, tmp_path):
    edits = [Scale(0.5).at("resid_post", layer=0, pos=-1), Ablate("noise", seed=1).at("embed")]
    store = ActivationStore.capture(tiny(), PROMPTS, tmp_path / "store", edits=edits)
    for prompt, cache in zip(PROMPTS, store, strict=True):
        _, alone = tiny().run_with_cache([prompt], edits=edits)
        assert all(same(cache[site], alone[site], tiny()) for site in alone)


def test_raw_sites_that_have_positions_are_held(tiny, tmp_path):
    site = "model.layers.1.mlp.gate_proj:output"
    store = ActivationStore.capture(tiny(), PROMPTS[:5], tmp_path / "store", sites=site)
    assert store.sites == (Site(site),)
    assert equal(store[3][site], tiny().run_with_cache([PROMPTS[3]], sites=site)[1][site])


def test_texts_and_generators_are_captured(tiny, tmp_path, word_tokenizer):
    model = HookedModel(tiny().model, word_tokenizer)
    seen = []
    prompts = (" ".join(["w11"] * n) for n in range(1, 5))
    store = ActivationStore.capture(
        model, prompts, tmp_path / "store", shard_mb=1e-6, progress=lambda *done: seen.append(done)
    )
    assert store[3].tokens.tolist() == [[11, 11, 11, 11]]
    assert seen == [(1, None), (2, None), (3, None), (4, None)]
    ActivationStore.capture(model, PROMPTS, tmp_path / "more", progress=lambda *done: seen.append(done))
    assert seen[-1] == (17, 17)


def test_layers_above_the_last_site_are_not_computed(tiny, tmp_path, monkeypatch):
    """What they would give is never evaluated: an error that comes with evaluation does not come."""
    model = HookedModel(tiny_model("llama"))
    zeros = mx.zeros_like(model.model.model.norm.weight)
    ActivationStore.capture(model, PROMPTS, tmp_path / "one", sites=("resid_post.0",))
    block = model.model.model.layers[2]
    weight = block.mlp.down_proj.weight
    lazy = weight + zeros.reshape(-1, 1)
    block.mlp.down_proj.weight = lazy
    monkeypatch.setattr(_capture, "capture_identity", lambda *args: {})  # which reads the weights
    before = mx.get_active_memory()
    ActivationStore.capture(model, PROMPTS, tmp_path / "two", sites=("resid_post.0",))
    captured = mx.get_active_memory() - before
    mx.eval(lazy)
    assert mx.get_active_memory() - before - captured >= weight.nbytes


@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt2", "qwen3_next", "mamba"])
def test_a_mean_is_that_of_all_rows_by_hand(tiny, tmp_path, name):
    model = tiny(name)
    store = ActivationStore.capture(model, PROMPTS[:9], tmp_path / "store", sites=sites_of(model), shard_mb=0.05)
    caches = [model.run_with_cache([prompt], sites=store.sites)[1] for prompt in PROMPTS[:9]]
    mean = store.mean()
    prompt = [[5, 6, 7, 8]]
    for site in store.sites:
        by_hand = np.concatenate([np.array(cache[site][0]) for cache in caches]).astype(np.float64).mean(axis=0)
        assert mean[site].shape == (1, 1, *by_hand.shape)
        assert np.allclose(np.array(mean[site][0, 0]), by_hand, rtol=1e-6, atol=1e-7)
    _, plain = model.run_with_cache(prompt, sites=store.sites)
    for site in store.sites:
        _, ablated = model.run_with_cache(prompt, sites=site, edits=[Ablate("mean", mean).at(site)])
        assert mx.allclose(ablated[site], mx.broadcast_to(mean[site], plain[site].shape), atol=1e-5).item()
        assert not mx.allclose(ablated[site], plain[site], atol=1e-3).item()


def test_a_mean_ablates_heads_and_neurons(stored):
    """Only those, to the mean of their own."""
    store, model = stored
    prompt = [[5, 6, 7, 8]]
    z = np.concatenate([np.array(model.run_with_cache([p], sites="z.1")[1]["z", 1][0]) for p in PROMPTS])
    post = np.concatenate(
        [np.array(model.run_with_cache([p], sites="mlp_post.2")[1]["mlp_post", 2][0]) for p in PROMPTS]
    )
    edits = [
        Ablate("mean", store.mean()).at("z", layer=1, head=2, pos=[1, 2]),
        Ablate("mean", store.mean(sites=["mlp_post.2"])).at("mlp_post", layer=2, neuron=[3, 40]),
    ]
    _, plain = model.run_with_cache(prompt, sites=("z.1",))
    _, now = model.run_with_cache(prompt, sites=("z.1", "mlp_post.2"), edits=edits)
    wanted = np.array(plain["z", 1])
    wanted[:, 1:3, 2] = z.mean(axis=0)[2]
    assert np.allclose(np.array(now["z", 1]), wanted, atol=1e-6)
    assert np.allclose(np.array(now["mlp_post", 2])[:, :, [3, 40]], post.mean(axis=0)[[3, 40]], atol=1e-6)


def test_a_position_s_mean_is_over_the_prompts_that_have_it(stored):
    store, model = stored
    caches = [model.run_with_cache([p], sites="resid_post.1")[1]["resid_post", 1] for p in PROMPTS]
    mean = store.mean("batch", n_positions=4)
    assert (mean.positions, mean.n_positions) == ((0, 1, 2, 3), 4)
    for p in range(4):
        by_hand = np.mean([np.array(own[0, p], dtype=np.float64) for own in caches if own.shape[1] > p], axis=0)
        assert np.allclose(np.array(mean["resid_post", 1][0, p]), by_hand, rtol=1e-6, atol=1e-7)
    edit = Ablate("mean", mean, over="batch").at("resid_post", layer=1, pos=[1, 3])
    _, now = model.run_with_cache([[5, 6, 7, 8]], sites="resid_post.1", edits=[edit])
    assert mx.allclose(now["resid_post", 1][:, [1, 3]], mean["resid_post", 1][:, [1, 3]], atol=1e-6).item()


def test_a_position_s_mean_needs_no_length_where_all_have_one(tiny, tmp_path):
    """One length, that is."""
    prompts = [[n, n + 1, n + 2] for n in range(1, 9)]
    store = ActivationStore.capture(tiny(), prompts, tmp_path / "store", shard_mb=0.005)
    _, batch = tiny().run_with_cache(prompts)
    edits = [Ablate("mean", source, over="batch").at("resid_post", layer=1) for source in (store.mean("batch"), batch)]
    one, other = (tiny().run([[5, 6, 7]], [edit]) for edit in edits)
    assert mx.allclose(one, other, atol=1e-5).item()


def test_a_mean_of_positions_that_were_kept_holds_those_alone(tiny, tmp_path):
    store = ActivationStore.capture(tiny(), [[1, 2, 3], [4, 5, 6]], tmp_path / "store", pos=[0, 2])
    assert store.mean("batch").positions == (0, 2)
    with pytest.raises(SelectionError, match="`source` must hold position 1"):
        tiny().run([[7, 8, 9]], [Ablate("mean", store.mean("batch"), over="batch").at("resid_post", layer=0)])


def test_a_mean_is_saved_and_loaded(stored, tmp_path):
    store, _ = stored
    mean = store.mean()
    mean.save(tmp_path / "mean.safetensors")
    again = ActivationCache.load(tmp_path / "mean.safetensors")
    assert all(equal(again[site], mean[site]) for site in mean)
    assert (again.model, again.positions, again.n_layers) == (mean.model, mean.positions, mean.n_layers)


def test_a_mean_of_many_rows_loses_nothing():
    """The sum of 2**24 + 4 ones in float32 is 2**24."""

    class Ones:
        def __init__(self):
            self.arrays, self.starts = {"a": mx.ones((2**12, 1)) * 3}, (0, 2**12)
            self.positions = np.zeros(2**12, int)

    means, positions = _means.mean_of_rows([Ones() for _ in range(2**5)], ["a"])
    assert (means["a"].item(), positions) == (3.0, (0,))


def mean_is_right(store, model):
    rows = [np.array(model.run_with_cache([p], sites="resid_post.1")[1]["resid_post", 1][0]) for p in PROMPTS]
    by_hand = np.concatenate(rows).astype(np.float64).mean(axis=0)
    return np.allclose(np.array(store.mean()["resid_post", 1][0, 0]), by_hand, rtol=1e-6, atol=1e-7)


def test_a_mean_weighted_by_prompt_would_show(stored, monkeypatch):
    store, model = stored
    assert mean_is_right(store, model)

    def of_means(shards, sites, skip):
        per_prompt = {site: [] for site in sites}
        for shard in shards:
            for a, b in zip(shard.starts[:-1], shard.starts[1:], strict=True):
                for site in sites:
                    per_prompt[site].append(mx.mean(shard.arrays[site][a:b], axis=0))
        return {site: mx.mean(mx.stack(means), axis=0)[None, None] for site, means in per_prompt.items()}, (0,)

    monkeypatch.setattr("mlx_patch.store._store.mean_of_rows", of_means)
    assert not mean_is_right(store, model)


def test_a_mean_weighted_by_shard_would_show(stored, monkeypatch):
    store, model = stored
    whole = _means.mean_of_rows

    def of_shards(shards, sites, skip):
        means = [whole([shard], sites, skip)[0] for shard in shards]
        return {site: mx.mean(mx.stack([one[site] for one in means]), axis=0) for site in sites}, (0,)

    monkeypatch.setattr("mlx_patch.store._store.mean_of_rows", of_shards)
    assert not mean_is_right(store, model)


def test_prompts_in_the_order_of_their_groups_would_show(tiny, tmp_path, monkeypatch):
    run_rows = _capture.run_rows

    def grouped(layout, rows, *args, **how):
        return sorted(run_rows(layout, rows, *args, **how), key=lambda ran: ran.n_positions)

    monkeypatch.setattr(_capture, "run_rows", grouped)
    store = ActivationStore.capture(tiny(), PROMPTS, tmp_path / "store")
    assert [cache.tokens[0].tolist() for cache in store] != PROMPTS


def test_slices_and_negative_numbers_choose_prompts(stored):
    store, _ = stored
    assert store[-1].tokens.tolist() == [PROMPTS[-1]]
    assert [cache.tokens[0].tolist() for cache in store[3:9:2]] == PROMPTS[3:9:2]
    assert repr(store).endswith(f"store': 17 prompts, {ROWS} rows, {len(store.sites)} sites)")


def test_what_is_not_there_is_refused(stored):
    store, _ = stored
    for n in (17, -18):
        with pytest.raises(SelectionError, match=rf"`store` must be indexed from -17 to 16\. Got {n}"):
            store[n]
    with pytest.raises(SelectionError, match=r"`store` must be indexed by the number of a prompt\. Got 'a'"):
        store["a"]
    message = r"`site` must be one that the store holds\. Got blocks\.1\.hook_resid_pre\. It holds: .*Capture it with"
    for read in (store.array, store.numpy, lambda site: store.batches(site, 4), lambda site: store.mean(sites=[site])):
        with pytest.raises(MissingSiteError, match=message):
            read(("resid_pre", 1))
    with pytest.raises(UnknownNameError, match="must be a site"):
        store.array("resid_pst.1")
    with pytest.raises(ValueRefusedError, match=r"`rows` must be 1 or more rows\. Got 0"):
        store.batches("resid_post.1", 0)
    with pytest.raises(ValueRefusedError, match=r"`seed` must be 0 or more\. Got -1"):
        store.batches("resid_post.1", 4, seed=-1)


def test_means_that_mean_nothing_are_refused(stored):
    store, _ = stored
    with pytest.raises(
        UnknownNameError, match=r"`over` must be batch_pos or batch\. Got 'pos'\. Known: batch_pos, batch"
    ):
        store.mean("pos")
    with pytest.raises(ValueRefusedError, match=r"`n_positions` must be left out of a mean over 'batch_pos'\. Got 3"):
        store.mean(n_positions=3)
    message = r"`n_positions` must be given if prompts differ in length: they have 1 to 7 tokens\. Got None\. Give the"
    with pytest.raises(ValueRefusedError, match=message):
        store.mean("batch")
    with pytest.raises(ValueRefusedError, match=r"`n_positions` must be 1 or more positions\. Got 0"):
        store.mean("batch", n_positions=0)


@pytest.mark.parametrize(
    ("choices", "error", "message"),
    [
        ({"sites": ()}, ValueRefusedError, r"`sites` must choose something\. Got nothing"),
        (
            {"sites": "pattern"},
            ShapeError,
            r"`sites` must each have the axes \(batch, pos, \.\.\.\).* Got blocks\.0\.attn\.hook_pattern, which has "
            r"the axes batch head query_pos key_pos\. Capture it with `model\.run_each_with_cache`",
        ),
        (
            {"sites": "model.layers.0.self_attn.rope:input[0]"},
            ShapeError,
            r"which has shape \(1, 4, 2, \d+\) for a prompt o",
        ),
        ({"sites": "resid_pst"}, UnknownNameError, "Did you mean resid_post"),
        ({"shard_mb": 0}, ValueRefusedError, r"`shard_mb` must be above 0\. Got 0"),
        ({"shard_mb": float("nan")}, ValueRefusedError, r"`shard_mb` must be a finite number\. Got nan"),
        ({"batch_size": 0}, ValueRefusedError, r"`batch_size` must be 1 or more prompts\. Got 0"),
        ({"progress": True}, KindError, r"`progress` must be a function of \(done, total\), or None\. Got bool"),
        ({"pos": 5}, SelectionError, r"`pos` must lie in .* Got 5\. This is prompt 0, of 1 tokens"),
        (
            {"pos": slice(5, None)},
            SelectionError,
            r"`pos` must keep a position of each prompt\. Got slice\(5.* prompt 0",
        ),
        ({"edits": [3]}, KindError, "`edits` must hold edits"),
        ({"edits": [[]]}, KindError, "`edits` must hold edits"),
        ({"prompts": "w11"}, KindError, r"`prompts` must be a list of prompts\. Got str"),
        ({"prompts": []}, ValueRefusedError, r"`prompts` must hold a prompt\. Got none"),
        ({"prompts": [[96]]}, SelectionError, "`tokens` must lie in 0 to 95"),
        ({"prompts": ["w11"]}, TokenError, "`tokenizer` must be given"),
        ({"path": 3}, KindError, r"`path` must be a path\. Got 3"),
        (
            {"path": "/no/such/folder"},
            FileError,
            r"`path` must be a folder, or a name for one\. Got /no/such/folder: No",
        ),
        ({"path": __file__}, FileError, r"`path` must be a folder, or a name for one\. Got .*: File exists"),
    ],
)
def test_what_cannot_be_captured_is_refused(tiny, tmp_path, choices, error, message):
    given = {"prompts": PROMPTS, "path": tmp_path / "store", **choices}
    with pytest.raises(error, match=message):
        ActivationStore.capture(tiny(), **given)


def test_an_edit_that_no_process_could_know_again_is_refused(tiny, tmp_path):
    hidden = object()
    edit = Apply(lambda own, site: own * bool(hidden)).at("embed")
    with pytest.raises(
        KindError, match=r"`edits` must consist of values that another process can recognise\. .*Capture without"
    ):
        ActivationStore.capture(tiny(), PROMPTS, tmp_path / "store", edits=[edit])


def test_a_mean_is_swept_like_any_source(stored):
    store, model = stored
    edit, prompt = Ablate("mean", store.mean(sites=["z.1"])), mx.array([[5, 6, 7, 8]])
    swept = sweep(model, prompt, edit, "z", ("head",), layers=1, metric=lambda logits: logits[:, -1, 3])
    by_hand = [model.run(prompt, [edit.at("z", layer=1, head=h)])[0, -1, 3].item() for h in range(len(swept.values))]
    assert np.allclose(swept.values[:, 0], by_hand, atol=1e-4)
    assert np.ptp(by_hand) > 1e-3


def test_rows_know_their_number():
    rows = Rows(np.arange(3), np.arange(3), np.arange(3))
    assert len(rows[1:]) == 2


def test_a_store_is_the_same_in_every_process_that_makes_it(tiny, tmp_path):
    for name in ("one", "other"):
        ActivationStore.capture(tiny(), PROMPTS, tmp_path / name, shard_mb=0.02)
    assert contents(tmp_path / "one") == contents(tmp_path / "other")
    assert sorted(contents(tmp_path / "one")) == ["index.json", *(f"shard-0000{n}.safetensors" for n in range(3))]
    assert json.loads((tmp_path / "one" / "index.json").read_text())["complete"] is True


def test_memory_does_not_grow_with_the_number_of_prompts(tmp_path):
    model = HookedModel(tiny_model("llama"))
    mx.eval([array for _, array in tree_flatten(model.model.parameters())])

    def peak(n):
        mx.clear_cache()
        before = mx.get_active_memory()
        mx.reset_peak_memory()
        prompts = ([(k * p + 1) % 96 for p in range(20 + k % 9)] for k in range(n))
        store = ActivationStore.capture(model, prompts, tmp_path / str(n), shard_mb=0.25)
        captured = mx.get_peak_memory() - before
        mx.reset_peak_memory()
        store.mean()
        for _ in store.batches("resid_post.1", 64, seed=0):
            pass
        assert sum(len(cache) for cache in store) == 3 * n
        return captured, mx.get_peak_memory() - before

    few, many = peak(50), peak(200)
    assert [len(list((tmp_path / n).glob("shard-*"))) for n in ("50", "200")] == [4, 15]
    assert many[0] <= 1.5 * few[0], "it would be four times as much"  # garbage may be collected late
    assert max(few[1], many[1]) <= 2.5 * 0.25e6, "what is read is more than two shards and a half"
