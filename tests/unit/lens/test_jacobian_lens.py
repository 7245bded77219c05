"""The Jacobian lens against finite differences, gradients taken position by position, and a closed form."""

from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

import mlx_patch as mp
from mlx_patch.errors import ArchitectureError, FileError, KindError, MissingSiteError, ValueRefusedError
from mlx_patch.testing import tiny_model

PROMPT = [11, 48, 85, 26, 63]
TWICE = [PROMPT, PROMPT]
"""One prompt to fit to, and the same to hold out."""

LATER = [4, 41, 78, 5, 9]


def fit(model, corpus=TWICE, sites=("resid_pre", "resid_mid", "resid_post"), **choices):
    return mp.lens.fit_jacobian_lens(model, corpus, sites, **{"rows": 64, "held_out": 0.5, **choices})


def last_stream(model, edit):
    """The stream that leaves the last block. Shape `(pos, d_model)`."""
    site = mp.Site("resid_post", model.n_layers - 1)
    return np.array(model.run_with_cache([PROMPT], (site,), edit)[1][site][0]).astype(np.float64)


def by_finite_differences(model, site, direction, size, skip):
    """The mean over positions of what a step there changes at it and behind it, by the size of the step."""
    columns = []
    for position in range(skip, len(PROMPT)):
        edits = [mp.Add(direction, scale=sign * size).at(site.name, layer=site.layer, pos=position) for sign in (1, -1)]
        difference = last_stream(model, edits[0]) - last_stream(model, edits[1])
        assert not difference[:position].any()
        columns.append(difference[position:].sum(axis=0) / (2 * size))
    return np.mean(columns, axis=0)


@pytest.mark.parametrize(
    ("name", "skip"),
    [
        *((name, 1) for name in ("llama", "gemma2", "granite", "cohere", "mixtral", "qwen3_next")),
        ("llama", 0),
        ("gpt2", 2),
    ],
)
def test_a_matrix_is_what_finite_differences_are(tiny, name, skip):
    model = tiny(name)
    sites = tuple({"resid_pre", "resid_mid", "resid_post"} & {site.name for site in model.sites})
    jacobian = fit(model, sites=sites, skip=skip)
    for name_of_site in sites:
        site = mp.Site(name_of_site, 0)
        matrix = np.array(jacobian.matrices[site])
        direction = np.random.default_rng(1).normal(size=matrix.shape[1]).astype(np.float32)
        expected = by_finite_differences(model, site, mx.array(direction), 1e-3, skip)
        np.testing.assert_allclose(matrix @ direction, expected, atol=5e-3 * np.abs(expected).max())


def test_a_recurrence_carries_changes_to_later_positions(tiny):
    """mamba, whose tiny model has streams of some thousands, and so wants longer steps."""
    model, site = tiny("mamba"), mp.Site("resid_post", 0)
    matrix = np.array(fit(model, sites="resid_post").matrices[site])
    direction = np.random.default_rng(1).normal(size=64).astype(np.float32)
    expected = by_finite_differences(model, site, mx.array(direction), 0.03, 1)
    np.testing.assert_allclose(matrix @ direction, expected, atol=0.02 * np.abs(expected).max())


@pytest.mark.parametrize("precision", ["float32", "4bit"])
def test_a_row_is_the_gradient_at_each_position_summed(tiny, precision):
    """By `mx.grad` through edits of the public API, one position to one later position at a time."""
    model, site = tiny("llama", precision), mp.Site("resid_post", 1)
    jacobian = fit(model, sites="resid_post")
    for entry in (0, 37):
        rows = []
        for position in range(1, len(PROMPT)):
            later = [gradient(model, site, position, other, entry) for other in range(position, len(PROMPT))]
            rows.append(np.sum(later, axis=0))
        np.testing.assert_allclose(np.array(jacobian.matrices[site])[entry], np.mean(rows, axis=0), atol=1e-5)


def gradient(model, site, position, other, entry):
    """The derivative of an entry of the last stream at one position by the stream at another."""
    noted = []

    def note(activation, site):
        noted.append(activation)
        return activation

    def value(delta):
        with model.editing(
            mp.Add(delta).at(site.name, layer=site.layer, pos=position), mp.Apply(note).at("resid_post", layer=2)
        ):
            model.model(mx.array([PROMPT]))
        return noted[-1][0, other, entry].astype(mx.float32)

    return np.array(mx.grad(value)(mx.zeros(64)))


