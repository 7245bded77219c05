"""The tuned lens against gradients of a loss that is written out on the model's own modules."""

from dataclasses import replace

import matplotlib as mpl
import mlx.core as mx
import mlx.optimizers as optim
import numpy as np
import pytest
from mlx_lm.models.llama import Model, ModelArgs
from rounding import one_order

import mlx_patch as mp
from mlx_patch.errors import FileError, KindError, MissingSiteError, SelectionError, ShapeError, ValueRefusedError
from mlx_patch.testing import tiny_model

PROMPTS = [[int(token) for token in row] for row in np.random.default_rng(0).integers(1, 90, (10, 6))]
WHOLE = {"batch_size": 10, "positions": 1000}
"""Every step sees every position of every prompt that is fitted to."""


def fit(model, sites="resid_post", **choices):
    return mp.lens.fit_tuned_lens(model, PROMPTS, sites, **{"steps": 1, **WHOLE, **choices})


def by_hand(model, stream):
    """llama's final norm and unembedding, called by themselves."""
    return model.model.lm_head(model.model.model.norm(stream))


def streams_of(model, numbers, site, skip=1):
    """The streams of some prompts at a site and at the end, without the first positions. Shape `(row, d_model)`."""
    _, cache = model.run_with_cache(mx.array([PROMPTS[number] for number in numbers]), ("resid_post", site))
    return [cache[key][:, skip:].reshape(-1, model.d_model) for key in (site, "blocks.2.hook_resid_post")]


def divergence(model, stream, last, matrix, bias):
    """KL(final || lens), as a mean over positions, written out."""
    log_final, log_lens = (
        logits - mx.logsumexp(logits, axis=-1, keepdims=True)
        for logits in (by_hand(model, last), by_hand(model, stream + stream @ matrix.T + bias))
    )
    return (mx.exp(log_final) * (log_final - log_lens)).sum(axis=-1).mean()


@pytest.mark.parametrize(
    ("name", "precision"),
    [("llama", "float32"), ("llama", "bfloat16"), ("llama", "4bit"), ("gemma2", "float32"), ("granite", "float32")],
)
def test_a_lens_without_a_step_is_the_logit_lens(tiny, name, precision):
    """Bit for bit."""
    model = tiny(name, precision)
    tuned = fit(model, ("resid_pre", "resid_post"), steps=0)
    assert tuned.fit.before == tuned.fit.after
    through = mp.lens.logit_lens(model, PROMPTS[:2], ("resid_pre", "resid_post"), lens=tuned)
    plain = mp.lens.logit_lens(model, PROMPTS[:2], ("resid_pre", "resid_post"))
    for site in plain.sites:
        assert mx.array_equal(through.logits(site), plain.logits(site)).item()


@pytest.mark.parametrize("site", ["blocks.0.hook_resid_post", "blocks.1.hook_resid_mid"])
def test_a_step_goes_down_the_gradient_of_the_divergence(tiny, site):
    """That of the mean KL, at the lens that adds nothing; the bias is learnt in units of the stream's size."""
    model, rate = tiny(), 0.1
    tuned = fit(model, site, optimizer=optim.SGD(learning_rate=rate))
    fitted = sorted(set(range(10)) - set(tuned.fit.held_out))
    stream, last = streams_of(model, fitted, site)
    zero = mx.zeros((64, 64)), mx.zeros(64)
    by_matrix, by_bias = mx.grad(lambda *maps: divergence(model, stream, last, *maps), (0, 1))(*zero)
    [found] = tuned.sites
    assert str(found) == site
    np.testing.assert_allclose(np.array(tuned.matrices[found]), -rate * np.array(by_matrix), atol=1e-6)
    size = (stream * stream).mean()
    np.testing.assert_allclose(np.array(tuned.biases[found]), -rate * np.array(size * by_bias), atol=1e-6)
    assert np.abs(tuned.matrices[found]).max() > 1e-4


