"""Base and base with adapter as a pair: two models on one set of weights."""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor

import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx.utils import tree_flatten
from mlx_lm.tuner.utils import linear_to_lora_layers, load_adapters

from mlx_patch import HookedModel, Replace, Scale
from mlx_patch.errors import FileError, KindError, ValueRefusedError
from mlx_patch.model import twin
from mlx_patch.provenance import checksum, digest_of, model_identity
from mlx_patch.testing import tiny_model

NAMES = ("llama", "gemma2", "gpt2", "qwen3_next", "mixtral", "mamba2")
HOW = {"rank": 4, "scale": 10.0, "dropout": 0.0}


def equal(one, other):
    return mx.array_equal(one, other).item()


def save(kind, model, folder, seed=0):
    """An adapter of one of mlx_lm's kinds, in which nothing is 0; the model is adapted too."""
    folder.mkdir()
    mx.random.seed(seed)
    keys = ["self_attn.q_proj", "self_attn.v_proj"] if kind == "dora" else None
    config = {"fine_tune_type": kind, "num_layers": len(model.layers), "lora_parameters": {**HOW, "keys": keys}}
    if kind == "full":
        parts = dict(tree_flatten(model.parameters()))
    else:
        linear_to_lora_layers(model, config["num_layers"], config["lora_parameters"], use_dora=kind == "dora")
        parts = {n: a for n, a in tree_flatten(model.parameters()) if n.rsplit(".", 1)[-1] in ("lora_a", "lora_b", "m")}
    drawn = {name: array + 0.1 * mx.random.normal(array.shape).astype(array.dtype) for name, array in parts.items()}
    (folder / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    mx.save_safetensors(str(folder / "adapters.safetensors"), drawn)
    return folder


@pytest.fixture
def lora(tmp_path):
    return save("lora", tiny_model("llama"), tmp_path / "lora")


@pytest.mark.parametrize("name", NAMES)
def test_it_is_what_mlx_lm_makes_of_a_second_copy(tmp_path, tokens, save_adapter, name):
    save_adapter(tiny_model(name), tmp_path)
    base = HookedModel(tiny_model(name))
    before, sums = base.run(tokens), checksum(base.model)
    donor = base.with_adapter(tmp_path)
    by_mlx_lm = load_adapters(tiny_model(name).update(base.model.parameters()), str(tmp_path))
    by_mlx_lm.eval()
    assert equal(donor.run(tokens), by_mlx_lm(tokens))
    assert checksum(donor.model) == checksum(by_mlx_lm)
    assert mx.max(mx.abs(donor.run(tokens) - before)).item() > 0.01
    assert equal(base.run(tokens), before)
    assert checksum(base.model) == sums


@pytest.mark.parametrize(
    ("kind", "precision"), [("dora", "float32"), ("full", "float32"), ("lora", "4bit"), ("dora", "4bit")]
)
def test_every_kind_of_adapter_that_mlx_lm_reads(tmp_path, tokens, kind, precision):
    folder = save(kind, tiny_model("llama", precision), tmp_path / kind)
    base = HookedModel(tiny_model("llama", precision))
    before, sums = base.run(tokens), checksum(base.model)
    donor = base.with_adapter(folder)
    by_mlx_lm = load_adapters(tiny_model("llama", precision), str(folder))
    by_mlx_lm.eval()
    assert equal(donor.run(tokens), by_mlx_lm(tokens))
    assert not equal(donor.run(tokens), before)
    assert (equal(base.run(tokens), before), checksum(base.model)) == (True, sums)
    assert donor.identity["adapter"].startswith(f"{kind} ")
    assert base.identity["adapter"] == ""


def growth(base, folder, tokens):
    """By how many bytes the memory grows as an adapter is taken; those of the adapter; those of the base."""
    mx.eval(base.model.parameters())
    before = mx.get_active_memory()
    donor = base.with_adapter(folder)
    donor.run(tokens)
    arrays = tree_flatten(donor.model.parameters())
    added = sum(array.nbytes for name, array in arrays if "lora_" in name)
    return mx.get_active_memory() - before, added, sum(array.nbytes for _, array in arrays) - added


@pytest.mark.parametrize("precision", ["float32", "4bit"])
def test_the_weights_are_in_memory_once(tmp_path, tokens, precision):
    folder = save("lora", tiny_model("llama", precision), tmp_path / "lora")
    grown, added, weights = growth(HookedModel(tiny_model("llama", precision)), folder, tokens)
    assert added <= grown < added + weights / 5


def test_weights_that_are_there_twice_would_show(tokens, lora, monkeypatch):
    monkeypatch.setattr("mlx_patch.model._loading.twin", lambda model: tiny_model("llama"))
    grown, added, weights = growth(HookedModel(tiny_model("llama")), lora, tokens)
    assert grown > added + weights / 5


def test_a_base_that_its_adapter_changes_would_show(tokens, lora, monkeypatch):
    base = HookedModel(tiny_model("llama"))
    before = base.run(tokens)
    base.with_adapter(lora)
    assert equal(base.run(tokens), before)
    monkeypatch.setattr("mlx_patch.model._loading.twin", lambda model: model)
    base.with_adapter(lora)
    assert not equal(base.run(tokens), before)


def test_what_is_written_into_one_is_not_in_the_other(tokens):
    base = tiny_model("llama")
    other = twin(base)
    before = base(tokens)
    other.model.embed_tokens.weight[:] = 0.0
    other.model.layers[0].self_attn.q_proj = nn.Linear(64, 128)
    assert equal(base(tokens), before)
    assert not equal(other(tokens), before)
    base.model.norm.weight[:] = 0.0
    assert mx.max(other.model.norm.weight).item() > 0.0


def test_the_two_are_edited_and_patched_into_each_other(tokens, lora):
    base = HookedModel(tiny_model("llama"))
    donor = base.with_adapter(lora)
    _, kept = donor.run_with_cache(tokens)
    assert equal(base.run(tokens, [Replace(kept).at("resid_post", layer=2)]), donor.run(tokens))
    plain = base.run(tokens)
    with donor.editing(Scale(0.0).at("resid_post", layer=0)):
        assert equal(base.run(tokens), plain)
        donor.run(tokens)


def test_an_adapter_is_taken_while_the_base_is_edited(tokens, lora):
    base = HookedModel(tiny_model("llama"))
    wanted = base.with_adapter(lora).run(tokens)
    with base.editing(Scale(0.0).at("resid_post", layer=0)):
        donor = base.with_adapter(lora)
        base.run(tokens)
    assert type(donor.model) is type(base.model)
    assert equal(donor.run(tokens), wanted)


@pytest.mark.parametrize("kind", ["lora", "dora", "full"])
def test_an_identity_says_which_adapter(tmp_path, tokens, kind):
    one = save(kind, tiny_model("llama"), tmp_path / "one")
    other = save(kind, tiny_model("llama"), tmp_path / "other", seed=1)
    base = HookedModel(tiny_model("llama"), name="base")
    donor = base.with_adapter(one)
    assert donor.identity == base.with_adapter(one).identity
    assert {**donor.identity, "adapter": ""} == base.identity
    assert donor.identity["adapter"] != base.with_adapter(other).identity["adapter"]
    assert donor.run_with_cache(tokens)[1].model == donor.identity


def test_an_adapter_of_another_scale_is_another(lora, tmp_path):
    shutil.copytree(lora, other := tmp_path / "other")
    config = json.loads((other / "adapter_config.json").read_text())
    config["lora_parameters"]["scale"] = 5.0
    (other / "adapter_config.json").write_text(json.dumps(config))
    base = HookedModel(tiny_model("llama"))
    assert base.with_adapter(lora).identity["adapter"] != base.with_adapter(other).identity["adapter"]


def test_a_model_that_mlx_lm_adapted_says_so_too(lora):
    adapted = load_adapters(tiny_model("llama"), str(lora))
    assert model_identity(adapted)["adapter"] == HookedModel(tiny_model("llama")).with_adapter(lora).identity["adapter"]


def test_a_digest_is_of_names_and_numbers():
    one, other = mx.arange(4.0), mx.arange(1.0, 5.0)
    assert digest_of({"a": one, "b": other}) == digest_of({"b": other, "a": one})
    assert len({digest_of(arrays) for arrays in ({"a": one}, {"b": one}, {"a": other}, {"a": one.reshape(2, 2)})}) == 4


def test_a_model_that_has_an_adapter_is_refused_another(tmp_path, lora):
    base = HookedModel(tiny_model("llama"))
    full = save("full", tiny_model("llama"), tmp_path / "full")
    for donor in (base.with_adapter(lora), base.with_adapter(full)):
        message = r"`model` must be a base model to take an adapter\. Got one that already has .*Load the base model"
        with pytest.raises(ValueRefusedError, match=message):
            donor.with_adapter(lora)


def test_what_is_no_adapter_is_refused(tmp_path, lora):
    base = HookedModel(tiny_model("llama"))
    with pytest.raises(
        FileError, match=r"`adapter_path` must be a folder with adapter_config\.json and adapters\.safe"
    ):
        base.with_adapter(tmp_path)
    with pytest.raises(KindError, match=r"`adapter_path` must be a path\. Got None"):
        base.with_adapter(None)
    mx.save_safetensors(str(lora / "adapters.safetensors"), {})
    with pytest.raises(
        FileError, match=r"`adapter_path` must hold an adapter of this model\. .* holds no array\. Train"
    ):
        base.with_adapter(lora)


def test_an_adapter_of_another_model_is_refused(tmp_path, tokens, lora):
    """It leaves the base alone."""
    base = HookedModel(tiny_model("gpt2"))
    before = base.run(tokens)
    with pytest.raises(FileError, match=r"`adapter_path` must hold an adapter of this model\. Got .*own base model"):
        base.with_adapter(lora)
    assert equal(base.run(tokens), before)
    assert base.identity["adapter"] == ""


def modules_of(value, seen):
    """The ids of all modules that a value leads to, by whatever attribute."""
    if id(value) in seen or isinstance(value, str | int | float | mx.array | type):
        return seen
    seen[id(value)] = value
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple | set) else ()
    for part in (*parts, *vars(value).values()) if hasattr(value, "__dict__") else parts:
        modules_of(part, seen)
    return seen