def test_blocks_that_add_nothing_have_the_identity():
    model = mp.HookedModel(tiny_model("llama"))
    for block in model.model.layers:
        block.self_attn.o_proj.weight = mx.zeros_like(block.self_attn.o_proj.weight)
        block.mlp.down_proj.weight = mx.zeros_like(block.mlp.down_proj.weight)
    jacobian = fit(model)
    for matrix in jacobian.matrices.values():
        np.testing.assert_array_equal(np.array(matrix), np.eye(64))
    through, plain = (mp.lens.logit_lens(model, PROMPT, lens=lens) for lens in (jacobian, None))
    for site in plain.sites:
        assert mx.array_equal(through.logits(site), plain.logits(site)).item()
    assert jacobian.fit.before == jacobian.fit.after


def test_the_lens_reads_what_the_matrix_makes_of_a_stream(tiny):
    model = tiny()
    jacobian = fit(model)
    lens = mp.lens.logit_lens(model, LATER, ("resid_pre", "resid_post"), lens=jacobian)
    _, cache = model.run_with_cache(LATER, ("resid_pre", "resid_post"))
    for site in lens.sites[:-1]:
        stream = cache[site] @ jacobian.matrices[site].T
        expected = model.model.lm_head(model.model.model.norm(stream))
        np.testing.assert_allclose(np.array(lens.logits(site)), np.array(expected), atol=1e-5)
    assert mx.array_equal(lens.logits(("resid_post", -1)), model.run(LATER)).item()
    after = lens.kl()[0, 0, 1:].mean()
    assert fit(model, [LATER, LATER]).fit.after[mp.Site("resid_pre", 0)] != pytest.approx(after)
    held_out = mp.lens.logit_lens(model, PROMPT, "resid_pre", lens=jacobian).kl()[0, 0, 1:].mean()
    assert jacobian.fit.after[mp.Site("resid_pre", 0)] == pytest.approx(held_out, rel=1e-4)


def test_prompts_are_weighed_by_their_positions(tiny):
    """Two prompts that are fitted to, of four and of two positions behind the first."""
    model, site = tiny(), mp.Site("resid_post", 0)
    short = LATER[:3]
    alone = [np.array(fit(model, [prompt, prompt], "resid_post").matrices[site]) for prompt in (PROMPT, short)]
    both = fit(model, [PROMPT, PROMPT, short, short], "resid_post", held_out=0.5, seed=1)
    weights = [sum(len(p) - 1 for p in fitted) for fitted in split_of(both, [PROMPT, PROMPT, short, short])]
    expected = (weights[0] * alone[0] + weights[1] * alone[1]) / sum(weights)
    np.testing.assert_allclose(np.array(both.matrices[site]), expected, atol=1e-5)
    assert both.fit.positions == sum(weights)


def split_of(lens, corpus):
    """The prompts that a lens was fitted to: those like the first, and those like the last."""
    fitted = [prompt for number, prompt in enumerate(corpus) if number not in lens.fit.held_out]
    return [prompt for prompt in fitted if prompt == corpus[0]], [prompt for prompt in fitted if prompt == corpus[-1]]


def test_a_share_deals_the_rows_out(tiny):
    """Each row is that of one of the two prompts, half of the rows of each."""
    model, site = tiny(), mp.Site("resid_post", 0)
    corpus = [PROMPT, LATER, [7, 3, 2]]
    reports = []
    dealt = fit(model, corpus, "resid_post", held_out=0.3, share=0.5, progress=lambda *done: reports.append(done))
    fitted = [prompt for number, prompt in enumerate(corpus) if number not in dealt.fit.held_out]
    alone = [np.array(fit(model, [prompt, prompt], "resid_post").matrices[site]) for prompt in fitted]
    rows = np.array(dealt.matrices[site])
    close = np.array([np.abs(rows - matrix).max(axis=1) < 1e-5 for matrix in alone])
    assert close.sum(axis=1).tolist() == [32, 32]
    assert close.any(axis=0).all()
    assert reports == [(1, 2), (2, 2)]


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_types_are_near(tiny, precision):
    half = fit(tiny("llama", precision), sites="resid_post")
    for site, matrix in fit(tiny(), sites="resid_post").matrices.items():
        np.testing.assert_allclose(np.array(half.matrices[site]), np.array(matrix), atol=0.05)
        assert half.matrices[site].dtype == mx.float32


