"""The commands `sites`, `lens` and `generate` write what Python says, and help and versions are there."""

import json
from pathlib import Path

import numpy as np
import pytest

import mlx_patch as mp
from mlx_patch import cli

TINY = str(Path(__file__).parents[3] / "examples" / "models" / "tiny_instruct_ext")
PROMPT = "Mars (planet 7, diameter"
QUESTION = 'You have a tool: <tool_call>{"tool": "read_notes"}</tool_call>. Please list the items I gave you.'


def as_json(value):
    """A value after a round trip."""
    return json.loads(json.dumps(value))


def test_sites_are_those_of_the_model(command, model):
    status, out, _ = command("sites", TINY, "--json", "-")
    assert status == 0
    fields = json.loads(out)
    assert [row["site"] for row in fields["sites"]] == list(map(str, model.sites))
    assert all(row["axes"] == list(site.axes) for row, site in zip(fields["sites"], model.sites, strict=True))
    assert {row["name"] for row in fields["sites"]} | set(fields["absent"]) == set(mp.SITES)
    assert fields["absent"]["router_logits"] == model.layout.why_not("router_logits")
    status, out, _ = command("sites", TINY)
    assert "router_logits   none        its MLP has no experts" in out
    assert "resid_post      all         the stream that leaves a block" in out


def test_a_lens_is_that_of_python(command, model, tmp_path):
    page, figure = tmp_path / "lens.html", tmp_path / "lens.svg"
    ask = ("lens", TINY, "--prompt", PROMPT, "--top", "3", "--right", "7", "--positions", "text('planet'),last")
    edit = ("--edit", "Ablate('zero').at('z', layer=1)")
    status, out, err = command(*ask, *edit, "--json", "-", "--html", page, "--plot", figure)
    assert status == 0, err
    positions = mp.pos.text("planet") | mp.pos.last
    lens = mp.lens.logit_lens(model, PROMPT, pos=positions, edits=[mp.Ablate("zero").at("z", layer=1)])
    fields, top = json.loads(out), lens.top(3)
    assert fields["sites"] == list(map(str, lens.sites))
    assert fields["positions"] == list(lens.positions)
    assert fields["ids"] == top.ids.tolist()
    assert fields["texts"] == top.texts
    for name, numbers in {"probs": top.probs, "token_prob": lens.prob("7"), "token_rank": lens.rank("7")}.items():
        np.testing.assert_array_equal(np.array(fields[name], np.float32), numbers)
    assert page.read_text(encoding="utf-8") == lens.to_html(k=3)
    assert "<svg" in figure.read_text(encoding="utf-8")


def test_a_lens_fits_the_terminal(command, model, monkeypatch):
    monkeypatch.setenv("COLUMNS", "50")
    _, out, _ = command("lens", TINY, "--prompt", PROMPT)
    *rows, tokens, note = out.splitlines()
    assert len(rows) == model.n_layers
    assert all(len(line) <= 50 for line in (*rows, tokens))
    assert tokens.split() == ["7", ",", "␣diameter"] or tokens.split()[-1] == "␣diameter"
    assert note.startswith("The first ")


@pytest.mark.parametrize("kind", ["part", "head", "neuron", "source"])
def test_a_logit_is_taken_apart_as_in_python(command, model, kind, tmp_path):
    ask = ("lens", TINY, "--prompt", PROMPT, "--right", "7", "--wrong", "4", "--by", kind, "--positions", "9")
    expected = mp.lens.direct_logits(model, PROMPT, "7", "4", kind, pos=9)
    status, out, err = command(*ask)
    assert (status, out, err) == (0, f"{expected}\n", "")
    fields = json.loads(command(*ask, "--json", "-")[1])
    np.testing.assert_array_equal(np.array(fields["values"], np.float32), expected.values)
    assert fields["axes"] == list(expected.axes)
    assert fields["coords"] == as_json(expected.coords)
    assert fields["remainder"].keys() == expected.remainder.keys()
    assert command(*ask, "--html", str(tmp_path / "a.html"), "--quiet") == (0, "", "")
    assert (tmp_path / "a.html").read_text(encoding="utf-8") == expected.to_html()


@pytest.mark.slow
def test_text_is_that_of_generate(command, model):
    chat = [{"role": "user", "content": QUESTION}]
    ask = ("generate", TINY, "--chat", "--prompt", QUESTION, "--max-tokens", "12")
    assert command(*ask)[:2] == (0, f"{model.generate(chat, max_tokens=12)}\n")
    edits = [mp.Ablate("zero").at("mlp_out", layer=[4, 5]).during(mp.steps.prompt)]
    status, out, err = command(
        *ask, "--json", "-", "--edit", "Ablate('zero').at('mlp_out', layer=4-5).during(steps.prompt)"
    )
    assert status == 0, err
    fields = json.loads(out)
    assert fields["text"] == model.generate(chat, edits, max_tokens=12)
    assert fields["edits"] == list(map(repr, edits))
    assert fields["prompt"] == chat


def test_an_edit_takes_its_source(command, model):
    source, prompt = "Mars (planet 4, diameter", PROMPT
    ask = ("generate", TINY, "--prompt", prompt, "--source", source, "--max-tokens", "5")
    status, out, err = command(*ask, "--edit", "Replace(source).at('resid_post', layer=3, pos=-1)")
    assert status == 0, err
    _, cache = model.run_with_cache(source, sites=("resid_post",))
    edit = mp.Replace(cache).at("resid_post", layer=3, pos=-1)
    assert out == f"{model.generate(prompt, [edit], max_tokens=5)}\n"


VERBS = ("verify", "sites", "sweep", "attribute", "lens", "paths", "generate", "show")


@pytest.mark.parametrize("verb", VERBS)
def test_help_has_an_example(verb, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main([verb, "--help"])
    out = capsys.readouterr().out
    assert stop.value.code == 0
    assert f"example:\n  mlx_patch {verb} " in out
    assert "--json" in out
    assert "--quiet" in out


def test_help_lists_every_command_and_the_version_is_one_line(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["--help"])
    assert stop.value.code == 0
    out = capsys.readouterr().out
    assert all(f"\n    {verb}" in out for verb in VERBS)
    with pytest.raises(SystemExit) as stop:
        cli.main(["--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out == f"mlx_patch {mp.__version__}\n"


def test_ctrl_c_is_one_line(command, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(mp.HookedModel, "load", interrupt)
    assert command("sites", TINY) == (130, "", "error: interrupted\n")


def test_a_sweep_that_was_stopped_writes_what_is_done(command, monkeypatch, tmp_path):
    sweep = mp.sweep

    def stopped(*arguments, **keywords):
        def stop(done, total):
            if done >= 20:  # some passes of 6 are done
                raise KeyboardInterrupt

        return sweep(*arguments, **{**keywords, "progress": stop})

    monkeypatch.setattr("mlx_patch.cli._sweep.sweep", stopped)
    ask = ("sweep", TINY, "--prompt", PROMPT, "--at", "z", "--over", "pos,layer", "--intervention", "zero")
    status, out, err = command(*ask, "--metric", "entropy", "--save", tmp_path / "a.npz")
    assert (status, err) == (130, "error: interrupted\n")
    assert "cells are missing" in out
    result = mp.SweepResult.load(tmp_path / "a.npz")
    assert 0 < result.missing < result.values.size
