"""The script of a result's page, in a browser that is named by BROWSER: `BROWSER=chromium python -m pytest ...`."""

import html
import json
import os
import re
import subprocess

import numpy as np
import pytest

from mlx_patch.results import SweepResult

BROWSER = os.environ.get("BROWSER", "")
HOSTILE = "</script><b>"

DRIVER = """
const seen = {errors: []}, output = document.querySelector("output");
addEventListener("error", event => seen.errors.push(event.message));
const marks = () => [...document.querySelectorAll("[role=gridcell], circle")];
const label = mark => mark.getAttribute("aria-label");
seen.labels = marks().map(label);
seen.colours = marks().map(mark => (mark.style.background.match(/--(less|more)\\) ([\\d.]+)%/) || []).slice(1));
marks()[1].dispatchEvent(new MouseEvent("mouseenter"));
seen.hover = output.textContent;
marks()[0].focus();
seen.keys = ["ArrowRight", "ArrowDown", "End", "Home", "ArrowUp"].map(key => {
  document.activeElement.dispatchEvent(new KeyboardEvent("keydown", {key, bubbles: true}));
  return output.textContent;
});
seen.picked = [...document.querySelectorAll("select")].map(select => {
  const again = document.querySelector(`select[name="${select.name}"]`);
  again.value = again.options[again.options.length - 1].value;
  again.dispatchEvent(new Event("change"));
  return [select.name, label(marks()[0]), document.activeElement.name];
});
seen.bold = document.querySelectorAll("b").length;
document.querySelector("details").addEventListener("toggle", () => {
  seen.table = [...document.querySelectorAll("details td")].map(cell => cell.textContent);
  const holder = document.createElement("pre");
  holder.id = "seen";
  holder.textContent = JSON.stringify(seen);
  document.body.append(holder);
});
document.querySelector("details").open = true;
"""


def seen_of(result, folder):
    """What the driver saw of a page that is opened from the disk, without a network."""
    page = folder / "page.html"
    page.write_text(result.to_html().replace("</body>", f"<script>{DRIVER}</script></body>"), encoding="utf-8")
    options = [
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--enable-logging=stderr",
        "--proxy-server=127.0.0.1:9",
        "--dump-dom",
    ]
    command = [BROWSER, *options, "--virtual-time-budget=2000", page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "CONSOLE" not in done.stderr
    [seen] = re.findall(r'<pre id="seen">(.*?)</pre>', done.stdout, flags=re.DOTALL)
    return json.loads(html.unescape(seen))


def change_of(label):
    """The change that a cell says."""
    return float(re.search(r"change (-?[\d.e-]+)", label)[1])


@pytest.mark.skipif(not BROWSER, reason="needs a browser: set BROWSER=chromium")
def test_a_heatmap_is_drawn_and_driven(tmp_path):
    values = np.arange(2 * 3 * 2 * 2, dtype=np.float32).reshape(2, 3, 2, 2)
    coords = {"layer": (4, 5), "pos": (0, 1, 2), "token": (HOSTILE, "a", "b"), "metric": ("one", "two")}
    coords["example"] = (0, 1)
    baseline = np.array([[1, 2], [3, 5]], np.float32)
    result = SweepResult(values, ("layer", "pos", "metric", "example"), coords, baseline, {"metrics": ["one", "two"]})
    seen = seen_of(result, tmp_path)
    assert seen["errors"] == []
    changes = result.mean() - result.baseline_mean()
    upwards = changes[::-1, :, 0].ravel()
    assert list(map(change_of, seen["labels"])) == upwards.tolist()
    assert seen["labels"][0].startswith(f"layer 5, pos 0 {HOSTILE}: ")
    shares = [100 * change / np.abs(upwards).max() for change in upwards]
    assert [(colour, float(share)) for colour, share in seen["colours"]] == [
        ("less" if share < 0 else "more", pytest.approx(abs(share), rel=1e-4)) for share in shares
    ]
    assert seen["bold"] == 0
    assert seen["hover"] == seen["labels"][1]
    assert seen["keys"] == [seen["labels"][place] for place in (1, 4, 5, 3, 0)]
    of_two = changes[1, 0, 1].item()
    of_example = (values[1, 0, 1, 1] - baseline[1, 1]).item()
    assert [(name, change_of(label), focus) for name, label, focus in seen["picked"]] == [
        ("metric", of_two, "metric"),
        ("example", of_example, "example"),
    ]
    assert list(map(float, seen["table"])) == values[:, :, 1, 1].ravel().tolist()


@pytest.mark.skipif(not BROWSER, reason="needs a browser: set BROWSER=chromium")
def test_a_curve_is_drawn_and_driven(tmp_path):
    values = np.array([[1, 3], [np.nan, 2], [6, 8]], np.float32)
    coords = {"layer": (0, 1, (2, 3)), "example": (0, 1)}
    result = SweepResult(values, ("layer", "example"), coords, np.array([1, 2], np.float32), {"metrics": ["m"]})
    seen = seen_of(result, tmp_path)
    assert seen["errors"] == []
    assert list(map(change_of, seen["labels"])) == [0.5, 5.5]
    assert seen["labels"][1].startswith("layer 2-3: 7, ")
    assert seen["picked"][0][:1] == ["example"]
    assert seen["table"] == ["3", "2", "8"]
