"""The gallery of broken networks is what its programs do today."""

import subprocess
import sys

import pytest

pytestmark = pytest.mark.integration


def test_the_programs_of_the_gallery_get_the_diagnoses_on_the_page(root):
    command = [sys.executable, "docs/gallery.py", "--check"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, encoding="utf-8", timeout=600)
    assert done.returncode == 0, done.stderr
