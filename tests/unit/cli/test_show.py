"""`show` opens what Python and the other commands write, and nothing else."""

import json
from pathlib import Path

import numpy as np
import pytest

import mlx_patch as mp
from mlx_patch.laws import check_laws, forward_only
from mlx_patch.testing import ZooLine

MODELS = Path(__file__).parents[3] / "examples" / "models"
TINY = str(MODELS / "tiny_instruct_ext")
CLEAN, CORRUPTED = "Mars (planet 4, diameter", "Mars (planet 7, diameter"
ANSWERS = mp.metrics.LogitDiff("4", "7")


@pytest.fixture
def swept(model):
    """A sweep, with numbers that are missing, infinite and of groups."""
    _, cache = model.run_with_cache(CLEAN, sites="resid_post")
    over = ("layer", "pos")
    return mp.sweep(model, CORRUPTED, mp.Replace(cache), "resid_post", over, [ANSWERS, "entropy"], progress=False)


def test_a_result_is_shown_with_its_strongest_cells(command, swept, tmp_path):
    swept.save(tmp_path / "a.npz")
    swept.to_json(tmp_path / "a.json")
    status, out, err = command("show", tmp_path / "a.npz")
    assert (status, err) == (0, "")
    assert out.startswith(f"{swept!r}\n")
    assert all(repr(peak) in out for name in swept.metrics for peak in swept.peaks(5, name))
    assert command("show", tmp_path / "a.json") == (0, out, "")


def test_what_json_says_is_read_back_as_it_was(command, swept, tmp_path):
    values = swept.values.copy()
    values[0, 0, 0], values[1, 2, 1], values[5, 5, 0] = np.nan, np.inf, -np.inf
    coords = {**swept.coords, "layer": (0, 1, 2, 3, 4, (5, 6))}
    strange = mp.SweepResult(values, swept.axes, coords, swept.baseline, swept.provenance)
    estimate = mp.Estimate(values, swept.axes, coords, swept.baseline, swept.provenance, exact=values[..., 0, 0] > 0)
    for result in (strange, estimate):
        result.to_json(tmp_path / "a.json")
        status, out, err = command("show", tmp_path / "a.json", "--json", "-")
        assert status == 0, err
        assert out == f"{result.to_json()}\n"
        assert command("show", tmp_path / "a.json", "--html", tmp_path / "a.html")[0] == 0
        assert (tmp_path / "a.html").read_text(encoding="utf-8") == result.to_html()


@pytest.mark.slow
def test_both_directions_are_shown(command, model, tmp_path):
    pair = mp.sweep_pair(model, CLEAN, CORRUPTED, "resid_post", metric=ANSWERS, progress=False)
    pair.save(tmp_path / "pair.npz")
    status, out, err = command("show", tmp_path / "pair.npz", "--plot", tmp_path / "pair.svg")
    assert status == 0, err
    assert command("show", tmp_path / "pair.npz", "--html", tmp_path / "pair.html")[0] == 0
    assert (tmp_path / "pair.html").read_text(encoding="utf-8") == pair.to_html()
    assert out == f"{pair!r}\n{pair.denoising.metrics[0]}: {pair.summary()}\n"
    assert "<svg" in (tmp_path / "pair.svg").read_text(encoding="utf-8")
    both = {name: json.loads(getattr(pair, name).to_json()) for name in ("denoising", "noising")}
    (tmp_path / "both.json").write_text(json.dumps(both), encoding="utf-8")
    status, out, _ = command("show", tmp_path / "both.json")
    assert status == 0
    assert repr(pair.noising) in out
    assert command("show", tmp_path / "pair.npz", "--json", "-")[0] == 2


@pytest.mark.slow
def test_a_graph_is_shown_with_its_strongest_edges(command, model, tmp_path):
    _, cache = model.run_with_cache(CLEAN, sites=mp.circuits.writer_sites(model))
    edges = mp.circuits.edges(model, CORRUPTED, cache, ANSWERS)
    edges.to_json(tmp_path / "graph.json", edges.top(7))
    files = ("--html", tmp_path / "graph.html", "--plot", tmp_path / "graph.svg")
    status, out, err = command("show", tmp_path / "graph.json", *files)
    assert status == 0, err
    read, circuit = mp.circuits.EdgeScores.from_json(tmp_path / "graph.json")
    assert f"in the graph: {circuit.n_edges} edges" in out
    strongest = np.abs(np.nan_to_num(read.mean())).max()
    first = out.splitlines()[3].split()[0]
    assert abs(float(first)) == pytest.approx(strongest, rel=1e-3)
    assert "<svg" in (tmp_path / "graph.html").read_text(encoding="utf-8")


def test_caches_stores_and_pairs_are_shown(command, model, tmp_path):
    _, cache = model.run_with_cache(CLEAN, sites=("resid_post", "z"), pos=[2, -1])
    cache.save(tmp_path / "a.safetensors")
    status, out, _ = command("show", tmp_path / "a.safetensors")
    assert status == 0
    assert out.startswith(f"{cache!r}\nmodel: {TINY}\n")
    assert "blocks.3.attn.hook_z                1 2 4 32                float16" in out
    store = mp.ActivationStore.capture(model, [CLEAN, CORRUPTED], tmp_path / "store", sites="resid_post")
    status, out, _ = command("show", tmp_path / "store")
    assert status == 0
    assert out.startswith(repr(store))
    line = {"clean": CLEAN, "corrupted": CORRUPTED, "right": "4", "wrong": "7"}
    (tmp_path / "pairs.jsonl").write_text(json.dumps(line), encoding="utf-8")
    assert command("show", tmp_path / "pairs.jsonl")[1] == (
        f"PromptPairs(pairs: 1 pairs)\n  {CLEAN!r} -> '4', {CORRUPTED!r} -> '7'\n"
    )


