"""The commands `sweep`, `paths` and `attribute` write what Python writes."""

import json
from io import StringIO
from pathlib import Path

import numpy as np
import pytest

import mlx_patch as mp

TINY = str(Path(__file__).parents[3] / "examples" / "models" / "tiny_instruct_ext")
CLEAN, CORRUPTED = "Mars (planet 4, diameter", "Mars (planet 7, diameter"
PROMPT = ("--prompt", CORRUPTED)
SOURCE = ("--source", CLEAN)
ANSWERS = ("--right", "4", "--wrong", "7")
ENTROPY = ("--metric", "entropy")


def numbers_of(text):
    """JSON without its time."""
    return {**json.loads(text), "seconds": None}


@pytest.fixture
def cache(model):
    """The stream of the clean prompt."""
    return model.run_with_cache(CLEAN, sites="resid_post", logits_at=-1)[1]


@pytest.fixture
def heads(model):
    """The heads of the clean prompt."""
    return model.run_with_cache(CLEAN, sites="z", logits_at=-1)[1]


LANGUAGE = [
    (["--layers", "1-2,3+4", "--intervention", "zero"], {"layers": [1, 2, (3, 4)]}, mp.Ablate("zero")),
    (["--layers=-2,-1", "--intervention", "scale=2"], {"layers": [-2, -1]}, mp.Scale(2)),
    (["--layers=-3--1", "--intervention", "scale(0.5)"], {"layers": [-3, -2, -1]}, mp.Scale(0.5)),
    (
        [
            "--over",
            "pos",
            "--layers",
            "2",
            "--positions",
            "text('Mars').final, last - 1, 0-1",
            "--intervention",
            "zero",
        ],
        {"over": ("pos",), "layers": [2], "positions": [mp.pos.text("Mars").final, mp.pos.last - 1, 0, 1]},
        mp.Ablate("zero"),
    ),
    (
        ["--over", "layer,head", "--heads", "0,2+3", "--intervention", "Ablate('noise', scale=3.0)"],
        {"over": ("layer", "head"), "heads": [0, (2, 3)], "at": "z"},
        mp.Ablate("noise", scale=3.0),
    ),
    (["--intervention", "zero | scale=2"], None, "`--intervention` must be an intervention"),
    (["--intervention", "scale(2) | Clamp(-1, 1)"], {}, mp.Scale(2) | mp.Clamp(-1, 1)),
    (
        ["--over", "layer,seed", "--seeds", "0-2", "--intervention", "noise=3"],
        {"over": ("layer", "seed"), "seeds": [0, 1, 2]},
        mp.Ablate("noise", scale=3.0),
    ),
    (
        ["--over", "neuron", "--layers", "1", "--neurons", "5,9", "--intervention", "zero"],
        {"over": ("neuron",), "layers": [1], "neurons": [5, 9]},
        mp.Ablate("zero"),
    ),
    (
        ["--intervention", "zero", "--edit", "mp.Ablate('zero').at('mlp_out', layer=4-5, pos=last)"],
        {"edits": [mp.Ablate("zero").at("mlp_out", layer=[4, 5], pos=mp.pos.last)]},
        mp.Ablate("zero"),
    ),
]


@pytest.mark.parametrize(("options", "choices", "expected"), LANGUAGE, ids=lambda value: str(value)[:40])
def test_cells_are_said_as_in_python(command, model, options, choices, expected):
    at = "z" if "--heads" in options else "resid_post"
    status, out, err = command("sweep", TINY, *PROMPT, "--at", at, *ENTROPY, *options, "--json", "-")
    if choices is None:
        assert status == 2
        assert expected in err
        return
    assert status == 0, err
    ask = {"at": at, "metric": "entropy", "progress": False, **choices}
    assert numbers_of(out) == numbers_of(mp.sweep(model, CORRUPTED, expected, **ask).to_json())


METRICS = [
    (["--metric", "logit_diff('4', '7')"], lambda _: mp.metrics.LogitDiff("4", "7")),
    (["--metric", "mp.metrics.LogitDiff('4', '7', pos=-2)"], lambda _: mp.metrics.LogitDiff("4", "7", pos=-2)),
    (["--right", "4"], lambda _: mp.metrics.LogProb("4")),
    (["--metric", "entropy", "--metric", "rank('4')"], lambda _: ["entropy", mp.metrics.Rank("4")]),
    (["--metric", "kl"], lambda model: mp.metrics.KL(model.run(CORRUPTED, logits_at=-1))),
    (["--metric", "kl('source')"], lambda model: mp.metrics.KL(model.run(CLEAN, logits_at=-1))),
    (["--metric", "sequence_log_prob(' 6779 km')"], lambda _: mp.metrics.SequenceLogProb(" 6779 km")),
]