def test_directions_are_rows_of_the_unembedding_taken_back(tiny):
    model = tiny()
    jacobian = fit(model)
    matrix, rows = (
        np.array(array) for array in (jacobian.matrices[mp.Site("resid_mid", 1)], model.directions([7, 30]))
    )
    np.testing.assert_allclose(np.array(jacobian.directions([7, 30], "resid_mid.1")), rows @ matrix, atol=1e-5)
    np.testing.assert_allclose(np.array(jacobian.directions(7, ("resid_mid", -2))), (rows @ matrix)[0], atol=1e-5)
    with pytest.raises(MissingSiteError, match="must be one that the lens has a map for"):
        jacobian.directions(7, "resid_post.2")
    with pytest.raises(ArchitectureError, match="must unembed a stream of width 256"):
        fit(tiny("gemma3n"), sites="blocks.1.hook_resid_post").directions(7, "resid_post.1")


def test_a_file_is_read_back(tiny, tmp_path):
    jacobian, path = fit(tiny()), tmp_path / "lens.safetensors"
    jacobian.save(path)
    again = mp.lens.JacobianLens.load(path, tiny())
    assert again.fit == jacobian.fit
    assert mx.array_equal(again.directions(7, "resid_mid.1"), jacobian.directions(7, "resid_mid.1")).item()
    fit(tiny()).save(tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == path.read_bytes()
    with pytest.raises(FileError, match="a lens for this model"):
        mp.lens.JacobianLens.load(path, tiny("qwen3"))


@pytest.mark.parametrize(
    ("choices", "error", "message"),
    [
        ({"share": 0.0}, ValueRefusedError, "`share` must lie above 0"),
        ({"share": 0.25}, ValueRefusedError, "must give each of 64 entries a prompt"),
        ({"rows": 0}, ValueRefusedError, "`rows` must be 1 or more"),
        ({"corpus": [[1, 2], [3]]}, ValueRefusedError, "more than 1 tokens"),
        ({"corpus": [mp.ActivationCache({}, mx.array([[1, 2]]), (0, 1), 2)] * 2}, KindError, "must hold prompts"),
    ],
)
def test_what_means_nothing_is_refused(tiny, choices, error, message):
    with pytest.raises(error, match=message):
        fit(tiny(), **choices)


def test_a_gradient_that_is_not_a_number_is_refused(tiny):
    """`tests/laws/test_lenses.py` has a model that rounds."""
    with pytest.raises(ArchitectureError, match=r"`model` must be differentiable[\s\S]*is not a number"):
        fit(tiny("recurrent_gemma"), sites="resid_post")


def test_directions_steer_where_random_ones_do_not():
    """An embedded model, of which one prompt is fitted to and another is steered."""
    model = mp.HookedModel.load(Path(__file__).parents[3] / "examples" / "models" / "tiny_instruct_ext")
    model.model.set_dtype(mx.float32)
    corpus = [f"{name} (planet {number}, diameter" for name, number in (("Earth", 3), ("Venus", 2))]
    jacobian = fit(model, corpus, "blocks.1.hook_resid_post")
    prompt = "Mars (planet 4, diameter"

    def log_prob(intervention, token="7"):
        edit = intervention.at("resid_post", layer=1, pos=slice(1, None))
        return np.log(mp.lens.logit_lens(model, prompt, pos=-1, edits=[edit]).prob(token)[-1, 0, 0])

    def step(direction):
        return mp.Add(4 * direction / mx.linalg.norm(direction))

    four, seven = jacobian.directions(["4", "7"], ("resid_post", 1))
    baseline = log_prob(mp.Scale(1.0))
    gained = log_prob(step(seven)) - baseline
    random = [log_prob(step(mx.random.normal(seven.shape))) - baseline for _ in range(10)]
    assert gained > 3
    assert gained > 2 * max(random)
    assert log_prob(step(seven) | mp.Project(seven)) - baseline < 0.3 * gained
    swaps = [mp.Swap(four, seven), *(mp.Swap(*mx.random.normal((2, 128))) for _ in range(5))]
    edits = [step(four), *(step(four) | swap for swap in swaps)]
    odds = [log_prob(edit) - log_prob(edit, "4") for edit in edits]
    turned = np.array(odds[1:]) - odds[0]
    assert turned[0] > 0.5
    assert turned[0] > 2 * np.abs(turned[1:]).max()
