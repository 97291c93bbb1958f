"""The pages of the documentation whose examples need more than the package, run whole."""

import pytest
from pages import PAGES, TRANSLATIONS, blocks, run

pytestmark = pytest.mark.integration


@pytest.mark.parametrize(
    "page", [p for p in PAGES if p not in TRANSLATIONS and any("needs" in block.marks for block in blocks(p))]
)
def test_the_python_of_the_page_runs_with_other_frameworks(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    run(page, monkeypatch, integrations=True)
