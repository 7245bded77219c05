import io
import json
from concurrent.futures import ThreadPoolExecutor

import huggingface_hub.constants
import mlx.core as mx
import mlx_lm
import pytest
from mlx.utils import tree_flatten
from mlx_lm.models import llama

from mlx_patch import HookedModel
from mlx_patch.errors import FileError
from mlx_patch.testing import ZOO, tiny_model


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """A hub that cannot be reached, and an empty cache of it."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))


@pytest.fixture
def folder(tiny, tmp_path, word_tokenizer):
    """A model folder as mlx_lm writes it."""
    weights = dict(tree_flatten(tiny().model.parameters()))
    mx.save_safetensors(str(tmp_path / "model.safetensors"), weights)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", **ZOO["llama"][1]}))
    word_tokenizer.save_pretrained(str(tmp_path))
    return tmp_path


def test_a_folder_is_loaded_with_its_tokenizer(folder, tiny, tokens):
    model = HookedModel.load(folder)
    assert model.name == str(folder)
    assert model.tokenize("w11 w48").tolist() == [[11, 48]]
    assert mx.array_equal(model.run(tokens), tiny().run(tokens)).item()


def pending_draws():
    """How many arrays MLX's random state leads to that have not been computed."""
    graph = io.StringIO()
    mx.export_to_dot(graph, mx.random.state[0])
    return graph.getvalue().count("->")


def test_a_load_leaves_no_draws_of_weights_behind(folder, adapter):
    """Weights that a new model draws are replaced by those of the file, and would hang on the random state for ever."""
    mx.eval(mx.random.state)
    llama.Model(llama.ModelArgs.from_dict(json.loads((folder / "config.json").read_text())))
    assert pending_draws() > 10
    loaded = HookedModel.load(folder)
    assert pending_draws() == 0
    loaded.with_adapter(adapter)
    assert pending_draws() == 0
    tiny_model("gpt2")
    assert pending_draws() == 0


def test_a_load_leaves_the_random_numbers_as_they_are(folder):
    """Those of the draws that mlx_lm makes, and no others."""
    mx.random.seed(7)
    mlx_lm.load(str(folder))
    expected = mx.random.normal((3,))
    mx.random.seed(7)
    HookedModel.load(folder)
    assert mx.array_equal(mx.random.normal((3,)), expected).item()


@pytest.mark.parametrize("name", ["/no/such/folder", "./no-such", "~/no-such", "a/b/c"])
def test_a_path_that_leads_nowhere_is_refused_at_once(name):
    message = rf"`path_or_hub_id` must be an existing folder, or a hub id\. Got '{name}'\. Check the path"
    with pytest.raises(FileError, match=message):
        HookedModel.load(name)


def test_a_folder_without_a_config_is_refused_at_once(tmp_path):
    with pytest.raises(FileError, match=r"`path_or_hub_id` must be a folder with a config\.json\. Got "):
        HookedModel.load(tmp_path)


def test_a_hub_that_cannot_be_reached_is_told(offline):
    message = (
        r"`path_or_hub_id` must be a model that mlx_lm can load\. Got 'nobody/none'.*Check the name and the network"
    )
    with pytest.raises(FileError, match=message):
        HookedModel.load("nobody/none")


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ("{", "Expecting property name"),
        ("{}", "model_type"),
        ('{"model_type": "no_such"}', "Model type no_such not supported"),
        ('{"model_type": "llama"}', "missing 6 required positional arguments"),
    ],
)
def test_a_config_that_makes_no_model_is_told(folder, config, said):
    (folder / "config.json").write_text(config)
    with pytest.raises(FileError, match=rf"must be a model that mlx_lm can load\. .*{said}.* or give a folder with"):
        HookedModel.load(folder)


def test_a_folder_without_weights_is_told(folder):
    (folder / "model.safetensors").unlink()
    with pytest.raises(FileError, match="No safetensors found"):
        HookedModel.load(folder)


def test_weights_of_another_shape_are_told(folder):
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", **ZOO["llama"][1], "hidden_size": 32}))
    with pytest.raises(FileError, match="must be a model that mlx_lm can load"):
        HookedModel.load(folder)


@pytest.fixture
def adapter(folder, save_adapter):
    """The folder of an adapter of the model in `folder`."""
    (where := folder / "adapter").mkdir()
    save_adapter(HookedModel.load(folder).model, where)
    return where


