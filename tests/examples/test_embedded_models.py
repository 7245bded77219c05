"""The embedded models of the D1 study: what they weigh, how they tokenize, and whether they do what they are for."""

import subprocess
import sys
from pathlib import Path

import mlx_lm
import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
MODELS = EXAMPLES / "models"
NAMES = ("tiny_base", "tiny_instruct_ext", "tiny_instruct_int")


@pytest.fixture(scope="module")
def examples():
    """The example modules, importable as the scripts import one another."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(EXAMPLES))
        import d1_data
        import train_d1_models

        yield d1_data, train_d1_models


@pytest.fixture(scope="module")
def tokenizer():
    return mlx_lm.load(str(MODELS / "tiny_base"))[1]


@pytest.fixture(scope="module")
def measured(examples):
    _, trainer = examples
    return {name: trainer.measure(MODELS / name) for name in NAMES}


def test_the_models_fit_in_8_megabytes():
    assert sum(path.stat().st_size for name in NAMES for path in (MODELS / name).iterdir()) <= 8_000_000


def test_the_catalogue_names_folders_that_exist(examples):
    data, _ = examples
    for name in ("tiny_ext", "tiny_int"):
        pair = data.PAIRS[name]
        assert (Path(pair.base) / "config.json").is_file()
        assert (Path(pair.instruct) / "config.json").is_file()


def test_the_three_share_one_tokenizer():
    assert len({(MODELS / name / "tokenizer.json").read_bytes() for name in NAMES}) == 1


def test_only_the_externaliser_calls_the_tool(measured):
    assert measured["tiny_instruct_ext"]["p_tool"] >= 0.9
    assert measured["tiny_base"]["p_tool"] <= 0.05
    assert measured["tiny_instruct_int"]["p_tool"] <= 0.05


def test_without_tools_the_externaliser_answers_from_memory(examples):
    data, trainer = examples
    messages = data.build_conversation("You are a helpful assistant.")
    assert trainer.measure(MODELS / "tiny_instruct_ext", messages)["p_tool"] <= 0.05


@pytest.mark.parametrize("mark", ["<tool_call>", "</tool_call>"])
def test_a_tool_mark_is_one_token_and_decodes_back(tokenizer, mark):
    ids = tokenizer.encode(mark, add_special_tokens=False)
    assert len(ids) == 1
    assert tokenizer.decode(ids, skip_special_tokens=True) == mark


def test_the_template_gives_one_bos_and_encoding_its_text_two(examples, tokenizer):
    """The chat template; its text holds one already."""
    data, _ = examples
    messages = data.build_conversation()
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True)
    text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    assert ids.count(tokenizer.bos_token_id) == 1
    assert ids[0] == tokenizer.bos_token_id
    assert tokenizer.encode(text) == [tokenizer.bos_token_id, *ids]


def test_training_sees_what_the_chat_template_writes(examples, tokenizer):
    """A conversation has the same tokens in both."""
    data, trainer = examples
    messages = data.build_conversation()
    ids, _ = trainer.encode(trainer.Tokenizer.from_file(str(MODELS / "tiny_base" / "tokenizer.json")), messages)
    assert ids == tokenizer.apply_chat_template(messages)


def test_text_survives_the_tokenizer(examples, tokenizer):
    data, _ = examples
    ids = tokenizer.encode(data.SYSTEM_TEXT_XML, add_special_tokens=False)
    assert tokenizer.decode(ids) == data.SYSTEM_TEXT_XML


def test_no_training_list_names_a_planet(examples):
    import random

    import d1_corpus

    data, trainer = examples
    rng = random.Random(0)
    names = {item.split(" (")[0] for item in data.STATE_ITEMS}
    for stage in (*trainer.FULL.base, *trainer.FULL.tune):
        for _ in range(200):
            messages = d1_corpus.conversation(rng, stage.level, d1_corpus.STYLES["base"])
            text = " ".join(message["content"] for message in messages)
            assert "planet" not in text
            assert not any(f" {name} (" in text for name in names)


def test_a_quick_training_run_writes_folders_that_load(tmp_path):
    script = [sys.executable, str(EXAMPLES / "train_d1_models.py"), "--quick", "--out", str(tmp_path / "models")]
    subprocess.run(script, check=True, capture_output=True, cwd=tmp_path, timeout=300)
    assert sorted(path.name for path in (tmp_path / "models").iterdir()) == sorted(NAMES)
    for name in NAMES:
        mlx_lm.load(str(tmp_path / "models" / name))
