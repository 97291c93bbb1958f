"""Take the picture of a diagnosis, diagnosis.png beside this script (needs playwright and a Chromium).

.venv/bin/python docs/figures/diagnosis.py
"""

import shutil
import tempfile
from pathlib import Path

import torch
from playwright.sync_api import sync_playwright
from torch import nn

import unstuck
import unstuck.remedies

PICTURE = Path(__file__).with_suffix(".png")


def diagnosis() -> unstuck.Diagnosis:
    """The diagnosis of a network of 30 layers of sigmoids, without remedies of other packages."""
    unstuck.remedies.extensions = tuple
    torch.manual_seed(0)
    model = nn.Sequential(*(m for _ in range(30) for m in (nn.Linear(64, 64), nn.Sigmoid())), nn.Linear(64, 10))
    inputs, targets = torch.randn(256, 64), torch.randint(10, (256,))
    return unstuck.diagnose(model, inputs, targets, nn.functional.cross_entropy)


def main() -> None:
    """Write the page of the diagnosis, and photograph its beginning."""
    browser_path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))))
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as started:
        page_file = Path(folder) / "diagnosis.html"
        diagnosis().to_html(page_file)
        browser = started.chromium.launch(executable_path=browser_path, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1140, "height": 1160}, color_scheme="light", locale="en-US")
        page.goto(page_file.as_uri())
        page.screenshot(path=PICTURE)
        browser.close()


if __name__ == "__main__":
    main()
