"""Files with right checksums whose contents do not hold together, and what is said of them."""

import json

import pytest
from file_damage import Member, members_of, replaced, tensors_file, zip_of
from file_kinds import KINDS, seal_tensors

from mlx_patch.errors import FileError
from mlx_patch.results import json_text


def altered_about(content, path, text):
    """A zip with another text in place of a value of its description."""
    members = {member.name: member for member in members_of(content)}
    about = json.loads(members[b"about.json"].data)
    members[b"about.json"] = Member(b"about.json", replaced(about, path, text).encode())
    return zip_of(list(members.values()))


def altered_fit(content, path, text):
    """A lens with another text in place of a value of its fit."""
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    fit = json.loads(header["__metadata__"]["fit"])
    header["__metadata__"]["fit"] = replaced(fit, path, text)
    return seal_tensors(tensors_file(header, content[8 + size :]))


SITE = "blocks.0.hook_resid_post"
FORGED = [
    ("SweepResult", altered_about, ("axes",), "3", "which is inconsistent: its axes are no names"),
    ("SweepResult", altered_about, ("coords",), "[]", "its coordinates must map names to values"),
    ("SweepResult", altered_about, ("coords", "layer", 0), "null", "its coordinates along 'layer' are no labels"),
    ("SweepResult", altered_about, ("provenance",), "null", "its provenance must map names to values"),
    ("SweepResult", altered_about, ("provenance", "metrics"), "5", "its metrics are no names"),
    ("SweepResult", altered_about, ("provenance", "metrics"), '["a", "b"]', "it has several metrics, but no axis"),
    ("SweepResult", altered_about, ("provenance", "selected"), "[3]", "its selection must map names to values"),
    ("SweepResult", altered_about, ("provenance", "selected"), '{"a": null}', "its selection has no labels"),
    ("SweepResult", altered_about, ("plan",), "3", "its plan must map names to values"),
    ("PairResult", altered_about, ("noising", "axes"), '["layer"]', "is inconsistent: `axes` must be different"),
    ("PairResult", altered_about, ("noising", "coords", "layer"), "[5, 6]", "must have the axes and coordinates of"),
    ("checkpoint", altered_about, ("plan", "n_layers"), "2", "its plan is of another sweep"),
    ("checkpoint", altered_about, ("plan", "executor"), '"none"', "its plan is of another sweep"),
    ("checkpoint", altered_about, ("plan", "memory"), "-1", r"its plan has no counts in \{'piece': 256, 'memory': -1"),
    ("checkpoint", altered_about, ("plan", "piece"), "0", r"its plan has no counts in \{'piece': 0"),
    (
        "checkpoint",
        altered_about,
        ("plan", "passes", 0, "start"),
        "2",
        "does not have every cell once, where it begins",
    ),
    ("checkpoint", altered_about, ("identity",), '{"a": "b"}', "which has another library version and"),
    ("TunedLens", altered_fit, (), "3", "is damaged: its fit is no record"),
    ("TunedLens", altered_fit, ("prompts",), "-1", "its fit counts no prompts and positions"),
    ("TunedLens", altered_fit, ("held_out",), '["a"]', "its fit counts no prompts and positions"),
    ("TunedLens", altered_fit, ("settings",), "[]", "its fit does not say how, or on which model"),
    ("TunedLens", altered_fit, ("model",), '{"name": 3}', "its fit does not say how, or on which model"),
    ("TunedLens", altered_fit, ("before",), "[]", "'before' does not map sites to numbers"),
    ("TunedLens", altered_fit, ("after", SITE), '"a"', "'after' does not map sites to numbers"),
    ("TunedLens", altered_fit, ("after",), "{}", "its fit has not the same sites before and after"),
    (
        "JacobianLens",
        altered_fit,
        ("before",),
        f'{{"{SITE}": 1, "{SITE[:-4]}mid": 2}}',
        "has not the same sites before",
    ),
]


@pytest.mark.parametrize(("name", "alter", "place", "text", "message"), FORGED)
def test_what_does_not_hold_together_is_named(tmp_path, name, alter, place, text, message):
    kind = KINDS[name]
    path = kind.write(tmp_path)
    path.write_bytes(alter(path.read_bytes(), place, text))
    with pytest.raises(FileError, match=rf"Got {path}.*{message}"):
        kind.read(path)


def test_a_lens_has_the_arrays_of_its_sites(tmp_path):
    path = KINDS["TunedLens"].write(tmp_path)
    content = path.read_bytes()
    size = int.from_bytes(content[:8], "little")
    header, body = json.loads(content[8 : 8 + size]), content[8 + size :]
    further = {"dtype": "F32", "shape": [1], "data_offsets": [len(body), len(body) + 4]}
    path.write_bytes(seal_tensors(tensors_file({**header, "more": further}, body + bytes(4))))
    with pytest.raises(FileError, match=rf"Got {path}, which is damaged: it has 3 arrays for 1 sites"):
        KINDS["TunedLens"].read(path)