COMMANDS = [
    (("lens", TINY, "--prompt", CLEAN, "--right", "4"), lambda out: out),
    (("lens", TINY, "--prompt", CLEAN, "--right", "4", "--by", "head"), lambda out: out),
    (("generate", TINY, "--prompt", CLEAN, "--max-tokens", "3"), lambda out: f"prompt: {CLEAN!r}\n{out}"),
]


@pytest.mark.parametrize(("ask", "expected"), COMMANDS, ids=lambda value: str(value)[:20])
def test_the_json_of_a_command_is_shown_as_it_printed(command, tmp_path, ask, expected):
    _, out, _ = command(*ask, "--json", tmp_path / "a.json")
    assert command("show", tmp_path / "a.json") == (0, expected(out), "")


def test_sites_and_reports_are_shown(command, model, monkeypatch, tmp_path):
    report = check_laws(model, laws=(forward_only,))
    monkeypatch.setattr("mlx_patch.cli._verify.check_laws", lambda *_: report)
    command("verify", TINY, "--json", tmp_path / "report.json", "--quiet")
    assert command("show", tmp_path / "report.json") == (0, f"{report}\n", "")
    lines = (ZooLine("llama", "green", 9), ZooLine("olmo", "red", 9, says="1 of 9 checks"))
    monkeypatch.setattr("mlx_patch.cli._verify.check_zoo", lambda *_: lines)
    assert command("verify", "--json", tmp_path / "zoo.json", "--quiet") == (1, "", "")
    assert "  red     olmo: 1 of 9 checks" in command("show", tmp_path / "zoo.json")[1]
    command("sites", TINY, "--json", tmp_path / "sites.json")
    status, out, _ = command("show", tmp_path / "sites.json")
    assert status == 0
    assert "blocks.3.hook_mlp_out" in out
    assert "its MLP has no experts" in out


STUDY = {
    "pair": "tiny",
    "display": "Tiny",
    "n_layers": 2,
    "n_tokens": 9,
    "baselines": {"instruct": {"tool_call_prob": 0.75}, "base": {"tool_call_prob": 0.25}},
    "instruct_to_base": {"0": {"effect": 0.125}, "1": {"effect": 0.5}},
    "base_to_instruct": {"0": {"effect": -0.0625}, "1": {"effect": -0.5}},
    "summary": {"i2b_peak_layer": 1, "i2b_peak_effect": 0.5, "b2i_peak_layer": 1, "b2i_peak_effect": -0.5},
}


def test_files_of_the_study_are_shown(command, tmp_path):
    file = tmp_path / "patching_tiny.json"
    file.write_text(json.dumps(STUDY), encoding="utf-8")
    status, out, _ = command("show", file)
    assert status == 0
    assert "instruct by itself: probability of the call 0.7500" in out
    assert "instruct to base: largest change +0.5 at layer 1" in out
    assert "layer   0     -0.0625" in out
    pairs = {"tiny": {"display": "Tiny", "n_layers": 2, **STUDY["summary"]}}
    file.write_text(json.dumps({"n_pairs": 1, "pairs": pairs}), encoding="utf-8")
    assert "base to instruct: largest change -0.5 at layer 1" in command("show", file)[1]


OTHERS = [
    ("a.txt", b"text", ""),
    ("a.json", b"text", "which cannot be read"),
    ("a.json", b"[3]", "which is of another kind"),
    ("a.json", b"{}", "which is of another kind"),
    ("a.json", b'{"format": "mlx_patch.SweepResult.json/1"}', "which is inconsistent: its axes are no names"),
    ("a.json", b'{"format": "mlx_patch.LogitLens.json/1"}', "which is inconsistent: KeyError"),
    ("a.json", b'{"cfg": 1, "nodes": 2, "edges": 3}', "must be a graph as EAP-IG writes it"),
    ("a.json", b'{"n_pairs": 1, "pairs": {"a": 3}}', "which is inconsistent"),
    ("a.json", b"[" * 100_000, "which cannot be read"),
    ("a.npz", b"text", "which cannot be read"),
    ("a.safetensors", b"text", "ActivationCache.save"),
    ("a.jsonl", b"text", "line 1"),
]


@pytest.mark.parametrize(("name", "content", "message"), OTHERS, ids=lambda value: str(value)[:40])
def test_anything_else_is_one_line(command, tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    status, out, err = command("show", tmp_path / name)
    assert (status, out) == (2, "")
    assert err.count("\n") == 1
    assert err.startswith("error: ")
    assert message in err


def test_what_is_not_there_and_what_has_no_figure_is_one_line(command, swept, tmp_path):
    swept.save(tmp_path / "a.npz")
    (tmp_path / "empty").mkdir()
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    (tmp_path / "a.npz").rename(tmp_path / "a.json.npz")
    damaged = (tmp_path / "a.json.npz").read_bytes()[:-900]
    (tmp_path / "damaged.npz").write_bytes(damaged)
    for name in ("nothing.npz", "empty", "other.npz", "damaged.npz"):
        status, out, err = command("show", tmp_path / name)
        assert (status, out, err.count("\n")) == (2, "", 1)
    line = json.dumps({"clean": CLEAN, "corrupted": CORRUPTED, "right": "4", "wrong": "7"})
    (tmp_path / "pairs.jsonl").write_text(line, encoding="utf-8")
    for option in ("--json", "--plot", "--html"):
        status, out, err = command("show", tmp_path / "pairs.jsonl", option, tmp_path / "a.svg")
        assert (status, out) == (2, "")
        assert f"`{option}` must be left out for this file" in err
