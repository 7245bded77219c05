from importlib.metadata import version

import mlx.nn as nn
import pytest

import mlx_patch
from mlx_patch.provenance import model_identity, parameters, versions
from mlx_patch.testing import tiny_model
from mlx_patch.testing.zoo import CLASSICS


def test_versions_are_those_that_are_installed():
    assert versions() == {"mlx_patch": mlx_patch.__version__, "mlx": version("mlx"), "mlx_lm": version("mlx-lm")}


@pytest.mark.parametrize(
    ("precision", "dtype", "bits"),
    [("float32", "float32", ""), ("bfloat16", "bfloat16", ""), ("float16", "float16", ""), ("4bit", "float32", "4")],
)
def test_an_identity_says_dtype_and_bits(tiny, precision, dtype, bits):
    identity = tiny("llama", precision).identity
    assert (identity["dtype"], identity["bits"], identity["architecture"]) == (dtype, bits, "llama")


def test_an_identity_says_where_the_model_came_from(tiny):
    assert model_identity(tiny().model, "some/where")["name"] == "some/where"
    assert model_identity(tiny().model)["name"] == ""


def test_no_two_configs_have_one_hash():
    assert len({model_identity(tiny_model(name))["config"] for name in CLASSICS}) == len(CLASSICS)


def test_one_config_has_one_hash_whatever_the_weights():
    assert model_identity(tiny_model("llama", seed=0)) == model_identity(tiny_model("llama", seed=1))


def test_a_model_without_a_config_has_an_identity_too():
    identity = model_identity(nn.Linear(2, 2))
    assert identity["architecture"] == "mlx.nn.layers.linear"
    assert len(identity["config"]) == 16


def test_every_parameter_is_named_once():
    layer = nn.Linear(2, 3)
    assert sorted(array.size for array in parameters(layer)) == [3, 6]
