"""The wheel holds every file of the package, works without the tree, and says where the project lives."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest
from code_blocks import blocks

ROOT = Path(__file__).parents[2]
ADDRESS = "https://github.com/someone/mlx_patch"


def build(folder, **environment):
    """The wheel of the tree, built as it is where these variables are set."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    named = {name: value for name, value in os.environ.items() if not name.startswith("GITHUB_")}
    done = subprocess.run(command, cwd=ROOT, env={**named, **environment}, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    [wheel] = folder.glob("*.whl")
    return wheel


def metadata(wheel):
    with ZipFile(wheel) as files:
        [name] = [name for name in files.namelist() if name.endswith("METADATA")]
        return files.read(name).decode("utf-8")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    return build(tmp_path_factory.mktemp("wheel"))


def test_the_wheel_has_the_files_of_the_tree(wheel):
    """A folder that .gitignore names would be left out of it, and of git."""
    packed = {name for name in ZipFile(wheel).namelist() if name.startswith("mlx_patch/")}
    files = [path for path in (ROOT / "mlx_patch").rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert packed == {path.relative_to(ROOT).as_posix() for path in files}
    assert "mlx_patch/results/_result.py" in packed


def test_the_readme_runs_on_the_wheel(wheel, tmp_path):
    """Its first block, with the package as it is packed, and nothing of the tree but the embedded models."""
    ZipFile(wheel).extractall(tmp_path / "installed")
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    first, *_ = blocks(ROOT / "README.md", "python")
    [shown] = blocks(ROOT / "README.md", "text")
    code = f"{first}\nprint(mp.__file__)"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "installed")}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    *printed, file = done.stdout.splitlines()
    assert Path(file).is_relative_to(tmp_path)
    assert len(printed) == len(shown.splitlines())


def test_a_build_without_an_address_has_no_links(wheel):
    text = metadata(wheel)
    assert "\nProject-URL" not in text
    assert "](docs/figures/d1_tiny.png)" in text


def test_a_build_in_a_repository_has_its_links(tmp_path):
    text = metadata(build(tmp_path, GITHUB_REPOSITORY="someone/mlx_patch", GITHUB_REF_NAME="v1"))
    assert f"Project-URL: Source, {ADDRESS}\n" in text
    assert "Project-URL: Documentation, https://someone.github.io/mlx_patch/\n" in text
    assert f"]({ADDRESS}/raw/v1/docs/figures/d1_tiny.png)" in text
    assert "](docs/" not in text


def test_links_that_are_absolute_stay():
    spec = importlib.util.spec_from_file_location("hatch_build", ROOT / "hatch_build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    text = "[a](https://x.org/a) [b](#b) [c](docs/c.md#d) ![e](f.png)"
    expected = f"[a](https://x.org/a) [b](#b) [c]({ADDRESS}/blob/main/docs/c.md#d) ![e]({ADDRESS}/raw/main/f.png)"
    assert module.absolute(text, ADDRESS, "main") == expected
