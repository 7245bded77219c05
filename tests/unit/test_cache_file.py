"""Files of caches: what was written comes back, whatever happens to the file; all else is refused by name."""

import json
import os
from concurrent.futures import ThreadPoolExecutor

import mlx.core as mx
import numpy as np
import pytest

from mlx_patch import ActivationCache, Replace, Site
from mlx_patch.errors import FileError, ValueRefusedError
from mlx_patch.files import content_digest, open_checked, read_array, read_header

SITE = "blocks.1.hook_resid_post"
OTHER = "blocks.0.hook_resid_post"


def made(dtype=mx.float32):
    """Two sites of two prompts of four tokens."""
    arrays = {Site("resid_post", n): mx.arange(24.0).reshape(2, 4, 3).astype(dtype) + n for n in range(2)}
    tokens = mx.array([[5, 6, 7, 8], [1, 2, 3, 4]], dtype=mx.int32)
    return ActivationCache(arrays, tokens, (0, 1, 2, 3), 4, {"name": "tiny"}, 2)


@pytest.fixture
def path(tmp_path):
    made().save(tmp_path / "cache.safetensors")
    return tmp_path / "cache.safetensors"


def parts(path):
    """The header and the numbers of a file."""
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def put(path, header, data):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def sealed(path):
    """Write the checksum of what is in the file now, so that it alone refuses nothing."""
    with open_checked(path) as file:
        header = read_header(file)
        arrays = {name: read_array(file, entry) for name, entry in header.entries.items()}
    about = {name: text for name, text in header.metadata.items() if name != "checksum"}
    changed, data = parts(path)
    changed["__metadata__"]["checksum"] = content_digest(about, arrays)
    put(path, changed, data)


def same(one, other):
    kept = all(mx.array_equal(one[site], other[site]).item() and one[site].dtype == other[site].dtype for site in one)
    about = [(list(c), c.tokens.tolist(), c.positions, c.n_positions, c.model, c.n_layers) for c in (one, other)]
    return kept and about[0] == about[1]


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16, mx.float16])
def test_a_file_written_anew_with_the_same_contents_is_taken(tmp_path, dtype):
    path = tmp_path / "cache.safetensors"
    made(dtype).save(path)
    header, data = parts(path)
    put(path, dict(sorted(header.items())), data)
    assert same(ActivationCache.load(path), made(dtype))
    sealed(path)
    assert same(ActivationCache.load(path), made(dtype))


