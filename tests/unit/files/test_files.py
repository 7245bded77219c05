import os
import stat
import subprocess
import sys

import pytest

from mlx_patch import written_whole
from mlx_patch.errors import FileError
from mlx_patch.files import Format


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_takes_its_name_when_it_is_whole(tmp_path):
    target = tmp_path / "a.json"
    with written_whole(target) as beside:
        assert beside.parent == tmp_path
        assert beside.suffix == ".json"
        beside.write_text("whole")
        assert not target.exists()
    assert target.read_text() == "whole"
    assert names(tmp_path) == ["a.json"]


@pytest.mark.parametrize("stop", [ValueError, KeyboardInterrupt, SystemExit])
def test_what_stops_halfway_leaves_the_old_file(tmp_path, stop):
    """And nothing beside it."""
    target = tmp_path / "a.json"
    target.write_text("old")

    def write_half():
        with written_whole(target) as beside:
            beside.write_text("hal")
            raise stop

    with pytest.raises(stop):
        write_half()
    assert target.read_text() == "old"
    assert names(tmp_path) == ["a.json"]


def test_a_killed_process_leaves_no_file_of_that_name(tmp_path):
    code = """
import os, sys
from mlx_patch.files import written_whole
with written_whole(sys.argv[1]) as beside:
    beside.write_text("hal")
    os.kill(os.getpid(), 9)
"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "a.json")], check=False, capture_output=True)
    assert done.returncode == -9, done.stderr
    assert not (tmp_path / "a.json").exists()


def test_the_file_may_be_read_by_whom_the_umask_lets(tmp_path):
    before = os.umask(0o027)
    try:
        with written_whole(tmp_path / "a") as beside:
            beside.write_text("")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    message = r"`path` must be in a folder that can be written to\. Got .*none/a: No such file.* Choose another folder"
    with pytest.raises(FileError, match=message), written_whole(tmp_path / "none" / "a"):
        pass


def test_a_file_in_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(FileError, match="must be in a folder"), written_whole(tmp_path / "file" / "a"):
        pass


def test_a_folder_of_that_name_is_refused(tmp_path):
    """Nothing is left beside it."""
    (tmp_path / "a").mkdir()
    message = r"`path` must be a file's name\. Got .*/a, which is a directory\. Choose another name"
    with pytest.raises(FileError, match=message), written_whole(tmp_path / "a") as beside:
        beside.write_text("whole")
    assert names(tmp_path) == ["a"]


@pytest.mark.parametrize(
    ("about", "version"),
    [
        ({"format": "a.b/2", "more": 1}, "2"),
        ({"format": "a.b/3"}, "3"),
        ({"format": "a.b"}, ""),
        ({"format": "a.bc/2"}, None),
        ({"format": 2}, None),
        ({}, None),
        (["a.b/2"], None),
        (None, None),
    ],
    ids=str,
)
def test_a_format_reads_its_version_in_a_description(about, version):
    format_ = Format("a.b", 2)
    assert format_.version_in(about) == version
    assert format_.describes(about) is (version == "2")


def test_a_format_is_one_text():
    assert Format("a.b", 2).entry == {"format": "a.b/2"}
    assert str(Format("a.b", 2)) == "a.b/2"


def test_another_version_is_refused_with_the_file():
    format_ = Format("a.b", 2)
    message = r"`checkpoint` must have format version 2\. Got x\.npz, which has version 7\. Write it again\."
    with pytest.raises(FileError, match=message):
        format_.refuse_other_version({"format": "a.b/7"}, "checkpoint", "x.npz", "Write it again.")
    for about in ({"format": "a.b/2"}, {"format": "c/7"}, None):
        format_.refuse_other_version(about, "checkpoint", "x.npz", "")
