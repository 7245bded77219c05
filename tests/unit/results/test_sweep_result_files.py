"""A result's file: the same bytes for the same numbers, read back as it was, and refused where it is not whole."""

import io
import json
import os
import sys
import zipfile
from dataclasses import dataclass, replace

import numpy as np
import pytest

from mlx_patch.errors import FileError, MissingExtraError
from mlx_patch.sweeps import PairResult, SweepResult


@dataclass(frozen=True)
class Plan:
    """A plan as the engine has it: values, and words."""

    rows: int

    def as_dict(self):
        return {"rows": self.rows}

    def __str__(self):
        return f"{self.rows} rows at a time"


@pytest.fixture
def result():
    """Two windows of layers, two positions, two metrics, two examples, one cell not run."""
    values = np.arange(16, dtype=np.float32).reshape(2, 2, 2, 2)
    values[1, 0] = np.nan
    coords = {
        "layer": ((0, 1), (1, 2)),
        "pos": (3, 9),
        "token": (" Mary", "\n"),
        "metric": ("prob", "kl"),
        "example": (0, 1),
    }
    baseline = np.array([[0.5, 0.25], [-np.inf, 1e-30]], dtype=np.float32)
    provenance = {"versions": {"mlx": "1"}, "tokens": [[1, 2]], "executor": "tree"}
    return SweepResult(values, ("layer", "pos", "metric", "example"), coords, baseline, provenance, Plan(4), 1.5)


@pytest.fixture
def saved(result, tmp_path):
    path = tmp_path / "result.npz"
    result.save(path)
    return path


def test_what_is_loaded_is_what_was_saved(result, saved):
    again = SweepResult.load(saved)
    assert again.values.dtype == np.float32
    assert np.array_equal(again.values, result.values, equal_nan=True)
    assert np.array_equal(again.baseline, result.baseline)
    assert (again.axes, again.coords, again.provenance) == (result.axes, result.coords, result.provenance)
    assert again.missing == 1


def test_a_loaded_plan_says_what_it_said_and_is_saved_again(saved, tmp_path):
    again = SweepResult.load(saved)
    assert str(again.plan) == "4 rows at a time"
    assert again.plan.as_dict() == {"rows": 4}
    again.save(tmp_path / "again.npz")
    assert (tmp_path / "again.npz").read_bytes() == saved.read_bytes()


def test_equal_numbers_give_equal_bytes_whatever_they_took(result, saved, tmp_path):
    other = tmp_path / "other.npz"
    reordered = dict(reversed(result.provenance.items()))
    replace(result, seconds=99.0, provenance=reordered).save(other)
    assert other.read_bytes() == saved.read_bytes()
    assert SweepResult.load(other).seconds is None
    assert json.loads(result.to_json())["seconds"] == 1.5


def test_a_file_says_neither_when_nor_where_it_was_written(saved):
    """Nor on which kind of machine."""
    with zipfile.ZipFile(saved) as archive:
        assert archive.namelist() == ["about.json", "values.npy", "baseline.npy"]
        for entry in archive.infolist():
            assert (entry.date_time, entry.create_system) == ((1980, 1, 1, 0, 0, 0), 3)


def test_other_numbers_give_other_bytes(result, saved, tmp_path):
    values = result.values.copy()
    values[0, 0, 0, 0] = np.nextafter(np.float32(0), np.float32(1))
    replace(result, values=values).save(tmp_path / "other.npz")
    assert (tmp_path / "other.npz").read_bytes() != saved.read_bytes()


def test_numpy_reads_the_arrays_and_needs_no_pickle(result, saved):
    with np.load(saved, allow_pickle=False) as arrays:
        assert np.array_equal(arrays["values"], result.values, equal_nan=True)
        assert np.array_equal(arrays["baseline"], result.baseline)