# Bytes of the file: what makes them of the header and the numbers.
BYTES = {
    "nothing": (lambda h, d: b"", "is cut off"),
    "a part of the length": (lambda h, d: b"\x10\x00\x00", "is cut off"),
    "a length of 0": (lambda h, d: bytes(8) + h + d, "is not a safetensors file"),
    "a length of 1": (lambda h, d: b"\x01" + bytes(7) + h + d, "is not a safetensors file"),
    "a length past the end": (lambda h, d: (10**6).to_bytes(8, "little") + h + d, "would have 1000000 bytes"),
    "the longest length": (lambda h, d: b"\xff" * 8 + h + d, "is not a safetensors file"),
    "the length alone": (lambda h, d: len(h).to_bytes(8, "little"), "is not a safetensors file"),
    "half a header": (lambda h, d: len(h).to_bytes(8, "little") + h[: len(h) // 2], "is not a safetensors file"),
    "no numbers": (lambda h, d: _file(h, b""), "is cut off or too long"),
    "half of the numbers": (lambda h, d: _file(h, d[: len(d) // 2]), "is cut off or too long"),
    "a byte too few": (lambda h, d: _file(h, d[:-1]), "is cut off or too long"),
    "a byte too many": (lambda h, d: _file(h, d + b"\0"), "is cut off or too long"),
    "twice": (lambda h, d: _file(h, d) * 2, "is cut off or too long"),
    "a changed byte": (lambda h, d: _file(h, bytes([d[0] ^ 1]) + d[1:]), "its checksum differs"),
    "a changed last byte": (lambda h, d: _file(h, d[:-1] + bytes([d[-1] ^ 128])), "its checksum differs"),
    "numbers of 0": (lambda h, d: _file(h, bytes(len(d))), "its checksum differs"),
    "text": (lambda h, d: b"no safetensors at all", "is not a safetensors file"),
    "a zip": (lambda h, d: b"PK\x03\x04" + bytes(60), "is not a safetensors file"),
    "a header that is no text": (lambda h, d: _file(b"\xff\xfe" + h[2:], d), "is damaged"),
    "a header that is no JSON": (lambda h, d: _file(h[:-1], d), "is damaged"),
    "a header that is a list": (lambda h, d: _file(b"[1, 2]", d), "its header is not a mapping"),
    "a header that is a number": (lambda h, d: _file(b"12", d), "its header is not a mapping"),
    "a header that is null": (lambda h, d: _file(b"null", d), "its header is not a mapping"),
    "an empty header": (lambda h, d: _file(b"{}", b""), "is of another kind"),
    "a header that has no end": (lambda h, d: _file(b"[" * 200_000, d), "is damaged"),
    "a number that has no end": (lambda h, d: _file(b"1" * 9_000, d), "is damaged"),
    "NaN": (lambda h, d: _file(h[:-1] + b', "x": NaN}', d), "NaN is not a JSON number"),
    "two headers": (lambda h, d: _file(h + h, d), "is damaged"),
    "an array twice": (lambda h, d: _file(_again(h, SITE), d), f"it names '{SITE}' twice"),
    "tokens twice": (lambda h, d: _file(_again(h, "tokens"), d), "it names 'tokens' twice"),
    "metadata twice": (lambda h, d: _file(_again(h, "__metadata__"), d), "it names '__metadata__' twice"),
    "a shape twice": (lambda h, d: _file(h.replace(b'"shape"', b'"shape": [1], "shape"', 1), d), "'shape' twice"),
}


def _file(header, data):
    return len(header).to_bytes(8, "little") + header + data


def _again(header, name):
    return header[:-1] + f", {json.dumps(name)}: {json.dumps(json.loads(header)[name])}}}".encode()


@pytest.mark.parametrize(("change", "message"), BYTES.values(), ids=BYTES)
def test_bytes_that_are_no_cache_are_refused(path, change, message):
    header, data = parts(path)
    path.write_bytes(change(json.dumps(header).encode(), data))
    with pytest.raises(FileError, match=rf"Got {path}, which .*{message}.* Capture it again"):
        ActivationCache.load(path)


def entry(name=SITE, **changes):
    return lambda header: header[name].update(changes)


def without(field):
    return lambda header: header[SITE].pop(field)


def exchanged(header):
    header[SITE], header[OTHER] = header[OTHER], header[SITE]


# Arrays of the header.
ENTRIES = {
    "no dtype": (without("dtype"), "must have dtype, shape and data_offsets"),
    "no shape": (without("shape"), "must have dtype, shape and data_offsets"),
    "no offsets": (without("data_offsets"), "must have dtype, shape and data_offsets"),
    "a field too many": (entry(strides=[1]), "must have dtype, shape and data_offsets"),
    "an array that is null": (lambda h: h.update({SITE: None}), "must have dtype, shape and data_offsets"),
    "an array that is a list": (lambda h: h.update({SITE: []}), "must have dtype, shape and data_offsets"),
    "an unknown dtype": (entry(dtype="F8_E4M3"), "has the dtype 'F8_E4M3'"),
    "a dtype in small letters": (entry(dtype="f32"), "has the dtype 'f32'"),
    "a dtype that is a number": (entry(dtype=32), "has the dtype 32"),
    "a dtype that is a list": (entry(dtype=["F32"]), r"has the dtype \['F32'\]"),
    "a narrower dtype": (entry(dtype="F16"), "bytes, but its shape needs"),
    "a wider dtype": (entry(dtype="F64"), "bytes, but its shape needs"),
    "a shape that is a number": (entry(shape=24), "has the shape 24"),
    "a shape that is null": (entry(shape=None), "has the shape None"),
    "a negative shape": (entry(shape=[-2, -4, 3]), "has the shape"),
    "a shape of fractions": (entry(shape=[2.0, 4, 3]), "has the shape"),
    "a shape of texts": (entry(shape=["2", 4, 3]), "has the shape"),
    "a shape of truth values": (entry(shape=[True, 8, 3]), "has the shape"),
    "a huge shape": (entry(shape=[2**40, 0]), "has the shape"),
    "a shape that overflows": (entry(shape=[2**30, 2**30, 2**30]), "bytes, but its shape needs"),
    "a shape too large": (entry(shape=[2, 4, 4]), "bytes, but its shape needs"),
    "a shape too small": (entry(shape=[2, 4, 2]), "bytes, but its shape needs"),
    "an empty shape": (entry(shape=[]), "bytes, but its shape needs"),
    "one offset": (entry(data_offsets=[0]), "has the offsets"),
    "three offsets": (entry(data_offsets=[0, 96, 96]), "has the offsets"),
    "offsets that are null": (entry(data_offsets=None), "has the offsets"),
    "negative offsets": (entry(data_offsets=[-96, 0]), "has the offsets"),
    "offsets of fractions": (entry(data_offsets=[0.0, 96.0]), "has the offsets"),
    "offsets of texts": (entry(data_offsets=["0", "96"]), "has the offsets"),
    "offsets the other way round": (entry(data_offsets=[96, 0]), "bytes, but its shape needs"),
    "offsets past the end": (entry(data_offsets=[10**6, 10**6 + 96]), "an array begins at byte"),
    "offsets of another array": (lambda h: h[SITE].update(data_offsets=h[OTHER]["data_offsets"]), "an array begins at"),
    "offsets that leave a gap": (lambda h: h["tokens"].update(data_offsets=[200, 232]), "an array begins at byte"),
    "an array of nothing on the way": (
        lambda h: h.update(x={"dtype": "F32", "shape": [0], "data_offsets": [7, 7]}),
        "an array begins at byte",
    ),
    "an array too few": (lambda h: h.pop("tokens"), r"an array begins at byte|is cut off or too long"),
    "two arrays exchanged": (exchanged, "its checksum differs"),
    "another shape of the same size": (entry(shape=[2, 3, 4]), "is inconsistent"),
    "metadata that are a list": (lambda h: h.update(__metadata__=[]), "its metadata does not map names to text"),
    "metadata that are null": (lambda h: h.update(__metadata__=None), "is of another kind"),
    "metadata of numbers": (
        lambda h: h["__metadata__"].update(n_positions=4),
        "its metadata does not map names to text",
    ),
}


@pytest.mark.parametrize(("change", "message"), ENTRIES.values(), ids=ENTRIES)
def test_arrays_that_are_not_what_the_header_says_are_refused(path, change, message):
    header, data = parts(path)
    change(header)
    put(path, header, data)
    with pytest.raises(FileError, match=rf"Got {path}, which .*{message}.* Capture it again"):
        ActivationCache.load(path)


def says(**texts):
    return lambda header: header["__metadata__"].update({n: json.dumps(value) for n, value in texts.items()})


def text(name, value):
    return lambda header: header["__metadata__"].update({name: value})


def lacks(name):
    return lambda header: header["__metadata__"].pop(name)


def shaped(name, *shape, **changes):
    return lambda header: header[name].update(shape=list(shape), **changes)


def renamed(name, other):
    def change(header):
        header[other] = header.pop(name)
        header["__metadata__"]["sites"] = header["__metadata__"]["sites"].replace(name, other)

    return change


NAMES = ("sites", "positions", "n_positions", "n_layers", "model", "versions")
# What the metadata say. Each of these has the checksum that its contents ask for.
SAYS = {
    **{f"no {name}": (lacks(name), f"'{name}' is missing") for name in NAMES},
    **{f"{name} of nothing": (text(name, ""), "is damaged") for name in NAMES},
    **{f"{name} cut off": (text(name, "["), "is damaged") for name in NAMES},
    **{f"{name} that are a text": (says(**{name: "a"}), "is damaged|is inconsistent") for name in NAMES},
    **{f"{name} of NaN": (text(name, "NaN"), "NaN is not a JSON number") for name in NAMES},
    "no format": (lacks("format"), "is of another kind"),
    "something more": (text("more", "1"), "'more' is missing or unexpected"),
    "another format": (text("format", "mlx_patch.ActivationStore/2"), "is of another kind"),
    "a format without a version": (text("format", "mlx_patch.ActivationCache"), "is of version  of the format"),
    "the first version": (text("format", "mlx_patch.ActivationCache/1"), "is of version 1 of the format, where .* 2"),
    "a later version": (text("format", "mlx_patch.ActivationCache/3"), "is of version 3 of the format, where .* 2"),
    "sites twice": (says(sites=[SITE, SITE, OTHER]), "it names 3 sites"),
    "a site too few": (says(sites=[SITE]), "it names 1 sites"),
    "a site too many": (says(sites=[SITE, OTHER, "hook_embed"]), "it names 3 sites"),
    "another site": (says(sites=[SITE, "hook_embed"]), "it names 2 sites"),
    "a site twice and none of another": (says(sites=[SITE, SITE]), "it names 2 sites"),
    "tokens as a site": (says(sites=[SITE, OTHER, "tokens"]), "it names 3 sites"),
    "sites that are numbers": (says(sites=[0, 1]), "its sites are"),
    "sites that are null": (says(sites=None), "its sites are"),
    "sites by number": (says(sites={SITE: 0, OTHER: 1}), "its sites are"),
    "an unknown site": (renamed(SITE, "blocks.1.hook_resid_pots"), "must name a site"),
    "a site in short": (renamed(SITE, "resid_post.1"), "not named by their full names"),
    "a site by two names": (renamed(SITE, "resid_post.0"), "not named by their full names"),
    "a site without its layer": (renamed(SITE, "resid_post"), "must be a block's number"),
    "a layer that the model lacks": (renamed(SITE, "blocks.2.hook_resid_post"), "but its model has 2 layers"),
    "a site of other axes": (renamed(SITE, "blocks.1.attn.hook_z"), "with the axes batch pos head d_head"),
    "a pattern of no keys": (renamed(SITE, "blocks.1.attn.hook_pattern"), "with the axes batch head query_pos key_pos"),
    "positions twice": (says(positions=[0, 0, 2, 3]), "it holds a position twice"),
    "positions below 0": (says(positions=[-1, 0, 1, 2]), "it holds the positions"),
    "positions past the end": (says(positions=[1, 2, 3, 4]), "it holds the positions"),
    "positions too few": (says(positions=[0, 1, 2]), r"has shape \(2, 4, 3\), for 2 prompts and 3 positions"),
    "positions too many": (says(positions=[0, 1, 2, 3, 4], n_positions=5), "it holds the positions"),
    "no position": (says(positions=[]), "it holds the positions"),
    "positions of fractions": (says(positions=[0.0, 1, 2, 3]), "it holds the positions"),
    "positions of truth values": (says(positions=[False, True, 2, 3]), "it holds the positions"),
    "positions of texts": (says(positions=["0", "1", "2", "3"]), "it holds the positions"),
    "positions in a list": (says(positions=[[0, 1, 2, 3]]), "it holds the positions"),
    "positions that are null": (says(positions=None), "its positions are None"),
    "positions that are a number": (says(positions=4), "its positions are 4"),
    "positions by number": (says(positions={"0": 0}), "its positions are"),
    "-3 positions": (says(n_positions=-3), "its prompt has -3 positions"),
    "0 positions": (says(n_positions=0), "its prompt has 0 positions"),
    "3 positions": (says(n_positions=3), r"its tokens are .* of shape \(2, 4\), for 3 positions"),
    "4.0 positions": (says(n_positions=4.0), "its prompt has 4.0 positions"),
    "true positions": (says(n_positions=True), "its prompt has True positions"),
    "null positions": (says(n_positions=None), "its prompt has None positions"),
    "positions before the tokens": (says(n_positions=104), "of 100 to 103"),
    "0 layers": (says(n_layers=0), "its model has 0 layers"),
    "-1 layers": (says(n_layers=-1), "its model has -1 layers"),
    "1 layer": (says(n_layers=1), f"holds {SITE}, but its model has 1 layers"),
    "2.0 layers": (says(n_layers=2.0), "its model has 2.0 layers"),
    "true layers": (says(n_layers=True), "its model has True layers"),
    "a model that is a list": (says(model=[]), "its model is"),
    "a model of numbers": (says(model={"bits": 4}), "its model is"),
    "a model that names a thing twice": (text("model", '{"a": "b", "a": "c"}'), "it names 'a' twice"),
    "versions that are null": (says(versions=None), "its versions is None"),
    "versions of numbers": (says(versions={"mlx": 1}), "its versions is"),
    "tokens in one row": (shaped("tokens", 8), r"its tokens are .* of shape \(8,\)"),
    "tokens with more axes": (shaped("tokens", 2, 4, 1), r"its tokens are .* of shape \(2, 4, 1\)"),
    "tokens of another batch": (shaped("tokens", 4, 2), "it holds the positions|has shape"),
    "tokens of a longer prompt": (shaped("tokens", 1, 8), r"of shape \(1, 8\), for 4 positions"),
    "tokens that are fractions": (entry("tokens", dtype="F32"), "its tokens are mlx.core.float32"),
    "tokens that are truth values": (shaped("tokens", 2, 16, dtype="BOOL"), "its tokens are mlx.core.bool"),
    "whole numbers for activations": (entry(dtype="I32"), f"{SITE} is mlx.core.int32"),
    "bits for activations": (shaped(SITE, 2, 4, 3, dtype="U32"), f"{SITE} is mlx.core.uint32"),
    "a batch of another size": (shaped(SITE, 1, 4, 6), r"has shape \(1, 4, 6\), for 2 prompts and 4 positions"),
    "a row for each of other positions": (shaped(SITE, 2, 3, 4), r"has shape \(2, 3, 4\)"),
    "axes turned round": (shaped(SITE, 4, 2, 3), r"has shape \(4, 2, 3\)"),
    "an axis too few": (shaped(SITE, 2, 12), r"has shape \(2, 12\)"),
    "an axis too many": (shaped(SITE, 2, 4, 3, 1), r"has shape \(2, 4, 3, 1\)"),
}


@pytest.mark.parametrize(("change", "message"), SAYS.values(), ids=SAYS)
def test_what_does_not_hold_together_is_refused(path, change, message):
    """Whatever its checksum."""
    header, data = parts(path)
    change(header)
    put(path, header, data)
    sealed(path)
    with pytest.raises(FileError, match=rf"Got {path}, which .*({message}).* Capture it again"):
        ActivationCache.load(path)


@pytest.mark.parametrize("tokens", [-1, -(2**31)])
def test_tokens_that_are_no_token_ids_are_refused(path, tokens):
    header, data = parts(path)
    start, _ = header["tokens"]["data_offsets"]
    put(path, header, data[:start] + np.int32(tokens).tobytes() + data[start + 4 :])
    sealed(path)
    with pytest.raises(FileError, match=rf"Got {path}, which .* its tokens are not all token ids"):
        ActivationCache.load(path)


# What could be: only the checksum tells it from what was written.
PLAUSIBLE = {
    "positions swapped": says(positions=[1, 0, 2, 3]),
    "sites swapped": says(sites=[SITE, OTHER]),
    "another model": says(model={"name": "other"}),
    "another version": says(versions={"mlx": "1"}),
    "more layers": says(n_layers=3),
    "no number of layers": says(n_layers=None),
    "another dtype": entry("tokens", dtype="U32"),
    "another layer": renamed(SITE, "blocks.1.hook_resid_pre"),
    "a checksum of nothing": text("checksum", ""),
    "another checksum": text("checksum", "0" * 32),
    "arrays exchanged": exchanged,
}


@pytest.mark.parametrize("change", PLAUSIBLE.values(), ids=PLAUSIBLE)
def test_what_could_be_but_was_not_written_is_refused(path, change):
    header, data = parts(path)
    change(header)
    put(path, header, data)
    with pytest.raises(FileError, match=rf"Got {path}, which is not what was written: its checksum differs"):
        ActivationCache.load(path)
    sealed(path)
    ActivationCache.load(path)


def test_a_checksum_that_is_missing_is_refused(path):
    header, data = parts(path)
    lacks("checksum")(header)
    put(path, header, data)
    with pytest.raises(FileError, match=rf"Got {path}, which is damaged: 'checksum' is missing"):
        ActivationCache.load(path)


def test_every_bit_of_the_numbers_counts(path):
    header, data = parts(path)
    for at in range(0, 8 * len(data), 101):
        changed = bytearray(data)
        changed[at // 8] ^= 1 << at % 8
        put(path, header, bytes(changed))
        with pytest.raises(FileError, match=rf"Got {path}, which .*(checksum differs|not all token ids)"):
            ActivationCache.load(path)


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16])
def test_what_happens_to_the_file_after_a_load_changes_nothing(tmp_path, dtype):
    path = tmp_path / "cache.safetensors"
    for damage in (
        lambda: os.truncate(path, 0),
        lambda: path.write_bytes(bytes(path.stat().st_size)),
        path.unlink,
        lambda: ActivationCache(dict.fromkeys(made(), mx.zeros((2, 4, 3))), made().tokens, range(4), 4).save(path),
    ):
        made(dtype).save(path)
        held = ActivationCache.load(path)
        damage()
        mx.clear_cache()
        assert same(held, made(dtype))


def test_what_was_loaded_is_for_any_thread(tiny, tokens, tmp_path):
    model = tiny()
    model.run_with_cache(tokens)[1].save(tmp_path / "a.safetensors")
    with ThreadPoolExecutor(1) as pool:
        held = pool.submit(ActivationCache.load, tmp_path / "a.safetensors").result()
        here = model.run(tokens, [Replace(held).at("resid_post", layer=1)])
        there = pool.submit(model.run, held.tokens, [Replace(held).at("resid_post", layer=1)]).result()
    assert mx.array_equal(here, there).item()
    assert mx.array_equal(here, model.run(tokens)).item()


def test_a_folder_a_pipe_and_a_device_are_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for name in (tmp_path, tmp_path / "pipe", "/dev/zero", "/dev/null"):
        with pytest.raises(FileError, match=rf"Got {name}(, which is not a regular file|: Is a directory)"):
            ActivationCache.load(name)


def test_a_cache_that_does_not_hold_together_is_not_saved(tmp_path):
    arrays = {Site("resid_post", 0): mx.zeros((1, 3, 2))}
    message = r"The cache is inconsistent: blocks\.0\.hook_resid_post has shape \(1, 3, 2\), .*could not be read back"
    with pytest.raises(ValueRefusedError, match=message):
        ActivationCache(arrays, mx.array([[1, 2]]), (0, 1), 2).save(tmp_path / "a.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_the_end_of_a_prompt_and_a_mean_come_back(tmp_path):
    arrays = {Site("resid_post", 0): mx.ones((1, 2, 64), mx.bfloat16)}
    behind = ActivationCache(arrays, mx.array([[3, 4]]), (5, 4), 6, {}, 3)
    mean = ActivationCache(arrays, mx.zeros((0, 4), mx.int32), (3, 1), 4, {}, None)
    for held in (behind, mean):
        held.save(tmp_path / "a.safetensors")
        assert same(ActivationCache.load(tmp_path / "a.safetensors"), held)
