"""What readers refuse, in their own words. `tests/fuzz/test_files.py` holds what they refuse at all."""

import io
import json
import math
import os
import zipfile

import numpy as np
import pytest

import mlx_patch as mp
from mlx_patch.errors import FileError
from mlx_patch.files import (
    Format,
    Malformed,
    clause_of,
    json_of_file,
    npy_header,
    open_checked,
    opened_zip,
    read_archive,
    read_bounded,
    read_header,
    strict_json,
)


def npy(fields, data=b"", version=1):
    text = f"{fields}\n".encode()
    return b"\x93NUMPY" + bytes([version, 0]) + len(text).to_bytes(2, "little") + text + data


def header(dtype="<f4", fortran="False", shape="(2, 3)"):
    return f"{{'descr': {dtype!r}, 'fortran_order': {fortran}, 'shape': {shape}, }}"


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int64, np.uint8, np.bool_])
@pytest.mark.parametrize("shape", [(), (0,), (3,), (1, 2, 3), (10_000_000_000, 0)])
@pytest.mark.parametrize("order", ["C", "F"])
def test_a_header_is_read_as_numpy_reads_it(dtype, shape, order):
    array = np.zeros(shape, dtype, order=order)
    file = io.BytesIO()
    np.save(file, array)
    read = npy_header(file.getvalue())
    assert (read.dtype, read.shape, read.nbytes) == (array.dtype, shape, len(file.getvalue()))
    if sum(size > 1 for size in shape) > 1:
        assert read.order == order


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_every_version_of_headers_is_read(version):
    file = io.BytesIO()
    np.lib.format.write_array(file, np.zeros((2, 3), np.float32), version)
    assert npy_header(file.getvalue()).shape == (2, 3)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is no numpy array, or has a damaged header"),
        (b"\x93NUMPY", "is no numpy array, or has a damaged header"),
        (npy(header(), version=9), "is no numpy array, or has a damaged header"),
        (npy(header())[:40], "is no numpy array, or has a damaged header"),
        (npy(" " * 20_000 + header()), "is no numpy array, or has a damaged header"),
        (npy("__import__('os').getcwd()"), "has a header that numpy does not write: b.__import__"),
        (npy(header(shape="(-1,)")), "has a header that numpy does not write"),
        (npy(header(shape="(True,)")), "has a header that numpy does not write"),
        (npy(header(shape="(" + "1, " * 40 + ")")), "has 40 axes"),
        (npy(header("|O")), "holds pickled objects, which may run any code and are never read"),
        (npy(header("<f3")), "has the dtype '<f3'"),
        (npy(header(">f4")), "has numbers of >f4"),
        (npy(header("<U4")), "has numbers of <U4"),
    ],
)
def test_headers_of_no_numbers_are_refused(content, message):
    with pytest.raises(Malformed, match=message):
        npy_header(content)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000, "is damaged: "),
        ("[" * 101 + "]" * 101, "its values are nested more than 100 deep"),
        ("9" * 301, "it has a number of 301 digits"),
        ("NaN", "NaN is not a JSON number"),
        ("-1e999", "-1e999 is larger than any number"),
        ('{"a": 1, "a": 2}', "it names 'a' twice"),
        (b'"\xff"', "can't decode byte 0xff"),
        (b"\xef\xbb\xbf1", "Unexpected UTF-8 BOM"),
        ("1 2", "Extra data"),
    ],
)
def test_json_that_code_cannot_follow_is_refused(text, message):
    with pytest.raises(Malformed, match=message):
        strict_json(text)


def test_json_at_the_bounds_is_read():
    assert strict_json("9" * 300) == int("9" * 300)
    assert json.dumps(strict_json("[" * 100 + "]" * 100)) == "[" * 100 + "]" * 100
    assert math.isnan(strict_json("NaN", allow_nan=True))
    assert strict_json("[1e999, -Infinity]", allow_nan=True) == [math.inf, -math.inf]
    assert strict_json('{"a": ["ä", 1.5, null, true]}'.encode()) == {"a": ["ä", 1.5, None, True]}


def test_an_array_has_no_more_axes_than_numpy_has(tmp_path):
    text = json.dumps({"a": {"dtype": "F32", "shape": [1] * 33, "data_offsets": [0, 4]}}).encode()
    (tmp_path / "a").write_bytes(len(text).to_bytes(8, "little") + text + bytes(4))
    with open_checked(tmp_path / "a") as file, pytest.raises(Malformed, match="'a' has the shape"):
        read_header(file)