def test_numbers_that_float32_does_not_hold_are_not_shown(tmp_path):
    path = KINDS["show SweepResult"].write(tmp_path)
    fields = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(replaced(fields, ("values", 0, 0, 0, 0), "1e300"), encoding="utf-8")
    with pytest.raises(FileError, match=rf"Got {path}, which is inconsistent: it has numbers that float32 does not"):
        KINDS["show SweepResult"].read(path)


JSON_FILES = [
    ("graph", ("edges", "input->m0", "score"), "1e300", "input->m0 has a score that float32 does not hold"),
    ("graph", ("edges", "input->m0", "score"), '"3"', "input->m0 has the score '3', and is in the graph: True"),
    ("graph", ("edges", "input->m0", "in_graph"), "1", r"input->m0 has the score .*, and is in the graph: 1"),
    ("graph", ("edges", "input->m0"), "3", "input->m0 has no score"),
    ("graph", (), "[]", "it is no mapping"),
    ("graph", ("edges", "input->m0", "score"), "9" * 400, "it has a number of 400 digits"),
    ("show SweepResult", ("axes",), "3", "which is inconsistent: its axes are no names"),
    ("show SweepResult", ("provenance", "selected"), '{"a": null}', "its selection has no labels"),
    ("dictionary saelens json", ("d_in",), f'"{"x" * 100_000}"', r"Got 'x+\.\.\.x+' \(100000 characters\)"),
    ("show DirectLogits", ("remainder",), '{"a": []}', "its remainder has not one number an example"),
]


@pytest.mark.parametrize(("name", "place", "text", "message"), JSON_FILES)
def test_json_that_does_not_hold_together_is_named(tmp_path, name, place, text, message):
    kind = KINDS[name]
    path = kind.write(tmp_path)
    fields = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(replaced(fields, place, text), encoding="utf-8")
    with pytest.raises(FileError, match=rf"{path}.*{message}"):
        kind.read(path)


def test_a_checkpoint_counts_from_nothing(tmp_path):
    kind = KINDS["checkpoint"]
    path = kind.write(tmp_path)
    members = {member.name: member for member in members_of(path.read_bytes())}
    member = members[b"skipped.npy"]
    members[member.name] = Member(member.name, member.data[:-8] + (-1).to_bytes(8, "little", signed=True))
    path.write_bytes(zip_of(list(members.values())))
    with pytest.raises(FileError, match=rf"Got {path}.*it counts less than nothing"):
        kind.read(path)


def test_a_lens_is_as_wide_as_its_model(tmp_path):
    path = KINDS["JacobianLens"].write(tmp_path)
    content = path.read_bytes()
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    name = f"matrix {SITE}"
    for shape, message in (
        ([2, 2], "whose maps have not the width of its own model"),
        ([2, 3], "is damaged: not every matrix has 2 equal axes in float32"),
    ):
        n_bytes = 4 * shape[0] * shape[1]
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [0, n_bytes]}
        path.write_bytes(seal_tensors(tensors_file(header, bytes(n_bytes))))
        with pytest.raises(FileError, match=rf"Got {path}, .*{message}"):
            KINDS["JacobianLens"].read(path)


def test_what_has_no_end_is_not_read_as_prompts(tmp_path):
    (tmp_path / "a.txt").symlink_to("/dev/zero")
    with pytest.raises(FileError, match=r"`--prompt-file` must have at most 67108864 bytes\. Got .*a\.txt, which has"):
        KINDS["prompt"].read(tmp_path / "a.txt")
    (tmp_path / "a.jsonl").symlink_to("/dev/zero")
    with pytest.raises(FileError, match=r"Got .*a\.jsonl, which is no regular file"):
        KINDS["show pairs"].read(tmp_path / "a.jsonl")


def test_an_identity_that_is_made_up_is_another(tmp_path):
    path = KINDS["store resumed"].write(tmp_path)
    index = json.loads(path.read_text(encoding="utf-8"))
    forged = replaced(index, ("identity", "site", 0), "3").encode()
    path.write_bytes(KINDS["store resumed"].seal(forged))
    with pytest.raises(FileError, match=r"which has another site \(number 1 of 1: 3 in the file, .*hook_embed here\)"):
        KINDS["store resumed"].read(path)


def test_half_a_surrogate_pair_is_shown_as_its_escape(tmp_path):
    """UTF-8 does not hold it, and JSON does."""
    path = KINDS["show generation"].write(tmp_path)
    fields = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(replaced(fields, ("text",), '"a\\ud800b"'), encoding="utf-8")
    assert KINDS["show generation"].read(path).endswith("a\\ud800b\n")
    text = json_text({"text": "a\ud800b"})
    assert json.loads(text.encode()) == {"text": "a\ud800b"}
