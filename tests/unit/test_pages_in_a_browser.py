"""Pages in a real browser: opened from the disk without a network, driven by pointer, keys and pickers, looked at."""

import re

import numpy as np
import pytest
from browsers import open_page, reason_for_none, seen_of
from matplotlib.image import imread
from page_samples import PAGED

from mlx_patch.plot import html_page
from mlx_patch.results import SweepResult

HOSTILE = "</script><b>"


@pytest.fixture(scope="module", autouse=True)
def browser(tmp_path_factory):
    """A browser that opens pages. Nothing here runs without."""
    reason = reason_for_none(tmp_path_factory.mktemp("browser"))
    if reason:
        pytest.skip(reason)


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
  report(seen);
});
document.querySelector("details").open = true;
"""


def change_of(label):
    """The change that a cell says."""
    return float(re.search(r"change (-?[\d.e-]+)", label)[1])


def test_a_heatmap_is_drawn_and_driven(tmp_path):
    values = np.arange(2 * 3 * 2 * 2, dtype=np.float32).reshape(2, 3, 2, 2)
    coords = {"layer": (4, 5), "pos": (0, 1, 2), "token": (HOSTILE, "a", "b"), "metric": ("one", "two")}
    coords["example"] = (0, 1)
    baseline = np.array([[1, 2], [3, 5]], np.float32)
    result = SweepResult(values, ("layer", "pos", "metric", "example"), coords, baseline, {"metrics": ["one", "two"]})
    seen = seen_of(result.to_html(), DRIVER, tmp_path)
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


def test_a_curve_is_drawn_and_driven(tmp_path):
    values = np.array([[1, 3], [np.nan, 2], [6, 8]], np.float32)
    coords = {"layer": (0, 1, (2, 3)), "example": (0, 1)}
    result = SweepResult(values, ("layer", "example"), coords, np.array([1, 2], np.float32), {"metrics": ["m"]})
    seen = seen_of(result.to_html(), DRIVER, tmp_path)
    assert seen["errors"] == []
    assert list(map(change_of, seen["labels"])) == [0.5, 5.5]
    assert seen["labels"][1].startswith("layer 2-3: 7, ")
    assert seen["picked"][0][:1] == ["example"]
    assert seen["table"] == ["3", "2", "8"]


ALL_AT_ONCE = """
const seen = {errors: []};
addEventListener("error", event => seen.errors.push(event.message));
const settled = frame => {
  const page = frame.contentDocument, marks = [...page.querySelectorAll("[role=gridcell], circle")];
  const output = page.querySelector("output");
  marks[1].dispatchEvent(new MouseEvent("mouseenter"));
  const hover = output.textContent;
  marks[0].focus();
  page.activeElement.dispatchEvent(new KeyboardEvent("keydown", {key: "ArrowRight", bubbles: true}));
  const walked = output.textContent;
  const picker = page.querySelector("select");
  if (picker) {
    picker.value = picker.options[picker.options.length - 1].value;
    picker.dispatchEvent(new frame.contentWindow.Event("change"));
  }
  const left = [...page.querySelectorAll("[role=gridcell], circle")];
  return {
    marks: marks.length, hover, walked, picked: left[0].getAttribute("aria-label"),
    places: marks.map(mark => [Number(mark.getAttribute("cx")), Number(mark.getAttribute("cy"))]),
    wide: page.documentElement.scrollWidth - page.documentElement.clientWidth,
  };
};
addEventListener("load", () => {
  for (const frame of document.querySelectorAll("iframe")) seen[frame.name] = settled(frame);
  report(seen);
});
"""


@pytest.fixture(scope="module")
def driven(tmp_path_factory):
    """What is seen of one page of each kind, in frames of one page: a browser takes seconds to start."""
    folder = tmp_path_factory.mktemp("pages")
    frames = "".join(
        f'<iframe name="{name}" width="900" height="600" srcdoc="{html_of(make())}"></iframe>'
        for name, make in PAGED.items()
    )
    return seen_of(html_page("all", frames), ALL_AT_ONCE, folder)


def html_of(result):
    """A page as the value of an attribute."""
    return result.to_html().replace("&", "&amp;").replace('"', "&quot;")


@pytest.mark.parametrize("name", PAGED)
def test_every_page_is_driven(driven, name):
    seen = driven[name]
    assert driven["errors"] == []
    assert seen["marks"] > 1
    assert seen["hover"] == seen["walked"] != ""
    assert seen["wide"] <= 0  # nothing but its own boxes scrolls sideways


def test_pages_say_numbers_where_one_points(driven):
    assert driven["curve"]["hover"].startswith("size 2 (0.2): ")
    assert "baseline" not in driven["curve"]["hover"]
    points = sorted(zip(*agreed().values(), strict=True))
    x, y, label = points[1]
    assert driven["agreement"]["hover"].startswith(f"{label}: {y:.4g}, estimated change of kl {x:.4g}, ")
    by_hand = PAGED["two_by_two"]().cells[0, 1, 1].mean()  # the last that the picker has
    assert float(re.search(r"layer 0: (-?[\d.e-]+)", driven["two_by_two"]["picked"])[1]) == pytest.approx(by_hand, 1e-3)


def test_points_are_drawn_where_their_numbers_are(driven):
    """Rightwards and upwards, on one scale."""
    x, y, _ = np.array(sorted(zip(*agreed().values(), strict=True)), object).T
    right, down = np.array(driven["agreement"]["places"]).T
    scale = (right[-1] - right[0]) / (x[-1] - x[0])
    np.testing.assert_allclose(right - right[0], scale * (x - x[0]).astype(float), atol=0.1)
    np.testing.assert_allclose(down - down[0], -scale * (y - y[0]).astype(float), atol=0.1)


def agreed():
    """The points of the agreement: estimated, exact, and where."""
    agreement = PAGED["agreement"]()
    return {"x": agreement.estimates.tolist(), "y": agreement.exact.tolist(), "label": agreement.cells}


@pytest.mark.parametrize("is_dark", [False, True])
def test_a_screenshot_shows_the_page_in_each_mode(is_dark, tmp_path):
    """Its corner is the paper, and somewhere there are the colours of more and of less."""
    page = tmp_path / "page.html"
    PAGED["direct"]().to_html(page)
    mode = [f"--blink-settings=preferredColorScheme={0 if is_dark else 1}"]
    open_page(page, *mode, "--window-size=600,500", f"--screenshot={tmp_path / 'shot.png'}")
    pixels = (imread(tmp_path / "shot.png")[..., :3] * 255).astype(int)
    assert (pixels[0, 0].max() < 60) == is_dark
    spread = pixels[..., 0] - pixels[..., 2]
    assert (np.abs(spread) > 60).sum() > 200
