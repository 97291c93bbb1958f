"""Examples of the documentation that need more than the package."""

import pytest
from support.pages import PAGES, TRANSLATIONS, blocks, execute, run

pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("default")]


@pytest.mark.parametrize(
    "page", [p for p in PAGES if p not in TRANSLATIONS and any("needs" in block.marks for block in blocks(p))]
)
def test_the_python_of_the_page_runs_with_other_frameworks(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    run(page, monkeypatch, integrations=True)


FIRST, *EXAMPLES = (b for b in blocks("docs/integrations.md") if b.language == "python" and not b.hidden)


@pytest.mark.parametrize("block", EXAMPLES, ids=lambda block: str(block.line))
def test_an_example_for_a_framework_needs_only_the_first_block_of_its_page(block, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": "copied"}
    for part in (FIRST, block):
        execute(part, namespace)
