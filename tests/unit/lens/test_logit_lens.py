"""The logit lens against the model's own modules, called one after the other, and against numpy."""

from functools import cache

import matplotlib as mpl
import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.models.llama import Model, ModelArgs

import mlx_patch as mp
from mlx_patch.errors import MissingSiteError, SelectionError, ShapeError, TokenError, ValueRefusedError

BATCH = mx.array([[11, 48, 85, 26, 63, 4], [5, 9, 2, 77, 31, 60]])


def by_hand(model, stream):
    """llama's final norm and unembedding, called by themselves."""
    return model.model.lm_head(model.model.model.norm(stream))


def log_probs(logits):
    logits = np.array(logits.astype(mx.float32)).astype(np.float64)
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


@pytest.fixture
def streams(tiny):
    _, cache = tiny().run_with_cache(BATCH, "resid_post")
    return cache


def test_every_layer_is_read_by_the_norm_and_head(tiny, streams):
    lens = mp.lens.logit_lens(tiny(), BATCH)
    for layer in range(3):
        expected = by_hand(tiny(), streams["resid_post", layer])
        assert mx.array_equal(lens.logits(("resid_post", layer)), expected).item()


def test_the_last_layer_is_the_run_s_own_logits(tiny):
    lens = mp.lens.logit_lens(tiny(), BATCH)
    assert mx.array_equal(lens.logits(("resid_post", -1)), tiny().run(BATCH)).item()
    assert np.abs(lens.kl()[-1]).max() < 1e-6


@pytest.mark.parametrize("at_once", [1, 96 * 12 * 2, 2**26])
def test_numbers_are_those_of_numpy_however_many_logits_fit(tiny, streams, monkeypatch, at_once):
    monkeypatch.setattr("mlx_patch.lens._lens_result._AT_ONCE", at_once)
    lens = mp.lens.logit_lens(tiny(), BATCH)
    expected = np.stack([log_probs(by_hand(tiny(), streams["resid_post", layer])) for layer in range(3)])
    np.testing.assert_allclose(lens.prob(7), np.exp(expected[..., 7]), rtol=1e-5)
    np.testing.assert_array_equal(lens.rank(7), (expected > expected[..., 7:8]).sum(axis=-1))
    kl = (np.exp(expected[-1]) * (expected[-1] - expected)).sum(axis=-1)
    np.testing.assert_allclose(lens.kl(), kl, atol=1e-5)
    top = lens.top(4)
    np.testing.assert_array_equal(top.ids, np.argsort(-expected, axis=-1)[..., :4])
    np.testing.assert_allclose(top.probs, np.exp(-np.sort(-expected, axis=-1)[..., :4]), rtol=1e-5)
    np.testing.assert_array_equal(lens.top(1).ids, top.ids[..., :1])


def test_the_most_likely_tokens_read_as_a_table(tiny):
    lens = mp.lens.logit_lens(tiny(), BATCH, pos=[-2, -1])
    top = lens.top(2)
    lines = repr(top).splitlines()
    assert lines[0].split() == ["1st", "2nd"]
    first, second = top.ids[1, 1, 0]
    chances = top.probs[1, 1, 0]
    headings = [line for line in lines if line.startswith("prompt")]
    assert headings == [f"prompt {row}, position {pos}" for row in range(2) for pos in lens.positions]
    row = lines[lines.index(headings[2]) + 2].split()
    assert row == ["resid_post", "1", str(first), f"{chances[0]:.2f}", str(second), f"{chances[1]:.2f}"]
    assert len(lines) == 1 + 4 * 4


def test_a_table_of_one_token_a_site_has_two_columns(tiny):
    top = mp.lens.logit_lens(tiny(), BATCH[:1], pos=-1).top(1)
    ordinal, heading, row, *_ = repr(top).splitlines()
    assert (ordinal.split(), heading) == (["1st"], "position 5")
    assert row.split() == ["resid_post", "0", str(top.ids[0, 0, 0, 0]), f"{top.probs[0, 0, 0, 0]:.2f}"]


def test_a_long_table_of_tokens_is_cut(tiny):
    top = mp.lens.logit_lens(tiny(), list(range(1, 40))).top(3)
    lines = repr(top).splitlines()
    assert len(lines) == 42
    assert lines[-1].startswith(f"... and {39 * 4 - 40} rows more")