def test_held_out_prompts_are_measured_and_not_fitted_to(tiny):
    model = tiny()
    tuned = fit(model, steps=20)
    assert len(tuned.fit.held_out) == 2
    assert (tuned.fit.prompts, tuned.fit.positions, tuned.fit.held_out_positions) == (8, 20 * 40, 10)
    for site in tuned.sites:
        stream, last = streams_of(model, tuned.fit.held_out, site)
        zero = mx.zeros((64, 64)), mx.zeros(64)
        before = divergence(model, stream, last, *zero).item()
        after = divergence(model, stream, last, tuned.matrices[site], tuned.biases[site]).item()
        assert tuned.fit.before[site] == pytest.approx(before, rel=1e-4)
        assert tuned.fit.after[site] == pytest.approx(after, rel=1e-4)
        assert after != before
    held_out = mx.array([PROMPTS[number] for number in tuned.fit.held_out])
    kl = mp.lens.logit_lens(model, held_out, lens=tuned).kl()[:, :, 1:].mean(axis=(1, 2))
    np.testing.assert_allclose(kl[:2], list(tuned.fit.after.values()), rtol=1e-4)
    assert kl[2] < 1e-6


def test_what_is_learnt_holds_on_prompts_that_were_not_seen(tiny):
    prompts = np.random.default_rng(1).integers(1, 90, (60, 8)).tolist()
    record = mp.lens.fit_tuned_lens(tiny(), prompts, steps=20, positions=60, batch_size=16).fit
    assert all(record.after[site] < 0.95 * before for site, before in record.before.items())


def test_all_results_are_read_through_the_lens(tiny, tmp_path):
    mpl.use("Agg")
    model = tiny()
    tuned = fit(model, steps=5)
    lens = mp.lens.logit_lens(model, PROMPTS[:2], pos=[1, -1], lens=tuned)
    _, cache = model.run_with_cache(PROMPTS[:2], "resid_post", pos=[1, -1])
    expected = []
    for layer in range(3):
        stream = cache["resid_post", layer]
        if layer < 2:
            site = tuned.sites[layer]
            stream = stream + stream @ tuned.matrices[site].T + tuned.biases[site]
        expected.append(np.array(mx.softmax(by_hand(model, stream), axis=-1)))
    expected = np.stack(expected)
    np.testing.assert_allclose(lens.prob(7), expected[..., 7], rtol=1e-4)
    np.testing.assert_array_equal(lens.rank(7), (expected > expected[..., 7:8]).sum(axis=-1))
    np.testing.assert_array_equal(lens.top(3).ids, np.argsort(-expected, axis=-1)[..., :3])
    np.testing.assert_allclose(lens.plot().images[0].get_array(), expected[:, 0].max(axis=-1), rtol=1e-4)
    assert lens.to_html().count("<td") == 3 * 2
    assert repr(lens).endswith("through a TunedLens)")


def test_a_seed_decides_all(tiny, tmp_path):
    drawn = {"positions": 5, "batch_size": 2, "steps": 4}
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        fit(tiny(), seed=seed, **drawn).save(tmp_path / f"{name}.safetensors")
    first, second, other = ((tmp_path / f"{name}.safetensors").read_bytes() for name in "abc")
    assert first == second
    assert first != other


def test_what_fits_into_memory_changes_nothing(tiny, monkeypatch):
    whole = fit(tiny(), steps=3)
    monkeypatch.setattr("mlx_patch.lens._held_out.AT_ONCE", 1)
    in_parts = fit(tiny(), steps=3)
    for site in whole.sites:
        np.testing.assert_allclose(np.array(in_parts.matrices[site]), np.array(whole.matrices[site]), atol=1e-6)


def test_a_store_gives_what_runs_give(tiny, tmp_path):
    store = mp.ActivationStore.capture(tiny(), PROMPTS, tmp_path / "store", shard_mb=0.01)
    from_store = mp.lens.fit_tuned_lens(tiny(), store, steps=3, **WHOLE)
    from_runs = fit(tiny(), steps=3)
    for site in from_runs.sites:
        apart = np.abs(np.array(from_store.matrices[site]) - np.array(from_runs.matrices[site]))
        # Adam divides a gradient by its own size. Where sums have orders, an entry whose gradient is as small as their
        # rounding may step otherwise; those are few.
        assert np.mean(apart > 1e-6) <= (0 if one_order() else 0.01)
    assert from_store.fit.held_out == from_runs.fit.held_out


