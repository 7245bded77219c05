"""What a notebook shows of a value: a part of a page, without a script, in which texts are escaped."""

import mlx.core as mx
import pytest
from html_pages import HOSTILE, read_safely

import mlx_patch as mp
from mlx_patch.laws import Finding, Report
from mlx_patch.pairs import PairCheckRow

TOKENS = mx.array([[11, 48, 85, 26]])


def shown(value):
    """What a notebook shows of a value, read."""
    page = read_safely(value._repr_html_())
    assert "script" not in page.attributes
    return page


def test_a_model_says_what_it_is_and_its_sites(tiny):
    page = shown(tiny("llama", "4bit"))
    facts, sites = page.texts["table"]
    assert "quantised4 bits" in facts
    assert "heads4 of width 32, 2 KV heads" in facts
    assert "resid_post0-2batch pos d_model" in sites
    assert len(page.texts["tr"]) == 1 + 7 + 1 + len({site.name for site in tiny().sites})


@pytest.mark.parametrize("name", ["mamba", "gpt2", "mixtral"])
def test_models_of_every_kind_are_shown(tiny, name):
    facts, _ = shown(tiny(name)).texts["table"]
    assert f"architecture{name}" in facts
    assert "quantised" not in facts
    assert ("heads" in facts) == (name != "mamba")


def test_a_model_s_name_is_escaped(tiny):
    assert HOSTILE in shown(mp.HookedModel(tiny().model, name=HOSTILE)).texts["p"][0]


def test_an_alignment_is_two_rows_of_tokens():
    page = shown(mp.Alignment((5, 6, 7), (5, 8, 9, 7), ((0, 0), (1, 2), (2, 3))))
    kinds = [cell["class"] for cell in page.attributes["td"]]
    assert kinds == ["same", "gap", "changed", "same", "same", "alone", "changed", "same"]
    assert page.texts["td"] == ["5", "", "6", "7", "5", "8", "9", "7"]
    assert page.attributes["td"][2]["title"] == "position 1, paired with 2"
    assert page.texts["th"] == ["source", "target"]


def test_tokens_of_an_alignment_are_escaped(word_tokenizer):
    class Hostile:
        """A tokenizer whose every token would write into the page."""

        def decode(self, ids):
            return "<b>" * len(ids)

    alignment = mp.Alignment((1, 2), (1, 2), ((0, 0), (1, 1)), Hostile(), Hostile())
    assert shown(alignment).texts["td"] == ["<b>"] * 4


def test_pairs_underline_what_differs():
    pair = mp.PromptPair("John gave <b> to", "Mary gave <b> to", " Mary", " John")
    page = shown(pair)
    assert page.texts["mark"] == ["John", "Mary"]
    assert page.texts["td"] == ["0", "John gave <b> to", "Mary gave <b> to", "' Mary'", "' John'"]
    many = shown(mp.PromptPairs([pair] * 23, name="<b>"))
    assert many.texts["p"] == ["PromptPairs(<b>: 23 pairs)"]
    assert many.texts["td"][-1] == "and 3 more"
    assert len(many.texts["tr"]) == 1 + 20 + 1


def test_pairs_of_chats_and_of_ids_are_shown():
    chats = [[{"role": "user", "content": text}] for text in ("red <b>", "blue <b>")]
    assert shown(mp.PromptPair(*chats, 1, 2)).texts["td"][1:3] == ["user: red <b>", "user: blue <b>"]
    assert shown(mp.PromptPair([1, 2], [1, 3], 1, 2)).texts["td"][1:3] == ["[1, 2]", "[1, 3]"]


def test_a_check_of_pairs_shows_what_fails():
    pair = mp.PromptPair([1, 2], [1, 3], 1, 2)
    rows = PairCheckRow("<b>", (2, 2), 2.0, -1.0), PairCheckRow("x", problem="lengths <b> differ")
    page = shown(mp.PairReport((pair, pair), rows, name="ioi"))
    assert page.texts["p"] == ["ioi: 1 of 2 pass. Answer minus foil, in nats."]
    assert [row.get("class") for row in page.attributes["tr"]] == [None, "passes", "fails"]
    assert page.texts["td"][:6] == ["0", "<b>", "2.00", "-1.00", "3.00", "passes"]
    assert page.texts["td"][-1] == "FAILS: lengths <b> differ"


def test_a_report_of_laws_shows_what_is_broken():
    findings = Finding(1, "logits", 0.0, 0.0), Finding(2, "<b>", 0.5, 0.1), Finding(2, "y", 0.01, 0.1)
    report = Report("llama", findings)
    page = shown(report)
    assert page.texts["p"] == ["llama", "broken: law 2, <b>: 0.5 > 0.1"]
    assert page.texts["td"][:4] == ["yes", "1", "0", "0"]
    assert page.texts["td"][5:9] == ["NO", "2", "0.5", "0.1"]
    assert "  2  NO        2  0.5                0.1        what mixer" in str(report)