@pytest.mark.parametrize("k", [1, 2, 5, 14, 200, 1000])
@pytest.mark.parametrize("levels", [0, 3, 40])
def test_of_equal_logits_the_smaller_token_comes_first(k, levels):
    """Whatever the number of tokens, of which the last ones make no whole group; `levels` of 0 are all different."""
    model = mp.HookedModel(wide_vocabulary())
    lens = mp.lens.logit_lens(model, [1, 2, 3])
    logits = np.random.default_rng(0).normal(size=(1, 3, 1000)).astype(np.float32)
    if levels:
        logits = np.round(logits * levels / 4)
    object.__setattr__(lens, "final", mx.array(logits))
    found = lens.top(k)
    np.testing.assert_array_equal(found.ids[-1], np.argsort(-logits, axis=-1, kind="stable")[..., :k])
    expected = np.exp(-np.sort(-log_probs(mx.array(logits)), axis=-1)[..., :k])
    np.testing.assert_allclose(found.probs[-1], expected, rtol=1e-5)


def test_sites_may_come_behind_the_last_stream(tiny):
    lens = mp.lens.logit_lens(tiny(), BATCH, ("resid_post", "resid_pre"))
    alone = mp.lens.logit_lens(tiny(), BATCH, "resid_pre")
    places = [lens.sites.index(site) for site in alone.sites]
    np.testing.assert_array_equal(lens.rank(7)[places], alone.rank(7))


def test_a_picture_is_of_a_prompt_that_is_there(tiny):
    lens = mp.lens.logit_lens(tiny(), BATCH)
    for plot in (lens.plot, lens.plot_kl):
        with pytest.raises(SelectionError, match=r"`example` must lie in -2 to 1"):
            plot(example=2)


def test_the_most_likely_tokens_are_the_same_on_a_gpu(tiny, monkeypatch):
    """There MLX finds them, and numpy on a CPU."""
    lens = mp.lens.logit_lens(tiny(), BATCH)
    expected = lens.top(4)
    monkeypatch.setattr(mx, "default_device", lambda: mx.Device(mx.gpu))
    found = lens.top(4)
    np.testing.assert_array_equal(found.ids, expected.ids)
    np.testing.assert_allclose(found.probs, expected.probs, rtol=1e-5)


@cache
def wide_vocabulary():
    """A model of 1,000 tokens, which is no multiple of a group's 64."""
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_attention_heads": 4, "vocab_size": 1000}
    return Model(ModelArgs(model_type="llama", num_hidden_layers=1, rms_norm_eps=1e-5, **sizes))


def test_generated_text_is_read_where_it_was_generated(tiny, word_tokenizer):
    """Each generated token is the likeliest at the last layer, one position before it."""
    model = mp.HookedModel(tiny().model, word_tokenizer)
    text, cache = model.generate_with_cache("w11 w48 w85", max_tokens=5)
    lens = mp.lens.logit_lens(model, cache.tokens)
    first = len(model.str_tokens("w11 w48 w85"))
    assert lens.top(1).texts[-1][0][first - 1 : -1] == [[word] for word in lens.texts[first:]]
    assert " ".join(lens.texts[first:]).startswith(text.split()[0])
    edit = mp.Scale(3.0).at("mlp_out", layer=1)
    _, edited = model.generate_with_cache("w11 w48 w85", edits=[edit], max_tokens=5)
    again = mp.lens.logit_lens(model, edited.tokens, edits=[edit])
    assert again.top(1).texts[-1][0][first - 1 : -1] == [[word] for word in again.texts[first:]]
    np.testing.assert_allclose(mp.lens.logit_lens(model, edited).prob(3), again.prob(3), atol=1e-5)


def test_two_models_are_compared_site_by_site(tiny):
    other = mp.HookedModel(tiny().model)
    edited = mp.lens.logit_lens(other, BATCH, edits=[mp.Scale(3.0).at("mlp_out", layer=1)])
    lens = mp.lens.logit_lens(tiny(), BATCH)
    apart = lens.kl(edited)
    assert apart.shape == (3, 2, 6)
    np.testing.assert_allclose(apart[0], 0, atol=1e-6)
    for site, values in zip(lens.sites[1:], apart[1:], strict=True):
        theirs, ours = log_probs(edited.logits(site)), log_probs(lens.logits(site))
        np.testing.assert_allclose(values, (np.exp(theirs) * (theirs - ours)).sum(axis=-1), atol=1e-5)
    mpl.use("Agg")
    drawn = lens.plot_kl(edited, example=1)
    np.testing.assert_allclose(np.array(drawn.images[0].get_array()), apart[:, 1], rtol=1e-6)
    assert drawn.get_title() == "KL from the other lens"
    other.name = "folder/base"
    assert lens.plot_kl(edited, ax=drawn) is drawn
    assert drawn.get_title() == "KL from base"
    np.testing.assert_allclose(np.array(lens.plot_kl().images[0].get_array()), lens.kl()[:, 0], rtol=1e-6)
    with pytest.raises(ShapeError, match="must have the sites"):
        lens.kl(mp.lens.logit_lens(tiny(), BATCH, pos=-1))