def test_a_larger_file_is_not_read(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("[]")
    assert json_of_file(path, largest=2) == []
    os.truncate(path, 2**40)
    with pytest.raises(Malformed, match=r"has 1099511627776 bytes, where at most 268435456 are read"):
        json_of_file(path)
    with open_checked(path) as file, pytest.raises(Malformed, match="where at most 5 are read"):
        read_bounded(file, 5)


def test_a_link_is_followed_unless_it_must_not_be(tmp_path):
    (tmp_path / "a.json").write_text("3")
    (tmp_path / "b.json").symlink_to(tmp_path / "a.json")
    assert json_of_file(tmp_path / "b.json") == 3
    with pytest.raises(Malformed, match="is a symbolic link, which is not followed"):
        json_of_file(tmp_path / "b.json", follow=False)


def test_a_folder_is_refused_and_not_left_open(tmp_path):
    before = os.listdir("/dev/fd")
    for _ in range(3):
        with pytest.raises(Malformed, match="is not a regular file"), open_checked(tmp_path):
            pass
    assert len(os.listdir("/dev/fd")) == len(before)


def test_a_long_reason_is_cut_in_its_middle():
    assert clause_of("a  b\n  c") == "a  b c"
    assert clause_of("x" * 500) == f"{'x' * 200} ... {'x' * 200}"


FORMAT = Format("a.b", 1)


def zipped(path, members, method=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


ABOUT = json.dumps(FORMAT.entry)
NUMBERS = npy(header(), bytes(24))


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"about.json": ABOUT, "c.npy": NUMBERS}, "holds 'c.npy', which no such file holds"),
        ({"about.json": ABOUT, "a.txt": b""}, "holds 'a.txt', which no such file holds"),
        ({"a.npy": NUMBERS}, r"is damaged or of another kind: it has no about\.json"),
        ({"about.json": ABOUT, "a.npy": NUMBERS[:-1]}, r"'a.npy' has \d+ bytes, but its shape \(2, 3\) needs"),
        ({"about.json": ABOUT, "a.npy": npy(header("<f8"), bytes(48))}, "'a.npy' has numbers of float64"),
        ({"about.json": '{"format": "a.c/1"}'}, "which is of another kind"),
    ],
)
def test_archives_hold_what_is_known_and_nothing_else(tmp_path, members, message):
    with pytest.raises(FileError, match=rf"must be a file that x wrote\. Got .*a\.npz.*{message}"):
        read_archive(zipped(tmp_path / "a.npz", members), "x", FORMAT, ("a", "b"))


def test_compressed_members_are_refused(tmp_path):
    path = zipped(tmp_path / "a.npz", {"about.json": ABOUT}, zipfile.ZIP_DEFLATED)
    message = r"has the member 'about\.json' compressed or encrypted, in a way that is not read"
    with pytest.raises(FileError, match=message):
        read_archive(path, "x", FORMAT, ())
    with open_checked(path) as file, opened_zip(file, (zipfile.ZIP_DEFLATED,)) as archive:
        assert archive.read("about.json").decode() == ABOUT


def test_members_are_no_larger_than_their_file(tmp_path):
    path = zipped(tmp_path / "a.npz", {"about.json": ABOUT, "a.npy": NUMBERS})
    content = bytearray(path.read_bytes())
    place = content.rindex(b"PK\x01\x02") + 20
    content[place : place + 8] = (2**31).to_bytes(4, "little") * 2
    path.write_bytes(bytes(content))
    with pytest.raises(FileError, match=r"its members are larger than its \d+ bytes"):
        read_archive(path, "x", FORMAT, ("a",))
    content[place : place + 4] = (3).to_bytes(4, "little")
    path.write_bytes(bytes(content))
    with pytest.raises(FileError, match=r"'a\.npy' has two sizes"):
        read_archive(path, "x", FORMAT, ("a",))


def test_a_directory_names_every_member(tmp_path):
    """Its length fields say where the next entry begins. One wrong bit, and what is behind it is not there."""
    path = zipped(tmp_path / "a.npz", {"about.json": ABOUT, "a.npy": NUMBERS, "b.npy": NUMBERS})
    assert sorted(read_archive(path, "x", FORMAT, ("a", "b"))[1]) == ["a", "b"]
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\x01\x02") + 33] ^= 1  # the first entry's comment, 256 bytes long
    path.write_bytes(bytes(content))
    with zipfile.ZipFile(path) as archive:
        assert archive.namelist() == ["about.json"]
    with pytest.raises(FileError, match="is damaged: its directory leaves out a member"):
        read_archive(path, "x", FORMAT, ("a", "b"))


GRAPH = {"n_layers": 1, "n_heads": 1, "d_model": 4, "parallel_attn_mlp": False}


@pytest.mark.parametrize(
    ("cfg", "message"),
    [
        ({"n_layers": 10**9}, r"its n_layers is 1000000000"),
        ({"n_layers": 1000, "n_heads": 1000}, r"0 edges, where its cfg has \d{12}"),
        ({"n_heads": True}, "its n_heads is True"),
        ({"d_model": "4"}, "its d_model is '4'"),
        ({"parallel_attn_mlp": 1}, "its parallel_attn_mlp is 1"),
    ],
)
def test_graphs_that_no_file_holds_are_not_built(tmp_path, cfg, message):
    path = tmp_path / "graph.json"
    path.write_text(json.dumps({"cfg": {**GRAPH, **cfg}, "nodes": {}, "edges": {}}))
    with pytest.raises(FileError, match=rf"must be a graph as EAP-IG writes it\. Got {path}: Malformed: {message}"):
        mp.circuits.EdgeScores.from_json(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: &a 1\nb: *a\n", "it has aliases or tags"),
        ("a: !!set {b}\n", "it has aliases or tags"),
        ("a: " + "[" * 30 + "]" * 30, "its values are nested more than 20 deep"),
        ("a: 2001-99-99\n", "month must be in"),
        ("#" * 70_000, "has 70000 bytes, where at most 65536 are read"),
    ],
)
def test_yaml_is_plain_values(tmp_path, text, message):
    (tmp_path / "config.yaml").write_text(text)
    (tmp_path / "layer_0.safetensors").write_bytes(b"")
    with pytest.raises(FileError, match=rf"must hold a? ?config\.yaml.*{message}"):
        mp.dictionaries.load(tmp_path)


def test_arrays_that_a_bomb_would_hold_are_not_unpacked(tmp_path):
    np.savez_compressed(tmp_path / "params.npz", W_enc=np.zeros((6000, 1000), np.float32))
    with pytest.raises(FileError, match=r"compresses 24000128 bytes of 'W_enc' into \d+, of which no part can be read"):
        mp.dictionaries.load(tmp_path)