def test_json_has_the_plan_s_values(result):
    assert json.loads(result.to_json())["plan"] == {"rows": 4}
    assert json.loads(result.to_json())["baseline"][1][0] == "-Infinity"


def test_a_name_must_end_as_it_should(result, tmp_path):
    with pytest.raises(FileError, match=r"`path` must end in '.npz'. Got .*result.json. Choose another name."):
        result.save(tmp_path / "result.json")


def test_what_cannot_be_saved_leaves_the_old_file(result, saved):
    before = saved.read_bytes()
    with pytest.raises(TypeError):
        replace(result, plan=replace(result.plan, rows=object())).save(saved)
    assert saved.read_bytes() == before
    assert [path.name for path in saved.parent.iterdir()] == ["result.npz"]


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(FileError, match=r"a file that SweepResult.save wrote. Got .*none.npz: No such file or dir"):
        SweepResult.load(tmp_path / "none.npz")


def test_a_file_cut_anywhere_is_refused(saved):
    whole = saved.read_bytes()
    for length in range(0, len(whole), 7):
        saved.write_bytes(whole[:length])
        with pytest.raises(
            FileError, match=r"`path` must be a file that SweepResult.save wrote. Got .*damaged or of an"
        ):
            SweepResult.load(saved)


def test_a_flipped_byte_is_refused_or_changes_nothing(result, saved):
    whole, refused = saved.read_bytes(), 0
    for place in range(0, len(whole), 3):
        saved.write_bytes(whole[:place] + bytes([whole[place] ^ 0x41]) + whole[place + 1 :])
        try:
            again = SweepResult.load(saved)
        except FileError:
            refused += 1
            continue
        assert np.array_equal(again.values, result.values, equal_nan=True)
        assert (again.coords, again.provenance) == (result.coords, result.provenance)
    assert refused > len(whole) // 6


def write(path, **members):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name.replace("_", "."), content)


def npy(array, **options):
    content = io.BytesIO()
    np.save(content, array, **options)
    return content.getvalue()


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({}, r"damaged or of another kind: it has no about\.json"),
        ({"about_json": "{"}, r"which is damaged: Expecting property name"),
        ({"about_json": "[1]"}, r"which is of another kind."),
        ({"about_json": '{"format": "mlx_patch.PairResult/1"}'}, r"which is of another kind."),
        ({"about_json": '{"format": "mlx_patch.SweepResult/1"}'}, r"which is inconsistent: its axes are no names"),
        (
            {"about_json": '{"format": "mlx_patch.SweepResult/7"}'},
            r"`path` must have format version 1. Got .*, which has version 7. Read it with the mlx_patch that wrote",
        ),
    ],
)
def test_files_of_another_kind_or_version_are_refused(tmp_path, members, message):
    path = tmp_path / "other.npz"
    write(path, **members)
    with pytest.raises(FileError, match=message):
        SweepResult.load(path)


def test_an_array_that_needs_pickle_is_refused(saved):
    with zipfile.ZipFile(saved) as archive:
        about = archive.read("about.json")
    write(
        saved,
        about_json=about,
        values_npy=npy(np.array([object], dtype=object)),
        baseline_npy=npy(np.zeros(1, np.float32)),
    )
    with pytest.raises(
        FileError, match=r"is damaged: 'values\.npy' holds pickled objects, which may run any code and are never read"
    ):
        SweepResult.load(saved)


def test_arrays_that_do_not_fit_are_refused(saved):
    with zipfile.ZipFile(saved) as archive:
        about = archive.read("about.json")
    write(
        saved,
        about_json=about,
        values_npy=npy(np.zeros((2, 2), dtype=np.float32)),
        baseline_npy=npy(np.zeros(1, np.float32)),
    )
    with pytest.raises(
        FileError, match=r"which is inconsistent: `values` must have the axes layer, pos, metric, example"
    ):
        SweepResult.load(saved)