def test_each_prompt_may_have_a_token_of_its_own(tiny):
    lens = mp.lens.logit_lens(tiny(), BATCH)
    both = lens.prob([7, 30])
    np.testing.assert_array_equal(both[:, 0], lens.prob(7)[:, 0])
    np.testing.assert_array_equal(both[:, 1], lens.prob(30)[:, 1])


def test_positions_are_absolute_or_from_the_end(tiny):
    whole = mp.lens.logit_lens(tiny(), BATCH).rank(7)
    some = mp.lens.logit_lens(tiny(), BATCH, pos=[1, -1])
    assert some.positions == (1, 5)
    np.testing.assert_array_equal(some.rank(7), whole[..., [1, 5]])


def test_an_edited_run_has_a_lens_of_its_own(tiny):
    edit = mp.Ablate("zero").at("mlp_out", layer=1)
    lens = mp.lens.logit_lens(tiny(), BATCH, sites=("resid_pre", "resid_mid", "resid_post"), edits=[edit])
    _, cache = tiny().run_with_cache(BATCH, "resid_mid", edit)
    assert mx.array_equal(lens.logits("resid_mid.1"), by_hand(tiny(), cache["resid_mid", 1])).item()
    assert mx.array_equal(lens.logits("resid_post.1"), lens.logits("resid_mid.1")).item()
    assert mx.array_equal(lens.logits("resid_post.2"), tiny().run(BATCH, edit)).item()


@pytest.mark.parametrize("precision", ["bfloat16", "float16", "4bit"])
def test_other_precisions(tiny, precision):
    model = tiny("llama", precision)
    lens = mp.lens.logit_lens(model, BATCH)
    _, cache = model.run_with_cache(BATCH, "resid_post")
    assert mx.array_equal(lens.logits("resid_post.0"), by_hand(model, cache["resid_post", 0])).item()
    assert lens.prob(7).dtype == np.float32


def test_words_are_shown_and_asked_for(tiny, word_tokenizer):
    model = mp.HookedModel(tiny().model, word_tokenizer)
    lens = mp.lens.logit_lens(model, "w11 w48 w85")
    np.testing.assert_array_equal(lens.prob("w07"), lens.prob(7))
    top = lens.top(2)
    assert top.texts[0][0][0][0] == f"w{top.ids[0, 0, 0, 0]:02}"
    assert lens.texts[-1] == "w85"
    two = mp.lens.logit_lens(model, BATCH)
    assert set(two.texts) == {"*"}
    with pytest.raises(TokenError, match="one for each of 2 prompts"):
        two.prob([1, 2, 3])


def test_the_picture_has_a_token_in_each_cell(tiny, word_tokenizer):
    mpl.use("Agg")
    lens = mp.lens.logit_lens(mp.HookedModel(tiny().model, word_tokenizer), "w11 w48 w85")
    axes = lens.plot()
    top = lens.top(1)
    shown = [text.get_text() for text in axes.texts]
    assert shown == [text[0] for site in top.texts for text in site[0]]
    np.testing.assert_allclose(np.array(axes.images[0].get_array()), top.probs[:, 0, :, 0], rtol=1e-6)
    of_one = lens.plot(token="w07")
    np.testing.assert_allclose(np.array(of_one.images[0].get_array()), lens.prob(7)[:, 0], rtol=1e-6)


def test_the_page_is_one_file_without_scripts(tiny, tmp_path):
    lens = mp.lens.logit_lens(tiny(), BATCH)
    page = lens.to_html(tmp_path / "lens.html", example=1, k=2)
    assert (tmp_path / "lens.html").read_text(encoding="utf-8") == page
    assert page.count("<td") == 3 * 6
    assert "<script" not in page
    assert "http" not in page
    assert str(lens.top(1).ids[2, 1, 0, 0]) in page
    assert lens._repr_html_().startswith("<!doctype html>")