@pytest.mark.parametrize(("options", "metric"), METRICS, ids=[str(options)[:40] for options, _ in METRICS])
def test_metrics_are_said_as_in_python(command, model, cache, options, metric):
    status, out, err = command(
        "sweep", TINY, *PROMPT, *SOURCE, "--at", "resid_post", "--positions", "last", *options, "--json", "-"
    )
    assert status == 0, err
    expected = mp.sweep(
        model, CORRUPTED, mp.Replace(cache), "resid_post", positions=[mp.pos.last], metric=metric(model), progress=False
    )
    assert numbers_of(out) == numbers_of(expected.to_json())


@pytest.mark.slow
def test_every_file_is_what_python_writes(command, model, cache, tmp_path):
    files = {name: tmp_path / f"cli.{name}" for name in ("json", "npz", "html", "png")}
    written = ("--json", files["json"], "--save", files["npz"], "--html", files["html"], "--plot", files["png"])
    status, out, err = command(
        "sweep", TINY, *PROMPT, *SOURCE, "--at", "resid_post", "--over", "layer,pos", *ANSWERS, *written
    )
    assert (status, err) == (0, "")
    ask = {"over": ("layer", "pos"), "metric": mp.metrics.LogitDiff("4", "7"), "progress": False}
    result = mp.sweep(model, CORRUPTED, mp.Replace(cache), "resid_post", **ask)
    result.save(tmp_path / "python.npz")
    assert files["npz"].read_bytes() == (tmp_path / "python.npz").read_bytes()
    assert files["html"].read_text(encoding="utf-8") == result.to_html()
    assert numbers_of(files["json"].read_text(encoding="utf-8")) == numbers_of(result.to_json())
    assert files["png"].read_bytes().startswith(b"\x89PNG")
    assert out.startswith(repr(result))
    assert f"{result.peak().effect:+.4g}  {result.peak()}" in out


def test_quiet_prints_nothing(command, tmp_path):
    ask = ("sweep", TINY, *PROMPT, "--at", "z", "--intervention", "zero", *ENTROPY, "--layers", "1", "--quiet")
    assert command(*ask, "--json", tmp_path / "a.json") == (0, "", "")
    assert (tmp_path / "a.json").exists()


