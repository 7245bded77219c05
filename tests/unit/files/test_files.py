import os
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from mlx_patch import written_whole
from mlx_patch.errors import FileError
from mlx_patch.files import Format, scratch_folder


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


def test_the_umask_of_the_process_is_never_touched(tmp_path, monkeypatch):
    """It is every thread's."""
    monkeypatch.setattr(os, "umask", None)
    with written_whole(tmp_path / "a") as beside:
        beside.write_text("")


@pytest.mark.parametrize("mode", [0o600, 0o644, 0o664])
def test_a_file_that_is_replaced_hands_its_mode_on(tmp_path, mode):
    (tmp_path / "a").write_text("old")
    (tmp_path / "a").chmod(mode)
    with written_whole(tmp_path / "a") as beside:
        beside.write_text("new")
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == mode
    assert (tmp_path / "a").read_text() == "new"


@pytest.mark.parametrize("there", [True, False])
def test_a_link_keeps_leading_where_it_leads(tmp_path, there):
    (tmp_path / "far").mkdir()
    if there:
        (tmp_path / "far" / "b").write_text("old")
    (tmp_path / "a").symlink_to("far/b")
    with written_whole(tmp_path / "a") as beside:
        beside.write_text("new")
    assert os.readlink(tmp_path / "a") == "far/b"
    assert (tmp_path / "far" / "b").read_text() == "new"
    assert names(tmp_path / "far") == ["b"]


def test_a_link_that_leads_to_itself_is_refused(tmp_path):
    (tmp_path / "a").symlink_to("a")
    with (
        pytest.raises(FileError, match=r"Got .*/a: a link that leads to itself\."),
        written_whole(tmp_path / "a") as beside,
    ):
        beside.write_text("new")
    assert names(tmp_path) == ["a"]


@pytest.mark.parametrize("letter", ["a", "\u00e9", "\u0416", "\u6f22", "\U0001f600"])
def test_a_name_may_have_255_bytes(tmp_path, letter):
    """In any script."""
    name = letter * (250 // len(letter.encode()))
    name += "x" * (250 - len(name.encode())) + ".json"
    with written_whole(tmp_path / name) as beside:
        beside.write_text("whole")
    assert names(tmp_path) == [name]


def test_data_and_folder_are_synced_around_the_rename(tmp_path, monkeypatch):
    done = []
    sync, replace = os.fsync, type(tmp_path).replace
    monkeypatch.setattr(os, "fsync", lambda file: (done.append(os.fstat(file).st_ino), sync(file)))
    monkeypatch.setattr(type(tmp_path), "replace", lambda path, to: (done.append("renamed"), replace(path, to)))
    with written_whole(tmp_path / "a") as beside:
        beside.write_text("")
    assert done == [(tmp_path / "a").stat().st_ino, "renamed", tmp_path.stat().st_ino]


def test_what_a_killed_writer_left_is_removed_by_the_next(tmp_path):
    """Whatever its age, and that of no other file."""
    code = """
import os, sys
from mlx_patch.files import scratch_folder, written_whole
from pathlib import Path
with written_whole(sys.argv[1]), scratch_folder(Path(sys.argv[1]).parent, ".scratch-") as folder:
    (folder / "half").write_text("hal")
    os.kill(os.getpid(), 9)
"""
    for name in ("a", "a-b"):
        subprocess.run([sys.executable, "-c", code, str(tmp_path / name)], check=False)
    left = names(tmp_path)
    assert [name[:9] for name in left] == [".partial-", ".partial-", ".scratch-"]
    with written_whole(tmp_path / "a-b") as beside:
        beside.write_text("")
    assert len(names(tmp_path)) == 3  # the half of `a`, the folder, and the file
    with written_whole(tmp_path / "a") as beside, written_whole(tmp_path / "a") as other:
        for file in (beside, other):
            file.write_text("")
        with scratch_folder(tmp_path, ".scratch-") as folder, scratch_folder(tmp_path, ".scratch-") as second:
            assert folder.is_dir()
            assert second.is_dir()
    assert names(tmp_path) == ["a", "a-b"]


def test_writers_of_one_file_leave_each_other_alone(tmp_path):
    """Many at once, each of which removes what nobody claims."""

    def write(number):
        with written_whole(tmp_path / "a") as beside:
            beside.write_text(f"{number}" * 1000)

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(write, range(200)))
    text = (tmp_path / "a").read_text()
    assert text == text[: len(text) // 1000] * 1000
    assert names(tmp_path) == ["a"]


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
