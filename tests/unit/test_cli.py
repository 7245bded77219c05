"""The command line: what it prints, and its exit status."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from mlx_patch import HookedModel, cli
from mlx_patch.architectures import Point, family_of
from mlx_patch.sites import SITES

TINY = Path(__file__).parents[2] / "examples" / "models" / "tiny_base"


@pytest.fixture
def lying(monkeypatch):
    """Models are loaded with a table that takes what the MLP reads for what it adds."""
    load = HookedModel.load

    def loaded(name, **kwargs):
        raw = load(name, **kwargs).model
        table = family_of(raw)
        return HookedModel(raw, family=replace(table, block={**table.block, "mlp_out": Point("mlp", "input")}))

    monkeypatch.setattr(cli.HookedModel, "load", loaded)


def test_a_model_whose_laws_hold(capsys):
    assert cli.main(["verify", str(TINY)]) == 0
    out, err = capsys.readouterr()
    assert not err
    first_words = [line.split()[0] for line in out.splitlines() if line.strip()]
    assert [word for word in first_words if word in SITES] == list(SITES)
    assert "router_logits   none        its MLP has no experts" in out
    assert "resid_post      all         the stream that leaves a block" in out
    assert "  2  yes" in out
    assert "  8  yes" in out
    assert "broken" not in out
    assert out.endswith(" seconds\n")


def test_a_prompt_is_taken(capsys):
    assert cli.main(["verify", str(TINY), "--prompt", "the capital of this country is"]) == 0
    assert "  5  yes" in capsys.readouterr().out


def test_an_adapter_is_taken(capsys, tmp_path, save_adapter, monkeypatch):
    save_adapter(HookedModel.load(TINY).model, tmp_path)
    check, seen = cli.check_laws, []
    monkeypatch.setattr(cli, "check_laws", lambda model, *rest: seen.append(model.model) or check(model, *rest))
    assert cli.main(["verify", str(TINY), "--adapter-path", str(tmp_path)]) == 0
    assert any("lora_b" in module for module in seen[0].modules())
    assert "  9  yes" in capsys.readouterr().out


def test_a_folder_without_an_adapter_is_one_line(capsys, tmp_path):
    assert cli.main(["verify", str(TINY), "--adapter-path", str(tmp_path)]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: `adapter_path` must be a folder with adapter_config.json and adapters.safetensors.")
    assert err.count("\n") == 1


def test_a_law_that_does_not_hold(lying, capsys):
    assert cli.main(["verify", str(TINY)]) == 1
    out = capsys.readouterr().out
    assert "  2  NO" in out
    assert "broken: law 2" in out


def test_a_folder_that_is_not_there(capsys):
    assert cli.main(["verify", "/no/such/folder"]) == 2
    out, err = capsys.readouterr()
    assert not out
    assert err == (
        "error: `path_or_hub_id` must be a folder that is there, or a hub id. Got '/no/such/folder'. Check the path.\n"
    )


def test_a_prompt_that_is_too_short_is_one_line(capsys):
    assert cli.main(["verify", str(TINY), "--prompt", "a"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: `prompt` must have 4 tokens or more")
    assert err.count("\n") == 1


def test_it_is_a_module_that_runs():
    done = subprocess.run(
        [sys.executable, "-m", "mlx_patch", "verify", "/no/such/folder"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