def test_a_plan_runs_nothing(command, model, cache, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("a plan runs nothing")

    planned = mp.plan(
        model, CORRUPTED, mp.Replace(cache), "resid_post", ("layer", "pos"), mp.metrics.LogitDiff("4", "7")
    )
    for name in ("run", "run_with_cache", "run_each", "run_each_with_cache"):
        monkeypatch.setattr(mp.HookedModel, name, refuse)
    ask = ("sweep", TINY, *PROMPT, *SOURCE, "--at", "resid_post", "--over", "layer,pos", *ANSWERS, "--plan")
    assert command(*ask) == (0, f"{planned}\n", "")
    status, out, _ = command(*ask, "--json", "-")
    assert json.loads(out) == json.loads(json.dumps(planned.as_dict()))
    assert command(*ask[:-5], "--metric", "kl('source')", "--plan")[0] == 0
    assert status == 0


@pytest.mark.slow
def test_two_directions_of_pairs(command, model, tmp_path):
    pairs = mp.PromptPairs(
        [
            mp.PromptPair(CLEAN, CORRUPTED, "4", "7"),
            mp.PromptPair("Earth is (planet 3, diameter", "Earth is (planet 5, diameter", "3", "5"),
        ]
    )
    file = tmp_path / "pairs.jsonl"
    rows = [
        {"clean": pair.clean, "corrupted": pair.corrupted, "right": pair.answer, "wrong": pair.foil} for pair in pairs
    ]
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    ask = ("sweep", TINY, "--pairs", file, "--at", "resid_post", "--positions", "last", "--normalised", "--json", "-")
    for options, prompts, sources in (
        ((), pairs.corrupted, pairs.clean),
        (("--noising",), pairs.clean, pairs.corrupted),
    ):
        status, out, err = command(*ask, *options)
        assert status == 0, err
        _, caches = model.run_each_with_cache(sources, sites=("resid_post",), logits_at=-1)
        result = mp.sweep(
            model,
            prompts,
            list(map(mp.Replace, caches)),
            "resid_post",
            positions=[mp.pos.last],
            metric=pairs.metric,
            progress=False,
        )
        expected = result.normalised(clean=mp.measure(model, sources, pairs.metric), corrupted=result)
        assert numbers_of(out) == numbers_of(expected.to_json())
        assert np.array(json.loads(out)["values"])[-1] == pytest.approx(1)


def test_standing_edits_take_the_source(command, model):
    _, cache = model.run_with_cache(CLEAN, sites=("z", "mlp_out"), logits_at=-1)
    ask = ("sweep", TINY, *PROMPT, *SOURCE, "--at", "z", *ENTROPY, "--json", "-")
    edits = ("--edit", "Replace().at('z', layer=1)", "--edit", "Interpolate(source, 0.5).at('mlp_out', layer=0)")
    status, out, err = command(*ask, *edits)
    assert status == 0, err
    standing = [mp.Replace(cache).at("z", layer=1), mp.Interpolate(cache, 0.5).at("mlp_out", layer=0)]
    expected = mp.sweep(model, CORRUPTED, mp.Replace(cache), "z", metric="entropy", edits=standing, progress=False)
    assert numbers_of(out) == numbers_of(expected.to_json())


def test_prompts_of_unequal_length_are_aligned(command, model):
    longer = "Jupiter (planet 4, diameter"
    ask = ("sweep", TINY, *PROMPT, "--source", longer, "--at", "resid_post", "--over", "layer,pos", *ANSWERS)
    status, _, err = command(*ask)
    assert status == 2
    assert "--align" in err
    status, out, err = command(*ask, "--align", "--json", "-")
    assert status == 0, err
    _, cache = model.run_with_cache(longer, sites=("resid_post",))
    expected = mp.sweep(
        model,
        CORRUPTED,
        mp.Replace(cache),
        "resid_post",
        ("layer", "pos"),
        mp.metrics.LogitDiff("4", "7"),
        positions=mp.align(longer, CORRUPTED, model.tokenizer),
        progress=False,
    )
    assert json.loads(out)["values"] == json.loads(expected.to_json())["values"]


@pytest.mark.slow
def test_prompts_come_from_files_and_from_stdin(command, tmp_path, monkeypatch):
    text, chats, lines = tmp_path / "prompt.txt", tmp_path / "chats.jsonl", tmp_path / "prompts.jsonl"
    text.write_text(f"{CORRUPTED}\n", encoding="utf-8")
    chats.write_text(json.dumps([{"role": "user", "content": "How far is Mars?"}]), encoding="utf-8")
    lines.write_text(f"{json.dumps(CORRUPTED)}\n\n{json.dumps(CLEAN)}\n", encoding="utf-8")
    ask = ("sweep", TINY, "--at", "z", "--intervention", "zero", *ENTROPY, "--layers", "1", "--json", "-")

    def prompts_of(*options):
        status, out, err = command(*ask, *options)
        assert status == 0, err
        return json.loads(out)["provenance"]["tokens"]

    from_command = prompts_of(*PROMPT)
    assert prompts_of("--prompt-file", text) == from_command
    for options in (("--prompt", "-"), ("--prompt-file", "-")):
        monkeypatch.setattr("sys.stdin", StringIO(f"{CORRUPTED}\n"))
        assert prompts_of(*options) == from_command
    assert prompts_of("--prompt-file", lines) == prompts_of("--prompt", CORRUPTED, "--prompt", CLEAN)
    assert prompts_of("--prompt-file", chats) == prompts_of("--chat", "--prompt", "How far is Mars?")
    assert prompts_of("--prompt", "How far is Mars?") != prompts_of("--chat", "--prompt", "How far is Mars?")


def test_an_estimate_is_that_of_python(command, model, heads, tmp_path):
    how = ("--confirm", "3", "--sample", "2", "--seed", "5", "--method", "atp*")
    ask = ("attribute", TINY, *PROMPT, *SOURCE, "--at", "z", "--over", "layer,head", *ANSWERS, *how)
    status, out, err = command(*ask, "--json", tmp_path / "a.json", "--save", tmp_path / "a.npz")
    assert status == 0, err
    expected = mp.attribute(
        model,
        CORRUPTED,
        mp.Replace(heads),
        "z",
        ("layer", "head"),
        mp.metrics.LogitDiff("4", "7"),
        method="atp*",
        confirm=3,
        sample=2,
        seed=5,
        progress=False,
    )
    expected.save(tmp_path / "python.npz")
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "python.npz").read_bytes()
    assert numbers_of((tmp_path / "a.json").read_text(encoding="utf-8")) == numbers_of(expected.to_json())
    assert f"agreement: {expected.agreement}" in out


def test_paths_are_those_of_python(command, model, heads):
    ask = ("paths", TINY, *PROMPT, *SOURCE, "--at", "z", *ANSWERS, "--json", "-", "--layers", "0-3")
    receivers = [mp.Receiver("q", layer=5, head=1), (mp.Receiver("mlp", layer=5), mp.Receiver("logits"))]
    more = {"layers": [0, 1, 2, 3], "metric": mp.metrics.LogitDiff("4", "7"), "progress": False}
    status, out, err = command(*ask, "--over", "head,via", "--via", "q.5.1, mlp.5&logits", "--freeze", "attention")
    assert status == 0, err
    over, via = ("head", "via"), receivers
    result = mp.sweep(model, CORRUPTED, mp.Replace(heads), "z", over, via=via, freeze="attention", **more)
    assert numbers_of(out) == numbers_of(result.to_json())
    status, out, err = command(*ask, "--over", "layer,head")
    assert status == 0, err
    direct = mp.sweep(model, CORRUPTED, mp.Replace(heads), "z", ("layer", "head"), via=mp.Receiver("logits"), **more)
    assert json.loads(out)["values"] == json.loads(direct.to_json())["values"]
