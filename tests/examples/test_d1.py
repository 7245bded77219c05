"""The D1 study end to end, on the embedded pairs, as a person runs it."""

import json
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import mlx.core as mx
import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
MODELS = EXAMPLES / "models"
KEYS = {
    "pair",
    "display",
    "d1_group",
    "n_layers",
    "n_tokens",
    "layers_tested",
    "base_id",
    "instruct_id",
    "baselines",
    "instruct_to_base",
    "base_to_instruct",
    "summary",
    "timestamp",
}
LAYER_KEYS = {"tool_call_prob", "effect", "top5", "entropy", "time_s"}
PEAK_KEYS = {f"{way}_peak_{what}" for way in ("i2b", "b2i") for what in ("layer", "effect", "depth_pct")}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """What the bare command gives: its process, and the files that it wrote."""
    folder = tmp_path_factory.mktemp("d1")
    done = subprocess.run(
        [sys.executable, EXAMPLES / "d1_externalization.py"], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done, folder / "results"


@pytest.fixture
def short_talk(d1, d1_data, monkeypatch):
    """The study's conversation without its unrelated turns, with one tool and three items: a third of its tokens."""
    tool = 'You have a notepad. To read it:\n<tool_call>\n{"tool": "read_notes"}\n</tool_call>'
    offered, acknowledged, *_, request = d1_data.build_conversation(tool)
    first = re.sub(r"(?s)4\. Mars.*?\n\n", "\n", offered["content"])
    messages = [{**offered, "content": first}, acknowledged, request]
    monkeypatch.setattr(sys.modules["d1_probe"], "build_conversation", lambda: messages)


def record(folder, pair):
    [path] = folder.glob(f"patching_{pair}_*.json")
    return json.loads(path.read_text())


def without_times(value):
    if isinstance(value, dict):
        return {k: without_times(v) for k, v in value.items() if k not in ("seconds", "timestamp")}
    return value


@pytest.mark.slow
def test_the_bare_command_writes_its_files_and_is_quiet(whole):
    """Records, a summary and figures."""
    done, folder = whole
    names = sorted(path.name.split("_2")[0] if path.name[-6] != "y" else path.name for path in folder.iterdir())
    assert names == [
        "patching_summary.json",
        "patching_summary.png",
        *["patching_tiny_ext"] * 2,
        *["patching_tiny_int"] * 2,
    ]
    assert done.stderr == ""
    assert all(path.read_bytes()[:4] == b"\x89PNG" for path in folder.glob("*.png"))


@pytest.mark.slow
@pytest.mark.parametrize("pair", ["tiny_ext", "tiny_int"])
def test_the_record_has_the_original_s_keys_and_arithmetic(whole, pair):
    done, folder = whole
    result = record(folder, pair)
    assert set(result) >= KEYS
    assert set(result["summary"]) == PEAK_KEYS
    assert result["layers_tested"] == list(range(result["n_layers"]))
    for way, target, prefix in (("instruct_to_base", "base", "i2b"), ("base_to_instruct", "instruct", "b2i")):
        before = result["baselines"][target]["tool_call_prob"]
        for layer in result[way].values():
            assert set(layer) >= LAYER_KEYS
            assert layer["effect"] == pytest.approx(layer["tool_call_prob"] - before, abs=1e-8)
            assert layer["tool_call_prob"] == layer["tool_probs"]["<tool_call>"]
        peak = max(result[way].items(), key=lambda item: abs(item[1]["effect"]))
        assert result["summary"][f"{prefix}_peak_layer"] == int(peak[0])
        assert result["summary"][f"{prefix}_peak_effect"] == peak[1]["effect"]
        depth = round(int(peak[0]) / result["n_layers"] * 100, 1)
        assert result["summary"][f"{prefix}_peak_depth_pct"] == depth
        marked = sum(abs(layer["effect"]) > 0.01 for layer in result[way].values())
        assert done.stdout.count("***") >= marked


@pytest.mark.slow
def test_the_curves_make_sense(whole):
    """The last stream of one model, read by the other's unembedding, gives close to the first one's probability."""
    _, folder = whole
    for pair in ("tiny_ext", "tiny_int"):
        result = record(folder, pair)
        last = str(result["n_layers"] - 1)
        for way, donor in (("instruct_to_base", "instruct"), ("base_to_instruct", "base")):
            wanted = result["baselines"][donor]["tool_call_prob"]
            assert result[way][last]["tool_call_prob"] == pytest.approx(wanted, abs=0.1)
    ext = record(folder, "tiny_ext")
    assert ext["baselines"]["instruct"]["tool_call_prob"] >= 0.9
    assert ext["baselines"]["base"]["tool_call_prob"] <= 0.05
    assert ext["summary"]["i2b_peak_effect"] > 0.5
    assert ext["summary"]["b2i_peak_effect"] < -0.5
    assert record(folder, "tiny_int")["baselines"]["instruct"]["tool_call_prob"] <= 0.05


@pytest.mark.slow
def test_the_summary_says_what_the_records_say(whole):
    _, folder = whole
    summary = json.loads((folder / "patching_summary.json").read_text())
    assert summary["n_pairs"] == 2
    for pair, entry in summary["pairs"].items():
        result = record(folder, pair)
        assert {key: entry[key] for key in PEAK_KEYS} == result["summary"]
        assert entry["instruct_baseline_tool_prob"] == result["baselines"]["instruct"]["tool_call_prob"]
        assert entry["base_baseline_tool_prob"] == result["baselines"]["base"]["tool_call_prob"]


@pytest.mark.slow
def test_the_screen_says_where_half_of_the_gap_is_crossed(whole):
    """And not that the last layer is the donor, whose output it has by construction."""
    done, folder = whole
    *_, said = done.stdout.split("COMPLETE\n")
    assert "base to instruct: half of the gap is crossed at layer 1 (16.7%)\n" in said
    assert "instruct to base: half of the gap is crossed only at layer 5 (83.3%), the last, and there by" in said
    assert said.count("no effect (largest 7e-06)\n") == 2
    assert "peak" not in done.stdout
    assert "0.9755" not in said
    rows = [line for line in done.stdout.splitlines() if line.startswith("  Layer   5/6")]
    assert len(rows) == 4
    assert all(row.endswith("the donor's output by construction") for row in rows)
    for pair in ("tiny_ext", "tiny_int"):
        result = record(folder, pair)
        for way, finding in result["half_of_gap"].items():
            assert f"{way.replace('_', ' ')}: {finding['finding']}\n" in said
    summary = json.loads((folder / "patching_summary.json").read_text())
    assert summary["pairs"]["tiny_ext"]["half_of_gap"] == record(folder, "tiny_ext")["half_of_gap"]


@pytest.mark.slow
def test_the_screen_explains_its_words_before_it_uses_them(whole):
    done, _ = whole
    for word in ("externaliser", "internaliser", "group A", "***", "effect", "gap"):
        assert done.stdout.index(word) < done.stdout.index("ACTIVATION PATCHING")


@pytest.mark.slow
def test_times_are_real_or_absent(whole):
    """All layers run together, so that a layer has no time of its own."""
    done, folder = whole
    assert not re.search(r"\[\d+\.\ds\]", done.stdout)
    for pair in ("tiny_ext", "tiny_int"):
        result = record(folder, pair)
        for way in ("instruct_to_base", "base_to_instruct"):
            assert result["seconds"][way] > 0
            assert f"6 layers in {result['seconds'][way]:.1f} seconds, together" in done.stdout
            assert {layer["time_s"] for layer in result[way].values()} == {None}


def test_help_names_every_pair_and_explains_the_words(d1, capsys):
    with pytest.raises(SystemExit) as stop:
        d1.main(["--help"])
    assert stop.value.code == 0
    said = capsys.readouterr().out
    for name in ("llama8b", "qwen7b", "mistral7b", "smollm2", "tiny_ext", "tiny_int", "tiny", "all"):
        assert re.search(rf"^  {name} +\S", said, re.MULTILINE), name
    for word in ("externaliser", "internaliser", "group A", "group B", "***"):
        assert word in said


@pytest.fixture
def quick(d1, record_of, monkeypatch):
    """The study without its models, at one minute: `quick(folder)` runs it on the two embedded pairs."""
    calls = []

    class OneMinute:
        @staticmethod
        def now(_):
            return datetime(2026, 1, 2, 3, 4, tzinfo=UTC)

    def study(name, *_):
        calls.append(name)
        return record_of({5: 0.5 + len(calls) / 100}, {5: 0.0}, pair=name)

    monkeypatch.setattr(d1, "datetime", OneMinute)
    monkeypatch.setattr(d1, "study", study)
    return lambda folder: d1.main(["--layers", "5", "--results", str(folder)])


def test_a_second_run_within_a_minute_takes_other_names(quick, tmp_path):
    assert quick(tmp_path) == 0
    first = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert len(first) == 6
    assert quick(tmp_path) == 0
    assert quick(tmp_path) == 0
    assert {name: (tmp_path / name).read_bytes() for name in first} == first
    for pair in ("tiny_ext", "tiny_int"):
        paths = {tmp_path / f"patching_{pair}_20260102T0304{end}" for end in (".json", "-2.json", "-3.json")}
        assert set(tmp_path.glob(f"patching_{pair}_*.json")) == paths
        assert {path.with_suffix(".png") for path in paths} == set(tmp_path.glob(f"patching_{pair}_*.png"))
        probs = [json.loads(path.read_text())["instruct_to_base"]["5"]["tool_call_prob"] for path in sorted(paths)]
        assert len(set(probs)) == 3
    summaries = {"patching_summary", "patching_summary_20260102T0304", "patching_summary_20260102T0304-2"}
    for ending in (".json", ".png"):
        assert {path.name for path in tmp_path.glob(f"patching_summary*{ending}")} == {n + ending for n in summaries}


def test_a_figure_is_not_written_over_either(quick, tmp_path):
    """Somebody may have kept the figure and not the record."""
    kept = tmp_path / "patching_tiny_ext_20260102T0304.png"
    kept.write_bytes(b"a figure")
    assert quick(tmp_path) == 0
    assert kept.read_bytes() == b"a figure"
    assert (tmp_path / "patching_tiny_ext_20260102T0304-2.json").exists()


def test_runs_at_one_time_take_each_a_name_of_their_own(d1, record_of, tmp_path):
    records = [record_of({5: number / 100}, {5: 0.0}) for number in range(24)]
    with ThreadPoolExecutor(8) as pool:
        paths = list(pool.map(lambda record: d1.write_pair(record, tmp_path, "20260102T0304"), records))
    assert len(set(paths)) == len(records)
    assert [json.loads(path.read_text()) for path in paths] == records


def test_a_record_that_cannot_be_written_leaves_no_file(d1, record_of, tmp_path):
    record = {**record_of({5: 0.9}, {5: 0.0}), "provenance": object()}
    with pytest.raises(TypeError, match="not JSON serializable"):
        d1.write_pair(record, tmp_path, "20260102T0304")
    assert not list(tmp_path.iterdir())


def test_one_model_at_a_time_gives_the_same_numbers(d1, tmp_path, short_talk):
    for how in ((), ("--sequential",)):
        folder = tmp_path / f"{len(how)}"
        assert d1.main(["--pair", "tiny_ext", "--layers", "5", "--results", str(folder), *how]) == 0
        assert not list(folder.glob(".activations*"))
    assert without_times(record(tmp_path / "0", "tiny_ext")) == without_times(record(tmp_path / "1", "tiny_ext"))


def test_the_last_position_decides_at_the_last_layer(d1, tmp_path, short_talk):
    """At the last layer only the stream of the last position is read: both ways of patching agree."""
    results = {}
    for positions in ("all", "last"):
        folder = tmp_path / positions
        arguments = ["--pair", "tiny_ext", "--layers", "5", "--positions", positions, "--results", str(folder)]
        assert d1.main(arguments) == 0
        results[positions] = record(folder, "tiny_ext")["instruct_to_base"]["5"]
    assert results["all"]["tool_call_prob"] == pytest.approx(results["last"]["tool_call_prob"], abs=1e-3)


def crossed(result, layer, name="tool_call_prob"):
    """The 2 x 2 of a record, with what it must be made of."""
    cells = result["two_by_two"][name][layer]
    early = (cells["other_base"] + cells["other_other"] - cells["base_base"] - cells["base_other"]) / 2
    late = (cells["base_other"] + cells["other_other"] - cells["base_base"] - cells["other_base"]) / 2
    whole = cells["other_other"] - cells["other_base"] - cells["base_other"] + cells["base_base"]
    assert [cells["early"], cells["late"], cells["interaction"]] == pytest.approx([early, late, whole], abs=1e-5)
    return cells


def test_the_2_x_2_is_made_of_both_directions_and_both_models(d1, tmp_path):
    assert d1.main(["--pair", "tiny_ext", "--layers", "4", "--results", str(tmp_path), "--say", "3"]) == 0
    result = record(tmp_path, "tiny_ext")
    cells, base, instruct = crossed(result, "4"), result["baselines"]["base"], result["baselines"]["instruct"]
    assert cells["base_base"] == pytest.approx(base["tool_call_prob"], abs=1e-6)
    assert cells["other_other"] == pytest.approx(instruct["tool_call_prob"], abs=1e-6)
    assert cells["other_base"] == pytest.approx(result["instruct_to_base"]["4"]["tool_call_prob"], abs=1e-6)
    assert cells["base_other"] == pytest.approx(result["base_to_instruct"]["4"]["tool_call_prob"], abs=1e-6)
    said = crossed(result, "4", "logprob")
    assert said["other_base"] == pytest.approx(result["instruct_to_base"]["4"]["tool_call_logprob"], abs=1e-4)
    assert result["writes_the_call"]["instruct_to_base"] == {"unpatched": 0.0, "4": 0.0}
    assert result["writes_the_call"]["base_to_instruct"] == {"unpatched": 1.0, "4": 0.0}


def test_a_base_without_a_chat_template_is_aligned_with_the_chat(d1, tmp_path, short_talk):
    arguments = ["--pair", "tiny_ext", "--layers", "5", "--plain", "--say", "2", "--results", str(tmp_path)]
    assert d1.main(arguments) == 0
    result = record(tmp_path, "tiny_ext")
    assert result["base_prompt"] == "plain"
    assert result["base_n_tokens"] != result["n_tokens"]
    assert result["instruct_to_base"]["5"]["tool_call_prob"] > 0.9  # the last stream decides, wherever it came from
    assert result["base_to_instruct"]["5"]["tool_call_prob"] < 0.01
    assert crossed(result, "5")["other_other"] > 0.9
    assert result["writes_the_call"]["instruct_to_base"] == {"unpatched": 0.0, "5": 1.0}


def test_texts_that_are_drawn_give_a_rate(d1, tmp_path, short_talk):
    """At the last position alone, which the last layer's stream decides."""
    arguments = ["--pair", "tiny_ext", "--layers", "4-5", "--positions", "last", "--say", "2", "--samples", "4"]
    assert d1.main([*arguments, "--results", str(tmp_path)]) == 0
    result = record(tmp_path, "tiny_ext")
    rates = result["writes_the_call"]["instruct_to_base"]
    assert set(rates) == {"unpatched", "4", "5"}
    assert all(rate * 4 == int(rate * 4) for rate in rates.values())
    assert rates["5"] >= 0.75
    assert rates["unpatched"] == 0
    assert abs(rates["4"] - result["instruct_to_base"]["4"]["tool_call_prob"]) < 0.4


def test_a_pair_of_your_own_runs(d1, tmp_path, short_talk):
    arguments = ["--base", str(MODELS / "tiny_base"), "--instruct", str(MODELS / "tiny_instruct_int")]
    assert d1.main([*arguments, "--layers", "5", "--results", str(tmp_path)]) == 0
    assert record(tmp_path, "custom")["base_id"] == str(MODELS / "tiny_base")


@pytest.fixture(scope="module")
def shorter(tmp_path_factory):
    """The base model without its last layer."""
    folder = tmp_path_factory.mktemp("shorter") / "model"
    shutil.copytree(MODELS / "tiny_base", folder)
    config = json.loads((folder / "config.json").read_text())
    last = config["num_hidden_layers"] - 1
    weights = mx.load(str(folder / "model.safetensors"))
    kept = {name: array for name, array in weights.items() if f"layers.{last}." not in name}
    mx.save_safetensors(str(folder / "model.safetensors"), kept, {"format": "mlx"})
    fewer = {"num_hidden_layers": last, "layer_types": config["layer_types"][:last]}
    (folder / "config.json").write_text(json.dumps({**config, **fewer}))
    return folder


REFUSED = {
    "unknown pair": (["--pair", "nope"], "must be one of llama8b, .* Got 'nope'.*--base and --instruct"),
    "reversed layers": (["--layers", "5-2"], "must go up. Got '5-2'. Write 2-5"),
    "layers in words": (["--layers", "five"], "must be a layer or a range. Got 'five'. Write 20 or 25-31"),
    "a negative layer": (["--layers=-3"], "must be a layer or a range. Got '-3'"),
    "past the last layer": (["--layers", "2-6"], r"--layers must lie in 0-5. Got 2-6"),
    "base alone": (["--base", "x"], "must come together"),
    "a pair and a base": (["--pair", "tiny", "--base", "x", "--instruct", "y"], "without --pair"),
    "a folder that is not there": (
        ["--base", "./nowhere", "--instruct", "./nowhere"],
        "must be an existing folder",
    ),
    "an empty folder": (["--base", "EMPTY", "--instruct", "EMPTY"], "must be a folder with a config.json"),
    "a hub that is far": (["--base", "nobody/nothing", "--instruct", "nobody/nothing"], "that mlx_lm can load"),
    "words in tokens": (["--say", "many"], "must be a number. Got 'many'. Write 20"),
    "samples of nothing": (["--samples", "3"], "--samples must come with --say. Give --say 20"),
    "no folder to write to": (["--results", "FILE/results"], "--results must be a folder that can be written to"),
    "models that differ": (["--base", "SHORTER", "--instruct", "BASE"], "must have one n_layers. Got 5 and 6"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_bad_input_is_one_line_and_status_2_before_anything_runs(d1, tmp_path, monkeypatch, capsys, shorter, name):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(d1, "study", lambda *_: pytest.fail("the expensive part was reached"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    stand_ins = {
        "EMPTY": "./empty",
        "FILE/results": "./file/results",
        "SHORTER": str(shorter),
        "BASE": str(MODELS / "tiny_base"),
    }
    arguments, message = REFUSED[name]
    try:
        status = d1.main([stand_ins.get(word, word) for word in arguments])
    except SystemExit as stop:
        status = stop.code
    said = capsys.readouterr()
    assert status == 2
    assert said.err.startswith("error: ")
    assert said.err.count("\n") == 1
    assert re.search(message, said.err), said.err


def test_ctrl_c_keeps_the_pairs_that_are_finished(d1, tmp_path, monkeypatch, capsys, short_talk):
    real, seen = d1.study, []

    def study(name, *rest):
        if seen:
            raise KeyboardInterrupt
        seen.append(name)
        return real(name, *rest)

    monkeypatch.setattr(d1, "study", study)
    assert d1.main(["--pair", "tiny", "--layers", "5", "--results", str(tmp_path)]) == 130
    assert record(tmp_path, "tiny_ext")["layers_tested"] == [5]
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".json"]
    assert "Finished pairs are kept: ['tiny_ext']" in capsys.readouterr().err