@pytest.mark.parametrize("name", ["llama", "gemma3n", "mixtral", "qwen3_next", "rwkv7", "gpt_oss", "deepseek_v3"])
def test_a_twin_shares_no_module_and_gives_the_same_numbers(tokens, name):
    model = tiny_model(name)
    other = twin(model)
    one, two = ({key for key, v in modules_of(m, {}).items() if isinstance(v, nn.Module)} for m in (model, other))
    assert len(one) == len(two) > 5
    assert not one & two
    assert equal(model(tokens), other(tokens))
    assert [path for path, _ in model.named_modules()] == [path for path, _ in other.named_modules()]


def partial_adapter(folder, keep=("layers.2",), halves=("lora_a", "lora_b")):
    """An adapter whose config names every layer and whose file has some."""
    save("lora", tiny_model("llama"), folder)
    held = mx.load(str(folder / "adapters.safetensors"))
    kept = {n: a for n, a in held.items() if any(k in n for k in keep) and n.endswith(halves)}
    mx.save_safetensors(str(folder / "adapters.safetensors"), kept)
    return folder


def test_layers_it_lacks_do_not_make_an_identity_random(tmp_path, tokens):
    """The identity of an adapter."""
    folder = partial_adapter(tmp_path / "partial")
    base = HookedModel(tiny_model("llama"))
    one, other = base.with_adapter(folder), base.with_adapter(folder)
    assert equal(one.run(tokens), other.run(tokens))
    assert one.identity == other.identity
    assert checksum(one.model) == checksum(other.model)
    by_mlx_lm = load_adapters(tiny_model("llama").update(base.model.parameters()), str(folder))
    by_mlx_lm.eval()
    assert model_identity(by_mlx_lm)["adapter"] == one.identity["adapter"]
    assert checksum(by_mlx_lm) == checksum(one.model)
    more = base.with_adapter(partial_adapter(tmp_path / "more", keep=("layers.1", "layers.2")))
    assert more.identity["adapter"] != one.identity["adapter"]