def test_a_file_is_read_back_for_its_own_model(tiny, tmp_path):
    tuned, path = fit(tiny(), steps=2), tmp_path / "lens.safetensors"
    tuned.save(path)
    again = mp.lens.TunedLens.load(path, tiny())
    assert (again.fit, again.identity, again.sites) == (tuned.fit, tuned.identity, tuned.sites)
    for site in tuned.sites:
        assert mx.array_equal(again.matrices[site], tuned.matrices[site]).item()
        assert mx.array_equal(again.biases[site], tuned.biases[site]).item()
    other = mp.HookedModel(tiny_model("llama"))
    other.model.model.norm.weight = 1.1 * other.model.model.norm.weight
    with pytest.raises(FileError, match=r"a lens for this model\. Got .* for another model \(weights\)"):
        mp.lens.TunedLens.load(path, other)
    with pytest.raises(ValueRefusedError, match=r"must be for this model\. Got one for another model \(weights\)"):
        mp.lens.logit_lens(other, PROMPTS[0], lens=tuned)
    carried = tuned.on(other)
    assert carried.fit.model == tuned.identity != carried.identity
    assert mp.lens.logit_lens(other, PROMPTS[0], lens=carried).kl().shape == (3, 1, 6)
    with pytest.raises(ShapeError, match="must have the sites of the lens"):
        tuned.on(mp.HookedModel(narrow_model()))


def narrow_model():
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_attention_heads": 4, "vocab_size": 96}
    return Model(ModelArgs(model_type="llama", num_hidden_layers=3, rms_norm_eps=1e-5, **sizes))


def test_a_damaged_file_and_another_kind_are_refused(tiny, tmp_path):
    path = tmp_path / "lens.safetensors"
    fit(tiny(), steps=1).save(path)
    with pytest.raises(FileError, match=r"a file that JacobianLens\.save wrote\. Got .* not of the format"):
        mp.lens.JacobianLens.load(path, tiny())
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    with pytest.raises(FileError, match="its checksum differs"):
        mp.lens.TunedLens.load(path, tiny())
    with pytest.raises(FileError, match="No such file"):
        mp.lens.TunedLens.load(tmp_path / "none.safetensors", tiny())
    with pytest.raises(FileError, match=r"must end in '\.safetensors'"):
        fit(tiny(), steps=0).save(tmp_path / "lens.npz")


def test_the_record_is_read_at_a_glance_and_drawn(tiny):
    mpl.use("Agg")
    record = fit(tiny(), steps=2).fit
    lines = str(record).splitlines()
    assert lines[0].startswith("fitted to 80 positions of 8 prompts; steps=2, ")
    assert lines[3].split() == ["resid_post.0", *(f"{kl[mp.Site('resid_post', 0)]:.3f}" for kl in scores(record))]
    drawn = [line.get_ydata() for line in record.plot().lines[:2]]
    np.testing.assert_allclose(drawn, [list(kl.values()) for kl in scores(record)])
    assert record.plot().get_ylabel() == "KL from the final distribution (nats)"


def test_the_picture_names_sites_of_several_kinds(tiny):
    mpl.use("Agg")
    axes = fit(tiny(), ("resid_pre", "resid_post"), steps=0).fit.plot()
    assert {"resid_pre.0", "resid_post.1"} <= {text.get_text() for text in axes.get_xticklabels()}


def test_a_divergence_that_overflowed_is_read_back(tiny, tmp_path):
    tuned, path = fit(tiny(), steps=0), tmp_path / "lens.safetensors"
    overflowed = replace(tuned.fit, after=dict.fromkeys(tuned.fit.after, float("inf")))
    replace(tuned, fit=overflowed).save(path)
    assert mp.lens.TunedLens.load(path, tiny()).fit == overflowed


def scores(record):
    return record.before, record.after


def test_the_first_positions_are_left_out_on_demand(tiny):
    assert fit(tiny(), steps=0, skip=0).fit.held_out_positions == 12
    assert fit(tiny(), steps=0, skip=5).fit.held_out_positions == 2


