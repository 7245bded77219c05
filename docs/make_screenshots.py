"""Makes the pictures of pages in docs/plots.md, with a headless Chromium: what SmolLM2-135M-Instruct does with a name.

python docs/make_screenshots.py [folder]     needs chromium or Google Chrome; half a minute on 2 cores
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import mlx_patch as mp
from mlx_patch.testing import smollm2_folder

FIGURES = Path(__file__).parent / "figures"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
CLEAN = "When John and Mary went to the shops, John gave a bottle of milk to"
CORRUPTED = "When John and Mary went to the shops, Mary gave a bottle of milk to"
METRIC = mp.metrics.LogitDiff(" Mary", " John")


def screenshot(page: str, path: Path, width: int, height: int, dark: bool = False) -> None:
    """A picture of a page, as it is seen in light or dark mode."""
    browser = next(filter(None, map(shutil.which, BROWSERS)))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "page.html"
        file.write_text(page, encoding="utf-8")
        options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
        options += [f"--user-data-dir={folder}/profile", f"--blink-settings=preferredColorScheme={0 if dark else 1}"]
        options += [f"--window-size={width},{height}", f"--screenshot={path}", "--virtual-time-budget=2000"]
        subprocess.run([browser, *options, file.as_uri()], check=True, capture_output=True)


def pages(model: mp.HookedModel) -> dict[str, str]:
    """The pages that are shown, by the names of their pictures."""
    _, source = model.run_with_cache(CLEAN, ("resid_post", "z"))
    grid = mp.sweep(model, CORRUPTED, mp.Replace(source), at="resid_post", over=("layer", "pos"), metric=METRIC)
    estimate = mp.attribute(
        model, CORRUPTED, mp.Replace(source), at="z", over=("layer", "head"), metric=METRIC, confirm=40, sample=40
    )
    parts = mp.lens.direct_logits(model, CLEAN, " Mary", " John", by="head")
    return {"page_sweep": grid.to_html(), "page_agreement": estimate.agreement.to_html(), "page_heads": parts.to_html()}


def main(folder: Path) -> None:
    """Run, and take the pictures."""
    made = pages(mp.HookedModel.load(smollm2_folder("float32")))
    screenshot(made["page_sweep"], folder / "page_sweep.png", 760, 860)
    screenshot(made["page_agreement"], folder / "page_agreement.png", 760, 640)
    screenshot(made["page_heads"], folder / "page_heads.png", 760, 1000, dark=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else FIGURES)