def test_a_pair_s_file_is_told_from_a_result_s(saved):
    with pytest.raises(FileError, match=r"must be a file that PairResult.save wrote. Got .* which is of another kind"):
        PairResult.load(saved)


def test_a_damaged_pair_is_refused(tmp_path):
    path = tmp_path / "pair.npz"
    write(path, about_json='{"format": "mlx_patch.PairResult/1"}')
    with pytest.raises(
        FileError, match=r"a file that PairResult.save wrote. Got .*, which is inconsistent: 'denoising'"
    ):
        PairResult.load(path)


def test_a_table_has_a_row_for_each_number(result):
    table = result.to_pandas()
    assert list(table.columns) == ["layer", "pos", "token", "metric", "example", "value", "baseline"]
    assert len(table) == 16
    assert table.iloc[5].to_dict() == {
        "layer": (0, 1),
        "pos": 9,
        "token": "\n",
        "metric": "prob",
        "example": 1,
        "value": 5.0,
        "baseline": 0.25,
    }
    assert table[table.pos == 9].groupby("metric").value.max().to_dict() == {"prob": 13.0, "kl": 15.0}


def test_a_data_array_has_coordinates_tokens_and_the_baseline(result):
    array = result.to_xarray()
    assert array.dims == ("layer", "pos", "metric", "example")
    assert array.sel(layer="0-1", pos=9, metric="kl", example=1).item() == 7
    assert array.token.values.tolist() == [" Mary", "\n"]
    assert array.token.dims == ("pos",)
    assert array.baseline.dims == ("metric", "example")
    assert array.sel(metric="prob", example=1).baseline.item() == 0.25
    assert array.attrs["executor"] == "tree"
    assert np.array_equal(array.values, result.values, equal_nan=True)


def test_a_data_array_of_one_metric(result):
    array = result.sel(metric="prob", layer=(0, 1)).to_xarray()
    assert array.baseline.dims == ("example",)
    assert (array - array.baseline).values.tolist() == [[-0.5, 0.75], [3.5, 4.75]]


@pytest.mark.parametrize(("package", "method"), [("pandas", "to_pandas"), ("xarray", "to_xarray")])
def test_a_package_that_is_missing_is_named_with_its_extra(result, monkeypatch, package, method):
    monkeypatch.setitem(sys.modules, package, None)
    message = rf'`{method}` needs {package}\. Got: .* Install the extra: pip install "mlx-patch\[{package}\]"\.'
    with pytest.raises(MissingExtraError, match=message):
        getattr(result, method)()


def test_a_member_that_is_there_twice_is_refused(saved):
    with zipfile.ZipFile(saved, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("values.npy", npy(np.zeros((2, 2), dtype=np.float32)))
    with pytest.raises(FileError, match=rf"Got {saved}, which is damaged: two members have one name"):
        SweepResult.load(saved)


def test_a_description_that_names_a_thing_twice_is_refused(tmp_path):
    path = tmp_path / "twice.npz"
    write(path, about_json='{"format": "mlx_patch.SweepResult/1", "axes": ["layer"], "axes": ["pos"]}')
    with pytest.raises(FileError, match=rf"Got {path}, .*it names 'axes' twice"):
        SweepResult.load(path)


def test_an_array_that_says_it_is_huge_is_refused(saved):
    content = npy(np.zeros((4,), dtype=np.float32)).replace(b"(4,), }            ", b"(400000000000000,), }")
    with zipfile.ZipFile(saved) as archive:
        about = archive.read("about.json")
    write(saved, about_json=about, values_npy=content, baseline_npy=npy(np.zeros(1, np.float32)))
    with pytest.raises(FileError, match=rf"Got {saved}, which is damaged"):
        SweepResult.load(saved)


def test_a_pipe_and_a_device_are_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe.npz")
    for name in (tmp_path / "pipe.npz", "/dev/zero"):
        with pytest.raises(FileError, match=rf"Got {name}, which is not a regular file"):
            SweepResult.load(name)
