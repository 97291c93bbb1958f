"""Write the measured tables of the documentation from benchmarks/results, and check the sentences that quote them.

.venv/bin/python docs/results.py            # write the tables again, and name the sentences that are out of date
.venv/bin/python docs/results.py --check    # change nothing; exit with 1 if anything is out of date

A table stands after `<!-- results: NAME -->`. Its head is the page's, in the page's language; the function NAME of
`result_tables` makes the rows. A sentence of `result_tables` has to be in its page, with today's figures.
"""

import re
import sys
from pathlib import Path

from result_tables import SENTENCES, TABLES

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("README*.md", "packages/*/README.md", "docs/*.md", "benchmarks/DETAILS.md")
PAGES = tuple(str(page.relative_to(ROOT)) for pattern in FOLDERS for page in sorted(ROOT.glob(pattern)))
BLOCK = re.compile(r"(<!-- results: (\w+) -->\n+(?:\|.*\n){2})((?:\|.*\n)*)")


def written(text: str) -> str:
    """A page with today's rows in each of its tables."""

    def renewed(block: re.Match[str]) -> str:
        head, name, _ = block.groups()
        return head + "".join(f"| {' | '.join(cells)} |\n" for cells in TABLES[name]())

    return BLOCK.sub(renewed, text)


def missing(name: str, text: str) -> list[str]:
    """The sentences that a page should have and has not."""
    flat = " ".join(text.split())
    return [sentence for sentence in SENTENCES.get(name, list)() if sentence not in flat]


def main() -> None:
    """Write or check the pages."""
    check = "--check" in sys.argv[1:]
    stale = []
    for name in PAGES:
        page = ROOT / name
        text = page.read_text(encoding="utf-8")
        if written(text) != text:
            if check:
                stale.append(f"{name}: a table differs from benchmarks/results; run make results")
            else:
                page.write_text(written(text), encoding="utf-8")
        stale += [f"{name}: should say: {sentence}" for sentence in missing(name, text)]
    if stale:
        sys.exit("\n".join(stale))


if __name__ == "__main__":
    main()