@pytest.mark.parametrize(
    ("choices", "error", "message"),
    [
        ({"sites": "mlp_out"}, MissingSiteError, "must be of the stream"),
        ({"sites": "blocks.2.hook_resid_post"}, SelectionError, "must have one before blocks.2.hook_resid_post"),
        ({"corpus": "w1 w2"}, KindError, "must be a list of prompts"),
        ({"corpus": PROMPTS[:1]}, ValueRefusedError, "must hold 2 prompts or more"),
        ({"corpus": [[1, 2], [3]]}, ValueRefusedError, "more than 1 tokens.* Got 1 in entry 1"),
        ({"held_out": 1.0}, ValueRefusedError, "`held_out` must lie between 0 and 1"),
        ({"seed": -1}, ValueRefusedError, "`seed` must be 0 or more"),
        ({"skip": -1}, ValueRefusedError, "`skip` must be 0 or more"),
        ({"steps": -1}, ValueRefusedError, "`steps` must be 0 or more"),
        ({"positions": 0}, ValueRefusedError, "`positions` must be 1 or more"),
        ({"batch_size": 0}, ValueRefusedError, "`batch_size` must be 1 or more"),
        ({"learning_rate": 0.0}, ValueRefusedError, "`learning_rate` must be above 0"),
        ({"optimizer": "adam"}, KindError, "must be one of mlx.optimizers"),
        ({"steps": 3, "optimizer": optim.SGD(float("inf"))}, ValueRefusedError, "maps stay finite"),
    ],
)
def test_what_means_nothing_is_refused(tiny, choices, error, message):
    choices = {"corpus": PROMPTS, "steps": 1, **WHOLE, **choices}
    with pytest.raises(error, match=message):
        mp.lens.fit_tuned_lens(tiny(), **choices)


def test_an_optimizer_that_was_used_is_refused(tiny):
    optimizer = optim.SGD(0.1)
    fit(tiny(), optimizer=optimizer)
    with pytest.raises(ValueRefusedError, match=r"must not have been used before\. Got one after 1 steps"):
        fit(tiny(), optimizer=optimizer)


def test_a_lens_reads_only_what_it_was_fitted_at(tiny, tmp_path):
    tuned = fit(tiny(), "blocks.0.hook_resid_post")
    with pytest.raises(MissingSiteError, match=r"must be fitted at the sites that it reads\. Got blocks\.1"):
        mp.lens.logit_lens(tiny(), PROMPTS[0], lens=tuned)
    with pytest.raises(KindError, match="`lens` must be a fitted lens"):
        mp.lens.logit_lens(tiny(), PROMPTS[0], lens="tuned")
    with pytest.raises(MissingSiteError, match="must be one that the lens has a map for"):
        tuned.translated(mp.Site("resid_pre", 0), mx.zeros(64))
    store = mp.ActivationStore.capture(tiny("gemma2"), PROMPTS, tmp_path / "store")
    with pytest.raises(ValueRefusedError, match=r"activations of this model\. Got those of another model"):
        mp.lens.fit_tuned_lens(tiny(), store)


def test_logits_far_apart_are_learnt_from(tiny):
    """As those of a sharp model: their exponentials overflow, unless the largest is taken off."""
    raw = tiny_model("llama")
    raw.model.norm.weight = 3000 * raw.model.norm.weight
    sharp = mp.HookedModel(raw)
    assert mx.max(mx.abs(sharp.run([PROMPTS[0]]))).item() > 200
    tuned = mp.lens.fit_tuned_lens(sharp, PROMPTS, steps=2, held_out=0.5)
    assert all(mx.all(mx.isfinite(matrix)).item() for matrix in tuned.matrices.values())


def test_a_store_has_positions_to_fit_at(tiny, tmp_path):
    store = mp.ActivationStore.capture(tiny(), PROMPTS, tmp_path / "store")
    with pytest.raises(ValueRefusedError, match=r"must hold positions behind the first 50\. Got none\. Choose a sm"):
        mp.lens.fit_tuned_lens(tiny(), store, skip=50)


def test_logits_that_read_more_than_the_stream_are_refused(tiny):
    for fit_lens in (mp.lens.fit_tuned_lens, mp.lens.fit_jacobian_lens):
        with pytest.raises(MissingSiteError, match="read its logits off the stream"):
            fit_lens(tiny("kimi_k3"), PROMPTS)
