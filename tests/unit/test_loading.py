import json

import huggingface_hub.constants
import mlx.core as mx
import pytest
from mlx.utils import tree_flatten

from mlx_patch import HookedModel
from mlx_patch.errors import FileError
from mlx_patch.testing import ZOO


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


@pytest.mark.parametrize("name", ["/no/such/folder", "./no-such", "~/no-such", "a/b/c"])
def test_a_path_that_leads_nowhere_is_refused_at_once(name):
    message = rf"`path_or_hub_id` must be a folder that is there, or a hub id\. Got '{name}'\. Check the path"
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
