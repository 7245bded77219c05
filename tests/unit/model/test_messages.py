"""What is refused says what is allowed, what came, and what helps."""

import shutil

import mlx.core as mx
import pytest

import mlx_patch as mp
from mlx_patch.errors import ArchitectureError, FileError, KindError, PatchError, SelectionError, ShapeError, TokenError
from mlx_patch.metrics import LogitDiff, LogProb, Prob

FOLDER = "examples/models/tiny_instruct_ext"


def test_a_layer_that_is_not_there_is_not_one_to_capture(tiny, tokens):
    """One that the model does not have."""
    _, cache = tiny().run_with_cache(tokens, sites=("resid_post.0", "final_norm"))
    for key in (("resid_post", 3), "resid_post.3", "blocks.3.hook_resid_post", mp.Site("resid_post", 3)):
        with pytest.raises(
            SelectionError, match=r"`layer` must lie in -3 to 2, the model's 3 layers\. Got 3\. The last"
        ):
            cache[key]
    with pytest.raises(PatchError, match="Capture it with"):
        cache["resid_post", 2]


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        (Prob(" Bartholomew"), r"whole of it with `SequenceLogProb\(' Bartholomew'\)`.*`StartsWith\(' Bartholomew'\)`"),
        (LogProb(" Bartholomew"), r"`SequenceLogProb\(' Bartholomew'\)`"),
        (LogitDiff(" Bartholomew", " John"), r"`SequenceLogitDiff\(right, wrong\)`.*`StartsWith\(' Bartholomew'\)`"),
    ],
)
def test_a_long_answer_names_the_metrics_of_whole_answers(metric, message):
    """An answer of several tokens."""
    tokenizer = mp.HookedModel.load(FOLDER).tokenizer
    with pytest.raises(
        TokenError, match=rf"must be one token\. Got ' Bartholomew', which gives \d.*{message}"
    ) as caught:
        metric.resolve(tokenizer)
    assert "TokenSetProb" not in str(caught.value)


def test_a_mean_by_position_of_another_length_is_not_aligned(tiny, tokens):
    model = tiny()
    _, shorter = model.run_with_cache(tokens[:, :5], sites="mlp_out")
    by_position = mp.Ablate("mean", shorter, over="batch").at("mlp_out", layer=1)
    array = mp.Ablate("mean", shorter["mlp_out", 1], over="batch").at("mlp_out", layer=1)
    resampled = mp.Ablate("resample", shorter).at("mlp_out", layer=1)
    for edit in (by_position, array, resampled):
        with pytest.raises(ShapeError, match=r'prompts of this length\. For a mean, .*`over="batch_pos"`') as caught:
            model.run(tokens, [edit])
        assert "align" not in str(caught.value)
    with pytest.raises(ShapeError, match=r"mp\.align"):
        model.run(tokens, [mp.Replace(shorter).at("mlp_out", layer=1)])


def test_one_row_wants_a_batch_of_1(tiny, tokens):
    model = tiny()
    _, three = model.run_with_cache(mx.concatenate([tokens] * 3), sites="mlp_out")
    with pytest.raises(ShapeError, match=r"`source` must have a batch of 1\. Got 3\. Capture it with as many"):
        model.run(tokens, [mp.Replace(three).at("mlp_out", layer=1)])


def test_a_compiled_module_is_refused(tiny):
    with pytest.raises(KindError, match=r"must be an mlx\.nn\.Module\. Got _?gc_func\. .*not a compiled function"):
        mp.HookedModel(mx.compile(tiny().model))


def test_a_part_of_a_model_is_refused(tiny):
    with pytest.raises(
        ArchitectureError, match=r"a whole model.* Got LlamaModel, .* part of mlx_lm\.models\.llama\.Model"
    ):
        mp.HookedModel(tiny().model.model)


@pytest.mark.parametrize("given", [None, 3, object()])
def test_what_is_no_path_is_not_loaded(given):
    with pytest.raises(KindError, match=r"`path_or_hub_id` must be a folder or a hub id\. Got .*HookedModel\(model"):
        mp.HookedModel.load(given)


def test_keywords_that_mlx_lm_does_not_take_are_refused():
    with pytest.raises(KindError, match=r"keywords of mlx_lm\.load\. Got 'adapter'\. Did you mean adapter_path"):
        mp.HookedModel.load(FOLDER, adapter="x")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("renamed", r"its weights have 1 arrays that the model has no place for: vision_tower\.x\. Its config\.json"),
        ("missing", r"its weights lack 1 of the model's arrays: model\.norm\.weight\. Its config\.json"),
    ],
)
def test_weights_of_other_names_are_said(tmp_path, change, message):
    folder = tmp_path / "model"
    shutil.copytree(FOLDER, folder)
    weights = {name: mx.array(array) for name, array in mx.load(str(folder / "model.safetensors")).items()}
    mx.eval(weights)
    norm = weights.pop("model.norm.weight")
    if change == "renamed":
        weights |= {"vision_tower.x": norm, "model.norm.weight": norm}
    mx.save_safetensors(str(folder / "model.safetensors"), weights)
    with pytest.raises(FileError, match=message) as caught:
        mp.HookedModel.load(folder)
    assert "network" not in str(caught.value)


def test_a_list_of_texts_is_no_run(tiny, word_tokenizer):
    model = mp.HookedModel(tiny().model, word_tokenizer)
    for run in (model.run, model.run_with_cache):
        with pytest.raises(KindError, match=r"Got a list of 2 texts or chats\. Pass it to `model\.run_each`"):
            run(["w05 w06", "w07"])


def test_runs_take_a_text_as_they_take_its_tokens(tiny, word_tokenizer):
    model = mp.HookedModel(tiny().model, word_tokenizer)
    text, ids = "w05 w06 w07", model.tokenize("w05 w06 w07")
    edit = mp.Scale(0.5).at("mlp_out", layer=1, pos=mp.pos.token("w06"))
    hooks = [("mlp_out.1", lambda activation, hook: 0.5 * activation)]
    assert mx.array_equal(model.run(text, [edit]), model.run(ids, [edit])).item()
    assert mx.array_equal(model.run_with_hooks(text, hooks), model.run_with_hooks(ids, hooks)).item()
    assert mx.array_equal(model(text), model(ids)).item()
    logits, cache = model.run_with_cache(text, "z.0", logits_at=mp.pos.last)
    assert mx.array_equal(cache.tokens, ids).item()
    assert logits.shape == (1, 1, 96)


def test_a_run_of_a_chat_knows_its_roles():
    model = mp.HookedModel.load(FOLDER)
    chat = [{"role": "user", "content": "Remember Mars (planet 4)."}]
    edit = mp.Scale(0.0).at("mlp_out", layer=2, pos=mp.pos.role("user"))
    positions = mp.pos.role("user").resolve(chat, model.tokenizer)
    assert 1 < len(positions) < model.tokenize(chat).shape[1]
    by_hand = model.run(model.tokenize(chat), [mp.Scale(0.0).at("mlp_out", layer=2, pos=positions)])
    assert mx.array_equal(model.run(chat, [edit]), by_hand).item()
