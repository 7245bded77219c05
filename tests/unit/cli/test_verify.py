"""The command line: what it prints, and its exit status."""

import platform
import subprocess
import sys
import tomllib
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from io import StringIO
from pathlib import Path

import mlx.core as mx
import pytest

from mlx_patch import HookedModel, cli
from mlx_patch.architectures import Point, family_of
from mlx_patch.laws import LAWS, check_laws, forward_only
from mlx_patch.provenance import versions
from mlx_patch.sites import SITES
from mlx_patch.testing import ZooLine

TINY = Path(__file__).parents[3] / "examples" / "models" / "tiny_base"


@pytest.fixture
def lying(monkeypatch):
    """Models are loaded with a table that takes what the MLP reads for what it adds."""
    load = HookedModel.load

    def loaded(name, **kwargs):
        raw = load(name, **kwargs).model
        table = family_of(raw)
        return HookedModel(raw, family=replace(table, block={**table.block, "mlp_out": Point("mlp", "input")}))

    monkeypatch.setattr(HookedModel, "load", loaded)


@pytest.fixture
def checked(monkeypatch):
    """Law 5 is checked in place of all; the models and prompts that it was checked on."""
    check, seen = check_laws, []

    def check_one(model, prompt, laws):
        seen.append((model, prompt))
        return check(model, prompt, (forward_only,))

    monkeypatch.setattr("mlx_patch.cli._verify.check_laws", check_one)
    return seen


@pytest.fixture(scope="module")
def verified():
    """What the command prints of a model whose laws hold."""
    out, err = StringIO(), StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        assert cli.main(["verify", str(TINY)]) == 0
    assert not err.getvalue()
    return out.getvalue()


@pytest.mark.slow
def test_a_model_whose_laws_hold(verified):
    out = verified
    first_words = [line.split()[0] for line in out.splitlines() if line.strip()]
    assert [word for word in first_words if word in SITES] == list(SITES)
    assert "router_logits   none        its MLP has no experts" in out
    assert "resid_post      all         the stream that leaves a block" in out
    assert "  2  yes" in out
    assert "  8  yes" in out
    assert "broken" not in out
    assert out.endswith(" seconds\n")


@pytest.mark.slow
def test_a_prompt_is_taken(capsys, checked):
    assert cli.main(["verify", str(TINY), "--prompt", "the capital of this country is"]) == 0
    assert "  5  yes" in capsys.readouterr().out
    assert [prompt for _, prompt in checked] == ["the capital of this country is"]


@pytest.mark.slow
def test_an_adapter_is_taken(capsys, tmp_path, save_adapter, checked):
    save_adapter(HookedModel.load(TINY).model, tmp_path)
    assert cli.main(["verify", str(TINY), "--adapter-path", str(tmp_path)]) == 0
    [(model, _)] = checked
    assert any("lora_b" in module for module in model.model.modules())
    assert "  5  yes" in capsys.readouterr().out


def test_a_folder_without_an_adapter_is_one_line(capsys, tmp_path):
    assert cli.main(["verify", str(TINY), "--adapter-path", str(tmp_path)]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: `adapter_path` must be a folder with adapter_config.json and adapters.safetensors.")
    assert err.count("\n") == 1


@pytest.mark.slow
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
        "error: `path_or_hub_id` must be an existing folder, or a hub id. Got '/no/such/folder'. Check the path.\n"
    )


def test_a_prompt_that_is_too_short_is_one_line(capsys):
    assert cli.main(["verify", str(TINY), "--prompt", "a"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: `prompt` must have 4 tokens or more")
    assert err.count("\n") == 1


def test_a_report_begins_with_versions_and_machine(verified):
    software, hardware, *_ = verified.splitlines()
    for name in ("mlx", "mlx_lm", "mlx_patch"):
        assert f"{name} {versions()[name]}" in software
    assert f"python {platform.python_version()}" in software
    assert platform.machine() in hardware
    assert f"MLX on {mx.default_device()}" in hardware


def test_the_tolerance_stands_beside_each_deviation(verified):
    lines = verified.splitlines()
    heading = next(line for line in lines if line.startswith("law"))
    rows = [line for line in lines if line[:3].strip().isdigit()]
    assert len(rows) == len(LAWS)
    at = heading.index("tolerance")
    for row in rows:
        deviation, tolerance = float(row[heading.index("largest") :].split()[0]), float(row[at:].split()[0])
        assert deviation <= tolerance


def test_without_a_model_it_is_the_zoo_that_is_checked(monkeypatch, capsys):
    checked = []
    monkeypatch.setattr("mlx_patch.cli._verify.check_zoo", lambda names, *rest: checked.append((names, rest[0])) or ())
    assert cli.main(["verify"]) == 0
    assert cli.main(["verify", "--zoo", "--precision", "4bit"]) == 0
    assert cli.main(["verify", "--zoo", "llama", "qwen3"]) == 0
    assert [(tuple(names), precision) for names, precision in checked] == [
        ((), "float32"),
        ((), "4bit"),
        (("llama", "qwen3"), "float32"),
    ]
    assert "0 models: 0 green, 0 red" in capsys.readouterr().out


def test_a_zoo_with_a_red_model_is_status_1(monkeypatch, capsys):
    monkeypatch.setattr(
        "mlx_patch.cli._verify.check_zoo", lambda *_: (ZooLine("llama", "red", 9, says="1 of 9 checks"),)
    )
    assert cli.main(["verify"]) == 1
    assert "  red     llama: 1 of 9 checks" in capsys.readouterr().out


def test_a_name_that_is_not_in_the_zoo_is_one_line(capsys):
    assert cli.main(["verify", "--zoo", "lama"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: `names` must be models of the zoo. Got 'lama'.")
    assert "llama" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([str(TINY), "--zoo", "llama"], "A model and --zoo exclude each other. Got both. Leave one of them out."),
        (["--prompt", "the capital of"], "`--adapter-path` and `--prompt` need a model."),
        (["--precision", "float61"], "Did you mean float16 or bfloat16"),
    ],
)
def test_options_that_do_not_go_together_are_refused(arguments, message, capsys):
    assert cli.main(["verify", *arguments]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1


def test_the_console_script_is_this_command():
    project = tomllib.loads((TINY.parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["scripts"] == {"mlx_patch": "mlx_patch.cli:main"}
    assert cli.main.__module__.startswith("mlx_patch.cli.")


def test_it_is_a_module_that_runs():
    done = subprocess.run(
        [sys.executable, "-m", "mlx_patch", "verify", "/no/such/folder"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
