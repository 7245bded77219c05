"""One model of each family, saved as mlx_lm saves models, loads through mlx_lm and is the model that was saved."""

import json
import shutil
import sys
from pathlib import Path

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten
from mlx_lm.utils import load_model

from mlx_patch import HookedModel
from mlx_patch.architectures import FAMILIES, family_of
from mlx_patch.errors import FileError
from mlx_patch.laws import ROUNDINGS, largest_deviation
from mlx_patch.testing import ZOO, tiny_model
from mlx_patch.testing.zoo import without_metal

TOKENS = mx.array([[(11 + 37 * i) % 96 for i in range(8)]])
TOKENIZER = Path(__file__).parents[2] / "examples" / "models" / "tiny_base"

NOT_RUN = ("bitnet", "olmo")
"""mlx_lm runs neither here; `EXCEPTIONS` says why."""

WITHOUT_TOKENIZER = {
    "gear": "transformers, which reads the tokenizer, refuses the layer type 'conv_mixer' in its config"
}
"""Models that are loaded without a tokenizer, with the reason."""

MORE = {
    "exaone4": {"layer_types": ["sliding_attention", "full_attention", "sliding_attention"]},
    "muse_spark": {"audio_config": {"out_hidden_size": 64}},
}
"""What transformers wants in a config besides what mlx_lm reads, as published models have it."""


def label(family):
    return f"{family.name} ({family.variant})" if family.variant else family.name


def species(family):
    """The first model of the zoo that a table reads, with its name."""
    for name, (module, _) in ZOO.items():
        if module in family.modules and family_of(model := tiny_model(name)) is family:
            return name, model
    raise AssertionError(f"the zoo has no model of {label(family)}")


def save(name, model, folder):
    module, config = ZOO[name]
    config = {"model_type": module, **config, **MORE.get(module, {})}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    weights = dict(tree_flatten(model.parameters()))
    mx.save_safetensors(str(folder / "model.safetensors"), weights, metadata={"format": "mlx"})
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(TOKENIZER / file, folder)


def as_published(model):
    """The model with the weights that mlx_lm makes of its own: Baichuan M1's norms the rows of the unembedding."""
    if hasattr(model, "sanitize"):
        model.load_weights(list(model.sanitize(dict(tree_flatten(model.parameters()))).items()))
    return model


@pytest.mark.parametrize("family", [f for f in FAMILIES if f.name not in NOT_RUN], ids=label)
def test_a_saved_model_is_the_same_once_loaded(family, tmp_path, monkeypatch):
    name, model = species(family)
    module, _ = ZOO[name]
    # Muse Spark's zoo model is of a copy without Metal kernels, where there is no Metal; mlx_lm has to load the same.
    monkeypatch.setitem(sys.modules, f"mlx_lm.models.{module}", without_metal(module))
    saved = HookedModel(as_published(model))
    save(name, model, tmp_path)
    loaded = HookedModel(load_model(tmp_path)[0]) if module in WITHOUT_TOKENIZER else HookedModel.load(tmp_path)
    assert loaded.layout.family is family
    assert loaded.sites == saved.sites
    assert largest_deviation(loaded.run(TOKENS), saved.run(TOKENS)) <= ROUNDINGS * mx.finfo(mx.float32).eps
    if module not in WITHOUT_TOKENIZER:
        assert loaded.tokenize("the").shape[1] >= 1


@pytest.mark.parametrize("name", WITHOUT_TOKENIZER)
def test_its_tokenizer_still_cannot_be_loaded(name, tmp_path):
    """Where this fails, transformers has mended it: take the name out of WITHOUT_TOKENIZER."""
    save(name, tiny_model(name), tmp_path)
    with pytest.raises(FileError, match="validate_layer_type"):
        HookedModel.load(tmp_path)


@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt2", "phi3", "mixtral", "qwen3_next", "mamba2"])
def test_the_laws_hold_of_a_saved_model_with_a_saved_adapter(name, tmp_path, save_adapter):
    model = tiny_model(name)
    save(name, model, tmp_path)
    (adapter := tmp_path / "adapter").mkdir()
    save_adapter(model, adapter)
    loaded, base = HookedModel.load(tmp_path, adapter_path=adapter), HookedModel.load(tmp_path)
    assert loaded.sites == base.sites
    assert largest_deviation(loaded.run(TOKENS), model(TOKENS)) <= ROUNDINGS * mx.finfo(mx.float32).eps
    assert largest_deviation(loaded.run(TOKENS), base.run(TOKENS)) > 0.01
    report = loaded.verify()
    assert report.ok, report
