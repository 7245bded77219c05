"""Each benchmark stands on its page, with the command that prints what is shown there, and where it was printed."""

import re
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SPEC = spec_from_file_location("make_benchmarks", ROOT / "docs" / "make_benchmarks.py")
script = module_from_spec(SPEC)
SPEC.loader.exec_module(script)
TEXT = script.PAGE.read_text(encoding="utf-8")
SHOWN = {block[1].split()[0]: block[2] for block in script.RUN.finditer(TEXT)}


def test_every_benchmark_is_on_the_page():
    """The comparison with what it printed, and the others by name."""
    folder = ROOT / "tests" / "benchmarks"
    assert set(SHOWN) == {"tests/benchmarks/beside_pytorch.py"}
    named = re.findall(r"^\| `(bench_\w+\.py)` \|", TEXT, flags=re.MULTILINE)
    assert sorted(named) == sorted(path.name for path in folder.glob("bench_*.py"))


@pytest.mark.parametrize("name", SHOWN)
def test_what_is_shown_says_where_it_was_printed(name):
    first, *rest = SHOWN[name].splitlines()
    assert re.match(r"\d{4}-\d\d-\d\d, .*\bmlx \d.*, load \d+\.\d$", first)
    assert len(rest) > 3


def test_a_block_is_written_anew(monkeypatch, tmp_path):
    """With what the command prints, and nothing else changed."""
    (tmp_path / "hello.py").write_text("print('hello')", encoding="utf-8")
    page = tmp_path / "page.md"
    page.write_text("# T\n\n```bash\npython hello.py\n```\n\n```text\nold\n```\n\nMore.\n", encoding="utf-8")
    monkeypatch.setattr(script, "ROOT", tmp_path)
    monkeypatch.setattr(script, "PAGE", page)
    script.main("hello")
    text = page.read_text(encoding="utf-8")
    assert text.startswith("# T\n\n```bash\npython hello.py\n```\n\n```text\n20")
    assert text.endswith("\n\nhello\n```\n\nMore.\n")
    script.main("another")
    assert page.read_text(encoding="utf-8") == text