class Tags:
    """A tokenizer whose every token is a piece of HTML."""

    def encode(self, text, add_special_tokens=True):
        return [1]

    def decode(self, ids):
        return "<b>"


def test_text_of_tokens_cannot_write_into_the_page(tiny):
    model = mp.HookedModel(tiny().model, Tags())
    page = mp.lens.logit_lens(model, BATCH[:1]).to_html()
    assert "<b>" not in page
    assert "&lt;b&gt;" in page


@pytest.mark.parametrize(
    ("ask", "error", "message"),
    [
        (lambda model: mp.lens.logit_lens(model, BATCH, sites="mlp_out"), MissingSiteError, "must be of the stream"),
        (lambda model: mp.lens.logit_lens(model, BATCH).top(0), SelectionError, "must lie in 1 to 96"),
        (lambda model: mp.lens.logit_lens(model, BATCH).prob(96), SelectionError, "within the 96"),
        (lambda model: mp.lens.logit_lens(model, BATCH).prob("w1"), TokenError, "tokenizer"),
        (lambda model: mp.lens.logit_lens(model, BATCH).logits("resid_pre.0"), SelectionError, "one of the lens"),
        (lambda model: model.unembed(mx.zeros((2, 7))), ShapeError, "must end in the width"),
        (lambda model: model.final_norm(mx.zeros((0, 32))), ShapeError, "must have an entry"),
        (lambda model: model.directions(96), SelectionError, "within the 96"),
        (lambda model: model.str_tokens(BATCH), TokenError, "must be given to show tokens"),
    ],
)
def test_what_means_nothing_is_refused(tiny, ask, error, message):
    with pytest.raises(error, match=message):
        ask(tiny())


@pytest.mark.parametrize("name", ["kimi_k3", "deepseek_v41"])
def test_a_stream_that_does_not_decide_the_logits_is_refused(tiny, name):
    for ask in (mp.lens.logit_lens, lambda model, tokens: model.final_norm(mx.zeros((1, model.d_model)))):
        with pytest.raises(MissingSiteError, match="must read its logits off the stream"):
            ask(tiny(name), BATCH)


@pytest.mark.parametrize("pos", [None, -1, [1, 3]])
@pytest.mark.parametrize("name", ["llama", "gemma2", "mamba"])
def test_a_cache_is_read_as_its_run_was(tiny, name, pos):
    model, edit = tiny(name), mp.Scale(0.5).at("mlp_out" if name != "mamba" else "mixer_out", layer=0)
    tokens = mx.array([[11, 48, 85, 26, 63], [5, 9, 48, 77, 31]])
    _, cache = model.run_with_cache(tokens, ("resid_post", "resid_pre"), [edit])
    found = mp.lens.logit_lens(model, cache, ("resid_pre", "resid_post"), pos=pos)
    expected = mp.lens.logit_lens(model, tokens, ("resid_pre", "resid_post"), pos=pos, edits=[edit])
    assert found.positions == expected.positions
    np.testing.assert_allclose(found.prob(3), expected.prob(3), atol=1e-6)
    np.testing.assert_allclose(found.kl(), expected.kl(), atol=1e-5)


def test_a_cache_of_some_positions_is_read_at_these(tiny):
    model, tokens = tiny("llama"), mx.array([[11, 48, 85, 26, 63]])
    _, cache = model.run_with_cache(tokens, pos=[2, 4])
    found = mp.lens.logit_lens(model, cache)
    assert found.positions == (2, 4)
    np.testing.assert_allclose(found.prob(3), mp.lens.logit_lens(model, tokens, pos=[2, 4]).prob(3), atol=1e-6)
    with pytest.raises(SelectionError, match=r"`pos` must be positions that the cache holds\. Got \[3\]"):
        mp.lens.logit_lens(model, cache, pos=[3, 4])
    with pytest.raises(ValueRefusedError, match="`edits` must be left out where `tokens` is a cache"):
        mp.lens.logit_lens(model, cache, edits=[mp.Scale(2.0).at("mlp_out", layer=0)])
    _, early = model.run_with_cache(tokens, ["resid_post.0"])
    with pytest.raises(MissingSiteError, match=r"The cache must hold blocks\.1\.hook_resid_post"):
        mp.lens.logit_lens(model, early)