def test_a_half_that_multiplies_something_counts(tmp_path):
    donor = HookedModel(tiny_model("llama")).with_adapter(save("lora", tiny_model("llama"), tmp_path / "lora"))
    before, adapter = checksum(donor.model), donor.identity["adapter"]
    tuned = donor.model.model.layers[1].self_attn.q_proj
    tuned.lora_a = tuned.lora_a + 1.0
    assert checksum(donor.model) != before
    assert donor.identity["adapter"] != adapter


def test_an_adapter_with_half_of_a_layer_is_refused(tmp_path):
    """It would multiply random numbers."""
    folder = partial_adapter(tmp_path / "halves", halves=("lora_b",))
    with pytest.raises(FileError, match=r"holds no 'model\.layers\.2\.\S*lora_a' beside the 'lora_b' of that layer"):
        HookedModel(tiny_model("llama")).with_adapter(folder)


@pytest.mark.parametrize(("kind", "precision"), [("lora", "float32"), ("dora", "4bit"), ("full", "bfloat16")])
def test_an_adapted_model_first_runs_in_any_thread(tmp_path, tokens, kind, precision):
    folder = save(kind, tiny_model("llama", precision), tmp_path / kind)
    base = HookedModel(tiny_model("llama", precision))
    mx.eval(base.model.parameters())
    donor, second = base.with_adapter(folder), base.with_adapter(folder)
    with ThreadPoolExecutor(1) as pool:
        elsewhere = pool.submit(donor.run, tokens).result()
    assert equal(elsewhere, second.run(tokens))