def test_a_model_is_loaded_with_its_adapter(folder, adapter, tokens):
    base, adapted = HookedModel.load(folder), HookedModel.load(folder, adapter_path=adapter)
    assert any("lora_b" in module for module in adapted.model.modules())
    by_mlx_lm = mlx_lm.load(str(folder), adapter_path=str(adapter))[0]
    assert mx.array_equal(adapted.run(tokens), by_mlx_lm(tokens)).item()
    assert not mx.allclose(adapted.run(tokens), base.run(tokens), atol=0.1).item()


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_a_loaded_adapter_is_one_that_is_put_on_the_base(folder, adapter, tokens, kind):
    """The same numbers bit for bit, and the same identity."""
    if kind == "full":
        weights = {name: 1.5 * array for name, array in tree_flatten(HookedModel.load(folder).model.parameters())}
        mx.save_safetensors(str(adapter / "adapters.safetensors"), weights)
        (adapter / "adapter_config.json").write_text('{"fine_tune_type": "full"}')
    base, loaded = HookedModel.load(folder), HookedModel.load(folder, adapter_path=adapter)
    donor = base.with_adapter(adapter)
    assert mx.array_equal(donor.run(tokens), loaded.run(tokens)).item()
    assert donor.identity == loaded.identity
    assert donor.identity["adapter"].startswith(kind)
    assert not mx.array_equal(donor.run(tokens), base.run(tokens)).item()


def test_no_adapter_is_the_model_itself(folder, tokens):
    base, same = HookedModel.load(folder), HookedModel.load(folder, adapter_path=None)
    assert mx.array_equal(base.run(tokens), same.run(tokens)).item()


@pytest.mark.parametrize(
    ("gone", "said"),
    [
        (("adapter_config.json",), r"adapter_config\.json\. Got"),
        (("adapters.safetensors",), r"adapters\.safetensors\. Got"),
        (
            ("adapter_config.json", "adapters.safetensors"),
            r"adapter_config\.json and adapters\.safetensors\. Got '.*adapter'\. Check the path, or train",
        ),
    ],
)
def test_a_folder_without_an_adapter_is_refused_at_once(folder, adapter, gone, said):
    for file in gone:
        (adapter / file).unlink()
    with pytest.raises(FileError, match=rf"`adapter_path` must be a folder with {said}"):
        HookedModel.load(folder, adapter_path=adapter)


def test_an_adapter_of_another_model_is_refused(folder, tmp_path, save_adapter):
    (other := tmp_path / "other").mkdir()
    save_adapter(tiny_model("gpt2"), other)
    message = (
        r"`adapter_path` must hold an adapter of this model\. Got '.*other': .*not an adapter parameter.*own base model"
    )
    with pytest.raises(FileError, match=message):
        HookedModel.load(folder, adapter_path=other)


@pytest.mark.parametrize(
    ("config", "said"),
    [("{", "Expecting property name"), ("{}", "num_layers"), ('{"num_layers": 3, "lora_parameters": {}}', "scale")],
)
def test_a_config_that_makes_no_adapter_is_told(folder, adapter, config, said):
    (adapter / "adapter_config.json").write_text(config)
    with pytest.raises(FileError, match=rf"`adapter_path` must hold an adapter of this model\. Got .*{said}"):
        HookedModel.load(folder, adapter_path=adapter)


@pytest.mark.parametrize("lazy", [False, True])
def test_a_loaded_model_first_runs_in_any_thread(folder, tiny, tokens, lazy):
    model = HookedModel.load(folder, lazy=lazy)
    with ThreadPoolExecutor(3) as pool:
        several = [future.result() for future in [pool.submit(model.run, tokens) for _ in range(6)]]
    assert all(mx.array_equal(logits, tiny().run(tokens)).item() for logits in several)


@pytest.mark.parametrize("name", ["minicpm3", "gemma3n", "gemma4_text", "nanochat", "talkie", "deepseek_v3", "hunyuan"])
def test_a_model_with_its_parameters_runs_in_any_thread(tokens, name):
    """Where they are there before it is wrapped."""
    raw = tiny_model(name)
    mx.eval(raw.parameters())
    model = HookedModel(raw)
    with ThreadPoolExecutor(1) as pool:
        elsewhere = pool.submit(model.run, tokens).result()
    assert mx.array_equal(elsewhere, model.run(tokens)).item()
