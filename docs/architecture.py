"""Draw the architecture from the import contracts in pyproject.toml into docs/figures/architecture.svg.

.venv/bin/python docs/architecture.py            # draw it again
.venv/bin/python docs/architecture.py --check    # exit with 1 if it is out of date
"""

import ast
import sys
import textwrap
import tomllib
from html import escape
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PICTURE = ROOT / "docs" / "figures" / "architecture.svg"
WIDTH, ROW, GAP, MARGIN = 900, 60, 10, 40
"""Size in pixels: of the picture, of a layer, between boxes, left of the boxes for the arrow."""

HEAD = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" fill="#222">
<title>Packages of sigmoidcore. A package imports only from those below it.</title>
<rect width="{width}" height="{height}" fill="#fff"/>
<path d="M20 {top}V{bottom}m-5 -10l5 10l5 -10" fill="none" stroke="#666" stroke-width="1.5"/>
<text transform="translate(14 {middle}) rotate(-90)" font-size="12" fill="#666" text-anchor="middle">imports</text>
"""
BOX = '<rect x="{x:g}" y="{y}" width="{width:g}" height="{height}" rx="5" fill="#e8f0f8" stroke="#5b7fa6"/>\n'
TEXT = '<text x="{x:g}" y="{y}" font-size="{size}"{style}>{text}</text>\n'


def layers() -> list[list[str]]:
    """Names of packages and files, highest layer first, from the contract of type "layers"."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    contracts = project["tool"]["importlinter"]["contracts"]
    (rows,) = (contract["layers"] for contract in contracts if contract["type"] == "layers")
    return [[name.strip(" ()") for name in row.split("|")] for row in rows if row != "__main__"]


def summary(name: str) -> str:
    """First sentence of the docstring of a package or a file."""
    source = ROOT / "src" / "sigmoidcore" / name
    path = source / "__init__.py" if source.is_dir() else source.with_suffix(".py")
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return " ".join(text.split("\n\n")[0].split()).partition(". ")[0].rstrip(".:").replace("`", "")


def box(name: str, x: float, y: int, width: float) -> str:
    """A package: its name, and its summary in at most two lines."""
    lines = textwrap.wrap(summary(name), int((width - 20) / 5.2), max_lines=2, placeholder=" ...")
    texts = [TEXT.format(x=x + 10, y=y + 18, size=13, style=' font-weight="bold"', text=escape(name))]
    texts += [
        TEXT.format(x=x + 10, y=y + 31 + 13 * number, size=10.5, style="", text=escape(line))
        for number, line in enumerate(lines)
    ]
    return BOX.format(x=x, y=y, width=width, height=ROW - GAP) + "".join(texts)


def picture() -> str:
    """The SVG file: one row for each layer."""
    rows = layers()
    height = GAP + ROW * len(rows)
    parts = [HEAD.format(width=WIDTH, height=height, top=GAP, bottom=height - GAP, middle=height // 2)]
    for number, names in enumerate(rows):
        width = (WIDTH - MARGIN - GAP * len(names)) / len(names)
        parts += [
            box(name, MARGIN + place * (width + GAP), GAP + ROW * number, width) for place, name in enumerate(names)
        ]
    return "".join(parts) + "</svg>\n"


if __name__ == "__main__":
    drawn = picture()
    if "--check" not in sys.argv:
        PICTURE.write_text(drawn, encoding="utf-8")
    elif not PICTURE.is_file() or PICTURE.read_text(encoding="utf-8") != drawn:
        sys.exit("docs/figures/architecture.svg is out of date: run .venv/bin/python docs/architecture.py")
