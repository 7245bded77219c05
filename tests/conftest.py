"""What every test has: tiny models, seeds, and with CHECK_TYPES=1 annotations that are checked as the code runs."""

import json
import os
import re
import signal
import sys
from collections import Counter
from functools import cache
from pathlib import Path

from beartype import BeartypeConf, BeartypeStrategy
from beartype.claw import beartype_package, beartype_packages

CHECK_TYPES = os.environ.get("CHECK_TYPES") == "1"
"""It doubles the time that many tests take. CI has it on for the tests at the lower bounds."""

PARAMETERS = int(os.environ.get("PARAMETERS", "0"))
"""How many sets of parameters of each test run, at most; 0 is all. CI names a number for tests at the lower bounds."""

if CHECK_TYPES:
    # Before the first import, which these rewrite. What is returned is checked everywhere, and what is given as well
    # where no user calls; elsewhere tests give wrong kinds on purpose, to see them refused in the library's own words.
    INNER = ("mlx_patch.architectures", "mlx_patch.engine", "mlx_patch.laws")
    UNCHECKED = BeartypeConf(strategy=BeartypeStrategy.O0)
    beartype_packages(INNER, conf=BeartypeConf(is_pep484_tower=True))
    beartype_package("mlx_patch.interventions._apply", conf=UNCHECKED)  # a user's returns
    beartype_package("mlx_patch", conf=BeartypeConf(is_pep484_tower=True, violation_param_type=UserWarning))

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten
from mlx_lm.tokenizer_utils import TokenizerWrapper
from mlx_lm.tuner.utils import linear_to_lora_layers
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import PreTrainedTokenizerFast

from mlx_patch import HookedModel
from mlx_patch.testing import tiny_model

EXAMPLES = Path(__file__).parents[1] / "examples"


@cache
def _model(name: str, precision: str):
    return tiny_model(name, precision)


@pytest.fixture(scope="session")
def tiny():
    """A wrapped tiny model: `tiny("llama")`, `tiny("qwen3", "4bit")`. Its weights are shared, so leave them alone."""

    def wrapped(name: str = "llama", precision: str = "float32") -> HookedModel:
        return HookedModel(_model(name, precision))

    return wrapped


@pytest.fixture(scope="session")
def tokens() -> mx.array:
    """Eight tokens of the tiny models' vocabulary of 96, no two alike. Shape `(1, 8)`."""
    return mx.array([[11, 48, 85, 26, 63, 4, 41, 78]])


@pytest.fixture(scope="session")
def word_tokenizer() -> TokenizerWrapper:
    """A tokenizer of the tiny models' vocabulary: the words `w00` to `w95`, one token each."""
    words = Tokenizer(WordLevel({f"w{i:02}": i for i in range(96)}, unk_token="w00"))
    words.pre_tokenizer = WhitespaceSplit()
    return TokenizerWrapper(PreTrainedTokenizerFast(tokenizer_object=words, bos_token="w01", eos_token="w02"))


@pytest.fixture(scope="session")
def save_adapter():
    """Writes a LoRA adapter of a model, in which nothing is 0, as `mlx_lm.lora` does; the model is adapted too."""

    def save(model: nn.Module, folder: Path) -> None:
        how = {"rank": 4, "scale": 10.0, "dropout": 0.0}
        config = {"fine_tune_type": "lora", "num_layers": len(model.layers), "lora_parameters": how}
        mx.random.seed(0)
        linear_to_lora_layers(model, config["num_layers"], how)
        parts = {name: array for name, array in tree_flatten(model.parameters()) if name.endswith(("lora_a", "lora_b"))}
        drawn = {name: 0.1 * mx.random.normal(array.shape) for name, array in parts.items()}
        model.load_weights(list(drawn.items()), strict=False)
        (folder / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
        mx.save_safetensors(str(folder / "adapters.safetensors"), drawn)

    return save


@pytest.fixture(scope="session")
def d1():
    """The study's script, as a module."""
    sys.path.insert(0, str(EXAMPLES))
    try:
        import d1_externalization

        return d1_externalization
    finally:
        sys.path.remove(str(EXAMPLES))


@pytest.fixture(scope="session")
def d1_data(d1):
    """The study's conversation, as a module."""
    return sys.modules["d1_data"]


@pytest.fixture(scope="session", autouse=True)
def _hears_ctrl_c():
    """A shell starts its background jobs deaf to Ctrl-C; tests of it need what every other process is born with."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(autouse=True)
def _seeded():
    mx.random.seed(0)
    np.random.seed(0)


@pytest.fixture(scope="module", autouse=True)
def _closes_figures():
    """A figure stays with pyplot until it is closed, and pyplot warns of many. No file of tests leaves any."""
    yield
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")


def pytest_collection_modifyitems(config, items):
    """Leave out the further parameters of each test where `PARAMETERS` says so."""
    if not PARAMETERS:
        return
    counts: Counter[str] = Counter()
    kept, left_out = [], []
    for item in items:
        name = item.nodeid.partition("[")[0]
        counts[name] += 1
        (kept if counts[name] <= PARAMETERS else left_out).append(item)
    items[:] = kept
    config.hook.pytest_deselected(items=left_out)


def pytest_terminal_summary(terminalreporter):
    """How many drawn configurations the laws were held on."""
    passed = terminalreporter.stats.get("passed", [])
    drawn = [report.nodeid for report in passed if "::test_the_laws_hold_on_a_drawn_configuration[" in report.nodeid]
    if drawn:
        models = {re.split(r"[\[\]]", nodeid)[1].rpartition("-")[0] for nodeid in drawn}
        terminalreporter.write_line(f"laws held on {len(drawn)} drawn configurations of {len(models)} tiny models")


def pytest_make_parametrize_id(config, val, argname):
    """Names without addresses, which two processes that share the tests would not agree on."""
    return re.sub(r" at 0x[0-9a-f]+", "", repr(val)) if " at 0x" in repr(val) else None
