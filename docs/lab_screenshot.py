"""Take the picture of docs/lab.md: .venv/bin/python docs/lab_screenshot.py (needs playwright and a Chromium)."""

import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

PICTURE = Path(__file__).parent / "figures" / "lab.png"
STEPS = 400


def main() -> None:
    """Train the first set-up for some steps, and photograph the page."""
    command = [sys.executable, "-m", "sigmoidcore", "lab", "--port", "0", "--no-browser"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    try:
        address = re.findall(r"http://\S+", server.stdout.readline())[0]
        browser_path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))))
        with sync_playwright() as started:
            browser = started.chromium.launch(executable_path=browser_path, args=["--no-sandbox"])
            page = browser.new_page(viewport={"width": 1280, "height": 720}, color_scheme="light", locale="en-US")
            page.goto(address + "?lang=en")
            page.locator("#clock", has_text="step 0").wait_for(timeout=120_000)
            page.click("#start")
            while int(re.sub(r"\D", "", page.inner_text("#clock")) or 0) < STEPS:
                page.wait_for_timeout(200)
            page.click("#start")
            page.wait_for_timeout(1000)
            page.evaluate("document.getElementById('language').hidden = true")  # its letters need a Chinese font
            page.screenshot(path=PICTURE)
            browser.close()
    finally:
        server.send_signal(signal.SIGINT)
        server.wait()


if __name__ == "__main__":
    main()
