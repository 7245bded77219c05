"""No code of the site is only for show: each block of Python runs in CI, and each command is accounted for.

Blocks with `>>>` are doctests, which pytest finds in docs by itself. `test_documents.py` runs the other blocks of
Python, `test_error_pages.py` those that raise.
"""

import re
import shlex
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL)
LANGUAGES = {"python", "bash", "text", "toml", "json"}
COMMANDS = {
    "python3 -m venv": "`.ci/run` makes such an environment, and runs README's two lines",
    "pip install": "a workflow or `.ci/run` installs the same extras",
    "python": "the script or test is there with these options; what takes minutes is not run",
    "mlx_patch": "tests/unit/cli/test_page.py runs those of the command's page",
    "echo": "the same, from standard input",
    "mlx.launch": "tests/distributed runs the program on two ranks",
    ".venv/bin/mlx_patch verify": "tests/unit/cli runs the command; the zoo takes minutes, and a Mac is not here",
}
"""How a line of bash may begin, and what runs it or why nothing does."""


def ids(page):
    return str(page.relative_to(ROOT))


def blocks(page, language):
    return [text for name, text in BLOCK.findall(page.read_text(encoding="utf-8")) if name == language]


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_every_block_is_one_that_tests_find(page):
    """None is indented, opened otherwise or in a language that nothing knows."""
    text = page.read_text(encoding="utf-8")
    opened = re.findall(r"^[ >]*(?:`{3,}|~{3,})[^`\n]+$", text, flags=re.MULTILINE)
    found = [language for language, _ in BLOCK.findall(text)]
    assert opened == [f"```{language}" for language in found]
    assert set(found) <= LANGUAGES


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_no_block_of_python_is_left_out(page):
    """A block is a doctest as a whole or not at all, and no doctest is skipped."""
    for text in blocks(page, "python"):
        assert text.startswith(">>>") or ">>>" not in text
        assert "+SKIP" not in text
        compile("" if ">>>" in text else text, str(page), "exec")


def test_pytest_collects_docs_and_readme():
    options = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["pytest"]["ini_options"]
    assert {"docs", "README.md"} <= set(options["testpaths"])
    assert "--doctest-glob=*.md" in options["addopts"]


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "bash")], ids=ids)
def test_commands_are_accounted_for(page):
    for text in blocks(page, "bash"):
        for line in text.replace("\\\n", " ").splitlines():
            command = re.sub(r"^([A-Z_]+=\S+ )+", "", line)
            assert command.startswith(tuple(COMMANDS)), command
            refuse_what_is_not_there(command)


def refuse_what_is_not_there(command):
    """Scripts of the project that a command names, and their options, exist; some have them from a module beside."""
    words = shlex.split(command, comments=True)
    options = {option for option in words if option.startswith("--")}
    for word in words:
        if re.fullmatch(r"(examples|docs|tests)/\S+\.py", word):
            assert (ROOT / word).exists(), command
            beside = "".join(path.read_text(encoding="utf-8") for path in (ROOT / word).parent.glob("*.py"))
            assert {option for option in options if f'"{option}"' not in beside} == set(), command
