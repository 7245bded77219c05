"""The commands that docs/command-line.md shows run, in order, in one folder."""

import json
import re
import shlex
from io import StringIO
from pathlib import Path

import pytest

import mlx_patch as mp

ROOT = Path(__file__).parents[3]
BLOCK = re.compile(r"^```bash\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL)


def commands_of(page):
    """The command lines of a page, with continued lines joined."""
    for block in BLOCK.findall(page.read_text(encoding="utf-8")):
        yield from block.replace("\\\n", " ").splitlines()


@pytest.mark.slow
def test_the_page_s_commands_run(command, monkeypatch, tmp_path):
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    lines = list(commands_of(ROOT / "docs" / "command-line.md"))
    for line in lines:
        words = shlex.split(line)
        if words[0] == "echo":
            monkeypatch.setattr("sys.stdin", StringIO(f"{words[1]}\n"))
            words = words[words.index("|") + 1 :]
        target = None
        if ">" in words:
            words, target = words[: words.index(">")], words[-1]
        assert words[0] == "mlx_patch"
        status, out, err = command(*words[1:])
        assert (status, err) == (0, ""), line
        assert out
        if target is not None:
            Path(target).write_text(out, encoding="utf-8")
    saved = mp.SweepResult.load("mars.npz")
    assert Path("mars.html").read_text(encoding="utf-8") == saved.to_html()
    assert Path("again.html").read_text(encoding="utf-8") == saved.to_html()
    assert json.loads(Path("mars.json").read_text(encoding="utf-8")) == json.loads(saved.to_json())
    assert len(lines) > 8


@pytest.mark.parametrize("verb", ["verify", "sites", "sweep", "attribute", "lens", "paths", "generate", "show"])
def test_the_page_names_every_command(verb):
    assert f"\n| `{verb}` |" in (ROOT / "docs" / "command-line.md").read_text(encoding="utf-8")
