"""Damage to files: what disks, transfers and forgers do to bytes, one altered content after the other."""

import copy
import io
import json
import pickle
import zipfile
import zlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

# Any bytes


def flip_bit(content, draw):
    return flipped(content, int(draw.integers(8 * len(content))))


def flipped(content, bit):
    """The content with one bit changed."""
    altered = bytearray(content)
    altered[bit // 8] ^= 1 << bit % 8
    return bytes(altered)


def spans(content, draw):
    """Two places in order, for what lies between."""
    return sorted(draw.integers(len(content) + 1, size=2).tolist())


def truncate(content, draw):
    return content[: int(draw.integers(len(content)))]


def extend(content, draw):
    return content + draw.bytes(int(draw.integers(1, 40)))


def extend_by_zeros(content, draw):
    return content + bytes(int(draw.integers(1, 5000)))


def swap_blocks(content, draw):
    a, b, c, d = sorted(draw.integers(len(content) + 1, size=4).tolist())
    return content[:a] + content[c:d] + content[b:c] + content[a:b] + content[d:]


def zero_range(content, draw):
    begin, end = spans(content, draw)
    return content[:begin] + bytes(end - begin) + content[end:]


def random_range(content, draw):
    begin, end = spans(content, draw)
    return content[:begin] + draw.bytes(end - begin) + content[end:]


def duplicate_range(content, draw):
    begin, end = spans(content, draw)
    return content[:end] + content[begin:end] + content[end:]


def remove_range(content, draw):
    begin, end = spans(content, draw)
    return content[:begin] + content[end:]


def change_byte(content, draw):
    place = int(draw.integers(len(content)))
    return content[:place] + draw.bytes(1) + content[place + 1 :]


DAMAGES = (
    flip_bit,
    truncate,
    extend,
    extend_by_zeros,
    swap_blocks,
    zero_range,
    random_range,
    duplicate_range,
    remove_range,
    change_byte,
)

# JSON

HOSTILE = {
    "null": "null",
    "true": "true",
    "minus one": "-1",
    "fraction": "1.5",
    "empty text": '""',
    "text": '"x"',
    "number as text": '"3"',
    "empty list": "[]",
    "ragged list": "[[1, 2], [3]]",
    "empty mapping": "{}",
    "large": "1000000000000",
    "larger": "1" + "0" * 400,
    "too many digits": "9" * 5001,
    "overflows": "1e999",
    "overflows float32": "1e300",
    "NaN": "NaN",
    "infinite": "-Infinity",
    "surrogate": '"\\ud800"',
    "nul": '"a\\u0000b"',
    "long text": f'"{"x" * 100_000}"',
    "nested a little": "[" * 300 + "]" * 300,
    "nested": "[" * 100_000 + "]" * 100_000,
    "nested mappings": '{"a":' * 100_000 + "1" + "}" * 100_000,
    "repeated names": '{"a": 1, "a": 2}',
}
"""What takes the place of each value."""

_PLACE = "\ue000"


def paths_of(value, path=()):
    """The path of every value inside a value, that of the whole first."""
    yield path
    entries = ()
    if isinstance(value, dict):
        entries = value.items()
    elif isinstance(value, list):
        entries = list(enumerate(value))[:3]
    for name, entry in entries:
        yield from paths_of(entry, (*path, name))


def replaced(value, path, text):
    """The JSON text of a value, with another text in place of the value at a path."""
    if not path:
        return text
    altered = copy.deepcopy(value)
    inner = altered
    for name in path[:-1]:
        inner = inner[name]
    inner[path[-1]] = _PLACE
    return json.dumps(altered).replace(json.dumps(_PLACE), text, 1)


def without_names(value):
    """The value without each name, and with a further one."""
    for path in paths_of(value):
        altered = copy.deepcopy(value)
        inner = altered
        for name in path:
            inner = inner[name]
        if isinstance(inner, dict) and inner:
            for name in list(inner)[:6]:
                kept = inner.pop(name)
                yield f"without {(*path, name)}", json.dumps(altered)
                inner[name] = kept
            inner["further"] = 1
            yield f"more at {path}", json.dumps(altered)


def altered_json(value, draw, n):
    """A sample of texts in which one value is another."""
    places = list(paths_of(value))
    for _ in range(n):
        path = places[int(draw.integers(len(places)))]
        name = list(HOSTILE)[int(draw.integers(len(HOSTILE)))]
        yield f"{name} at {path}", replaced(value, path, HOSTILE[name])
    others = list(without_names(value))
    for place in draw.permutation(len(others))[: n // 4].tolist():
        yield others[place]


def odd_texts(content):
    """Texts that are hardly JSON."""
    yield "BOM", b"\xef\xbb\xbf" + content
    yield "UTF-16", content.decode().encode("utf-16")
    yield "Latin-1", content.replace(b'"', b'"\xe9', 1)
    yield "NUL", content + b"\0"
    yield "nested", b"[" * 100_000
    yield "nested mappings", b'{"a":' * 100_000
    yield "repeated names", content.replace(b"{", b'{"k": 1, "k": 1, ', 1)
    yield "nothing but a number", b"9" * 5001


# Zips


@dataclass(frozen=True)
class Member:
    """One member of a zip, with what its headers say of it."""

    name: bytes
    data: bytes
    method: int = 0
    flags: int = 0
    crc: int | None = None
    size: int | None = None
    packed: int | None = None
    local_name: bytes | None = None
    extra: bytes = b""
    offset: int | None = None
    version: int = 20


def zip_of(members):
    """The bytes of a zip, true or not."""
    body, directory = b"", b""
    for member in members:
        crc = zlib.crc32(member.data) if member.crc is None else member.crc
        packed = len(member.data) if member.packed is None else member.packed
        size = len(member.data) if member.size is None else member.size
        common = member.flags.to_bytes(2, "little") + member.method.to_bytes(2, "little") + bytes(4)
        common += b"".join((number % 2**32).to_bytes(4, "little") for number in (crc, packed, size))
        offset = len(body) if member.offset is None else member.offset
        local_name = member.name if member.local_name is None else member.local_name
        version = member.version.to_bytes(2, "little")
        lengths = len(local_name).to_bytes(2, "little") + bytes(2)
        if member.offset is None:
            body += b"PK\3\4" + version + common + lengths + local_name + member.data
        lengths = len(member.name).to_bytes(2, "little") + len(member.extra).to_bytes(2, "little") + bytes(10)
        directory += b"PK\1\2" + bytes(2) + version + common + lengths + (offset % 2**32).to_bytes(4, "little")
        directory += member.name + member.extra
    count = len(members).to_bytes(2, "little")
    end = b"PK\5\6" + bytes(4) + count + count + len(directory).to_bytes(4, "little")
    return body + directory + end + len(body).to_bytes(4, "little") + bytes(2)


def members_of(content):
    """The members of a true zip, stored as they are."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return [Member(name.encode(), archive.read(name)) for name in archive.namelist()]


def deflated(data):
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return packer.compress(data) + packer.flush()


@cache
def bomb():
    """A gigabyte of zeros, deflated into one megabyte."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = packer.compress(bytes(2**20)) + packer.flush(zlib.Z_FULL_FLUSH)
    again = packer.compress(bytes(2**20)) + packer.flush(zlib.Z_FULL_FLUSH)
    return block + again * 1023 + packer.flush()


def npy(header, data=b"", version=(1, 0), length=None):
    """The bytes of an array, with any header."""
    text = header.encode() + b"\n"
    width = 2 if version == (1, 0) else 4
    size = (len(text) if length is None else length).to_bytes(width, "little")
    return b"\x93NUMPY" + bytes(version) + size + text + data


class _Touches:
    """Its pickle makes a file where it is read."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def npy_headers(witness):
    """Headers of arrays that no array has, and arrays that must not be read. By name."""
    fields = "{{'descr': {}, 'fortran_order': {}, 'shape': {}, }}".format
    zeros = bytes(64)
    yield "huge shape", npy(fields("'<f4'", False, "(1000000, 1000000)"), zeros)
    yield "negative shape", npy(fields("'<f4'", False, "(-1, 16)"), zeros)
    yield "overflowing shape", npy(fields("'<f4'", False, f"({2**62}, 4)"), zeros)
    yield "empty and huge", npy(fields("'<f4'", False, f"(0, {2**62})"))
    yield "empty", npy(fields("'<f4'", False, "(0,)"))
    yield "no axes", npy(fields("'<f4'", False, "()"), bytes(4))
    yield "many axes", npy(fields("'<f4'", False, "(" + "1, " * 100 + ")"), bytes(4))
    yield "truth as a length", npy(fields("'<f4'", False, "(True, 16)"), zeros)
    yield "fortran as text", npy(fields("'<f4'", "'yes'", "(16,)"), zeros)
    yield "fortran", npy(fields("'<f4'", True, "(4, 4)"), zeros)
    for dtype in (
        "<f8",
        "<f2",
        ">f4",
        "<i4",
        "<U4",
        "|S4",
        "|V4",
        "<c8",
        "<M8[s]",
        "|b1",
        "|O",
        "",
        "f",
        "<f3",
        "<f99",
    ):
        yield f"dtype {dtype}", npy(fields(f"{dtype!r}", False, "(4,)"), bytes(32))
    yield "fields", npy(fields("[('a', '<f4')]", False, "(16,)"), zeros)
    yield "python 2", npy(fields("'<f4'", False, "(16L,)"), zeros)
    yield "nested", npy("(" * 9000)
    yield "nested lists", npy("[" * 150 + "]" * 150)
    yield "unfinished text", npy("'" + "a" * 90)
    yield "unfinished indent", npy("if:\n  a\n b")
    yield "code", npy(f"__import__('pathlib').Path({str(witness)!r}).touch()")
    yield "code in the shape", npy(fields("'<f4'", False, f"(__import__('os').mknod({str(witness)!r}),)"), zeros)
    yield "other version", npy(fields("'<f4'", False, "(16,)"), zeros, (9, 9))
    yield "version 3", npy(fields("'<f4'", False, "(16,)"), zeros, (3, 0))
    yield "long header", npy(fields("'<f4'", False, "(16,)"), zeros, (2, 0), 2**32 - 1)
    yield "padded header", npy(" " * 60_000 + fields("'<f4'", False, "(16,)"), zeros)
    yield "no header", b"\x93NUMPY"
    yield "no array", b"text"
    yield "nothing", b""
    pickled = pickle.dumps(_Touches(witness))
    yield "pickle", npy(fields("'|O'", False, "()"), pickled)
    yield "pickle alone", pickled


def altered_members(members, witness):
    """Zips whose headers or members are others. Every member is altered in some way."""
    for place, member in enumerate(members):
        before, after = members[:place], members[place + 1 :]

        def changed(before=before, member=member, after=after, **fields):
            return zip_of([*before, Member(**{**vars(member), **fields}), *after])

        packed = deflated(member.data)
        spoilt = flipped(packed, 8 * (len(packed) // 2)) + b"\xff"
        name, size = member.name.decode(), len(member.data)
        for label, fields in {
            "deflated": {"data": packed, "method": 8, "crc": zlib.crc32(member.data), "size": size},
            "badly deflated": {"data": spoilt, "method": 8, "crc": zlib.crc32(member.data), "size": size},
            "bzip2": {"data": b"BZh91AY&SY" + bytes(20), "method": 12, "size": size},
            "lzma": {"data": b"\x09\x04\x05\x00" + bytes(30), "method": 14, "size": size},
            "unknown method": {"method": 97},
            "encrypted": {"flags": 1},
            "patched": {"flags": 0x20},
            "other sum": {"crc": 1},
            "other local name": {"local_name": b"other"},
            "size beyond the file": {"size": 2**31, "packed": 2**31},
            "largest size": {"size": 2**32 - 1, "packed": 2**32 - 1},
            "zip64 without sizes": {"size": 2**32 - 1, "extra": b"\x01\x00\x00\x00"},
            "zip64 sizes": {"size": 2**32 - 1, "packed": 2**32 - 1, "extra": b"\1\0\x10\0" + b"\xff" * 7 + b"\x7f" * 9},
            "short extra": {"extra": b"\x01\x00\xff\x00\x01"},
            "later version": {"version": 99},
            "offset beyond the file": {"offset": 2**31},
            "offset of another": {"offset": 0},
            "shorter": {"data": member.data[:-3]},
            "longer": {"data": member.data + b"\0\0\0"},
        }.items():
            yield f"{name} {label}", changed(**fields)
        yield f"{name} missing", zip_of([*before, *after])
        yield f"{name} twice", zip_of([*members, member])
        yield f"{name} upwards", changed(name=b"../" + member.name)
        yield f"{name} with a nul", changed(name=member.name + b"\0x")
        yield f"{name} in no encoding", changed(name=b"\xff\xfe", flags=0x800)
        if name.endswith(".npy"):
            for label, data in npy_headers(witness):
                yield f"{name} {label}", changed(data=data)
    further = npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1,), }", bytes(4))
    for name in ("further.npy", "values/further.npy", "about.json.npy", "text.txt", "folder/", ""):
        yield f"with {name}", zip_of([*members, Member(name.encode(), further)])
    yield "many that overlap", zip_of([*members, *(Member(b"%d.npy" % n, further, offset=0) for n in range(2000))])
    yield "none", zip_of([])


def bombs(members):
    """Zips that hold a gigabyte, and say so or not."""
    for place, member in enumerate(members):
        before, after = members[:place], members[place + 1 :]
        big = Member(member.name, bomb(), 8, size=2**30, crc=0)
        name = member.name.decode()
        yield f"a bomb in {name}", zip_of([*before, big, *after])
        quiet = Member(member.name, bomb(), 8, size=len(member.data), crc=zlib.crc32(member.data))
        yield f"a bomb in {name} that says {len(member.data)} bytes", zip_of([*before, quiet, *after])
        if name.endswith(".npy"):
            header = npy("{'descr': '<f4', 'fortran_order': False, 'shape': (16384, 16384), }")
            packer = deflated(header)[:-2]  # never read to the end where the size is refused
            whole = Member(member.name, packer + bomb(), 8, size=len(header) + 2**30, crc=0)
            yield f"an array of zeros in {name}", zip_of([*before, whole, *after])
    yield "a bomb beside them", zip_of([*members, Member(b"further.npy", bomb(), 8, size=2**30, crc=0)])


# Safetensors


def tensors_file(header, body):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + body


def altered_headers(content, draw, n):
    """Safetensors files with another header: values at random, shapes that no array has, lengths that lie."""
    size = int.from_bytes(content[:8], "little")
    header, body = json.loads(content[8 : 8 + size]), content[8 + size :]
    for label, text in altered_json(header, draw, n):
        yield label, tensors_file(text.encode(), body)
    for length in (0, 1, 2, size - 1, size + 1, len(content), 2**31, 2**63, 2**64 - 1):
        yield f"length {length}", length.to_bytes(8, "little") + content[8:]
    names = [name for name in header if name != "__metadata__"]
    for name in names[:2]:
        entry = header[name]
        for label, fields in {
            "no axes": {"shape": []},
            "many axes": {"shape": [1] * 100 + entry["shape"]},
            "an empty axis": {"shape": [0, *entry["shape"]], "data_offsets": [0, 0]},
            "empty and huge": {"shape": [0, *[2**31 - 1] * 3], "data_offsets": [0, 0]},
            "a huge shape": {"shape": [2**31 - 1] * 3},
            "turned": {"shape": entry["shape"][::-1]},
            "flat": {"shape": [int(np.prod(entry["shape"]))]},
            "other dtype": {"dtype": "I32"},
            "64 bits": {"dtype": "F64"},
            "offsets turned": {"data_offsets": entry["data_offsets"][::-1]},
            "offsets below 0": {"data_offsets": [-4, entry["data_offsets"][1]]},
            "offsets beyond": {"data_offsets": [0, 2**62]},
        }.items():
            yield f"{name} {label}", tensors_file({**header, name: {**entry, **fields}}, body)
        yield f"{name} renamed", tensors_file({f"x{key}" if key == name else key: v for key, v in header.items()}, body)
        yield (
            f"{name} renamed {name}",
            tensors_file({**header, "another": {"dtype": "F32", "shape": [0], "data_offsets": [len(body)] * 2}}, body),
        )
    metadata = header.get("__metadata__") or {}
    for name, text in metadata.items():
        for label, altered in _altered_text(text, draw, n // 2):
            yield f"{name}: {label}", tensors_file({**header, "__metadata__": {**metadata, name: altered}}, body)


def _altered_text(text, draw, n):
    try:
        value = json.loads(text)
    except ValueError:
        return
    yield from altered_json(value, draw, n)


# Others

YAML = {
    "tag": b"a: !!python/object/apply:os.getcwd []\n",
    "aliases": b"a: &a [x, x]\n"
    + b"".join(b"%c: &%c [*%c, *%c]\n" % (98 + n, 98 + n, 97 + n, 97 + n) for n in range(24)),
    "itself": b"k: &a [*a]\n",
    "date": b"k: 2001-99-99\n",
    "time": b"k: 2001-01-01 99:99:99\n",
    "digits": b"k: " + b"9" * 5001 + b"\n",
    "base 60": b"k: 1:99:99\n",
    "binary": b"k: !!binary '%%%'\n",
    "list as a name": b"? [1]\n: 2\n",
    "merge": b"<<: [1]\n",
    "nested": b"k: " + b"[" * 20_000,
    "nested blocks": b"- " * 5000,
    "infinite": b"k: .inf\n",
    "not a number": b"k: .nan\n",
    "two documents": b"--- a\n--- b\n",
    "set": b"k: !!set {a, b}\n",
    "float": b"k: !!float x\n",
    "integer": b"k: !!int x\n",
    "truth": b"k: !!bool x\n",
    "time of nothing": b"k: !!timestamp x\n",
    "control": b"k: \x01\n",
}


def sampled(each, draw, n):
    """Some of what there is, in any order."""
    each = list(each)
    return [each[place] for place in draw.permutation(len(each))[:n].tolist()]


def forged_zips(content, draw, witness, n):
    members = members_of(content)
    yield from sampled(altered_members(members, witness), draw, n)
    for place, member in enumerate(members):
        if member.name == b"about.json":
            for label, text in altered_json(json.loads(member.data), draw, n):
                yield label, zip_of([*members[:place], Member(member.name, text.encode()), *members[place + 1 :]])


def forged_json(content, draw, n):
    yield from odd_texts(content)
    for label, text in altered_json(json.loads(content), draw, n):
        yield label, text.encode()


def forged_lines(content, draw, n):
    first = content.splitlines()[0]
    for label, text in forged_json(first, draw, n):
        yield label, text + content[len(first) :]


def forged_yaml(content):
    for label, text in YAML.items():
        yield label, content + text
        yield f"{label} alone", text


def forged(form, content, draw, witness, n):
    """Altered contents that know the format. Each with what was done."""
    if form == "zip":
        return forged_zips(content, draw, witness, n)
    if form == "safetensors":
        return sampled(altered_headers(content, draw, n), draw, 2 * n)
    if form == "json":
        return forged_json(content, draw, n)
    if form == "jsonl":
        return forged_lines(content, draw, n)
    if form == "yaml":
        return forged_yaml(content)
    return odd_texts(content)
