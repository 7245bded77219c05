"""A headless browser that opens a page from the disk, with no network, and says what a script saw there."""

import html
import json
import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
_MAC = Path("/Applications/Google Chrome.app/Contents/MacOS/Google Chrome")


NAMED = os.environ.get("BROWSER", "")
"""A browser that must be there and must answer."""


def installed_browser():
    """A Chromium that is installed; empty if there is none."""
    found = (path for path in map(shutil.which, _NAMES) if path)
    return next(found, str(_MAC) if _MAC.exists() else "")


BROWSER = NAMED or installed_browser()

OPTIONS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--enable-logging=stderr",
    "--proxy-server=127.0.0.1:9",
)
"""Every request goes to a proxy that is not there."""

SECONDS = 40
"""A page takes two. A browser that is not ready then hangs, as one does now and then where it finds no desktop."""

TRIES = 3

REPORT = """
function report(seen) {
  const holder = document.createElement("pre");
  holder.id = "seen";
  holder.textContent = JSON.stringify(seen);
  document.body.append(holder);
}
"""


def reason_for_none(folder):
    """Why no page can be opened here: no browser is installed, or the one that is does not answer. Empty if one can."""
    if not BROWSER:
        return "needs a browser: install chromium, or name one by BROWSER"
    blank = folder / "blank.html"
    blank.write_text("<!doctype html><title>blank</title>", encoding="utf-8")
    try:
        open_page(blank, "--dump-dom")
    except TimeoutError as error:
        if NAMED:
            raise
        return str(error)
    return ""


def open_page(path, *more):
    """What the browser writes about a file that it opens. It must write nothing to its console.

    Args:
        path: The page.
        more: Further options.
    """
    for attempt in range(TRIES):
        profile = path.parent / f"profile{attempt}"
        command = [BROWSER, *OPTIONS, f"--user-data-dir={profile}", "--virtual-time-budget=2000", *more, path.as_uri()]
        answer = _answer_in_time(command)
        if answer is not None:
            written, logged = answer
            assert "CONSOLE" not in logged
            return written
    raise TimeoutError(f"{BROWSER} did not open {path} in {SECONDS} s, {TRIES} times")


def _answer_in_time(command):
    """What a command writes to its output and to its errors; None if it hangs, and then all that it began is killed."""
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    ) as process:  # fmt: skip
        try:
            answer = process.communicate(timeout=SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # its own processes keep the pipes open, so that to wait has no end
            return None
    assert process.returncode == 0, answer
    return answer


def seen_of(page, driver, folder):
    """What a script reports of a page.

    Args:
        page: Its text.
        driver: JavaScript that ends in a call of `report(value)`.
        folder: Where to write it.
    """
    path = folder / "page.html"
    script = f"<script>{REPORT}{driver}</script>"
    path.write_text(page.replace("</body>", f"{script}</body>"), encoding="utf-8")
    [seen] = re.findall(r'<pre id="seen">(.*?)</pre>', open_page(path, "--dump-dom"), flags=re.DOTALL)
    return json.loads(html.unescape(seen))
