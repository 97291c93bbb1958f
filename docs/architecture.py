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
COLUMN, ROW, GAP, MARGIN, TOP = 540, 64, 10, 30, 34
"""Size in pixels: of a package, of a layer, between boxes, left of the boxes for the arrow, of the head."""

HEAD = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" fill="#222">
<title>Parts of both packages. A part imports only from those below it, and Sigmoid Core from unstuck.</title>
<rect width="{width}" height="{height}" fill="#fff"/>
<path d="M16 {top}V{bottom}m-5 -10l5 10l5 -10" fill="none" stroke="#666" stroke-width="1.5"/>
<text transform="translate(11 {middle}) rotate(-90)" font-size="12" fill="#666" text-anchor="middle">imports</text>
"""
BOX = '<rect x="{x:g}" y="{y}" width="{width:g}" height="{height}" rx="5" fill="{fill}" stroke="#5b7fa6"/>\n'
TEXT = '<text x="{x:g}" y="{y}" font-size="{size}"{style}>{text}</text>\n'
PACKAGES = {"sigmoidcore": ("sigmoid-core", "#e8f0f8"), "unstuck": ("unstuck", "#f8f0e4")}
"""Import name: the folder, and the colour of its boxes; the left one imports from the right one."""


def layers(package: str) -> list[list[str]]:
    """Names of packages and files, highest layer first, from the contract of type "layers"."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    contracts = project["tool"]["importlinter"]["contracts"]
    (rows,) = (c["layers"] for c in contracts if c["type"] == "layers" and c["containers"] == [package])
    return [[name.strip(" ()") for name in row.split("|")] for row in rows if row != "__main__"]


def summary(package: str, name: str) -> str:
    """First sentence of the docstring of a package or a file."""
    source = ROOT / "packages" / PACKAGES[package][0] / "src" / package / name
    path = source / "__init__.py" if source.is_dir() else source.with_suffix(".py")
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return " ".join(text.split("\n\n")[0].split()).partition(". ")[0].rstrip(".:").replace("`", "")


def box(package: str, name: str, x: float, y: int, width: float) -> str:
    """A part: its name, and its summary in at most three lines."""
    lines = textwrap.wrap(summary(package, name), int((width - 16) / 4.9), max_lines=3, placeholder=" ...")
    texts = [TEXT.format(x=x + 8, y=y + 16, size=13, style=' font-weight="bold"', text=escape(name))]
    texts += [
        TEXT.format(x=x + 8, y=y + 28 + 11 * number, size=10, style="", text=escape(line))
        for number, line in enumerate(lines)
    ]
    return BOX.format(x=x, y=y, width=width, height=ROW - GAP, fill=PACKAGES[package][1]) + "".join(texts)


def column(package: str, left: int, bottom: int) -> str:
    """The layers of a package, the lowest at the bottom."""
    rows = layers(package)
    top = bottom - ROW * len(rows)
    parts = [TEXT.format(x=left, y=top - 8, size=15, style=' font-weight="bold"', text=PACKAGES[package][0])]
    for number, names in enumerate(rows):
        width = (COLUMN - GAP * len(names)) / len(names)
        parts += [
            box(package, name, left + place * (width + GAP), top + ROW * number, width)
            for place, name in enumerate(names)
        ]
    return "".join(parts)


def picture() -> str:
    """The SVG file: one column for each package, one row for each layer."""
    width = MARGIN + COLUMN * len(PACKAGES)
    height = TOP + ROW * max(len(layers(package)) for package in PACKAGES)
    head = HEAD.format(width=width, height=height, top=TOP, bottom=height - GAP, middle=height // 2)
    columns = (column(package, MARGIN + COLUMN * place, height) for place, package in enumerate(PACKAGES))
    return head + "".join(columns) + "</svg>\n"


if __name__ == "__main__":
    drawn = picture()
    if "--check" not in sys.argv:
        PICTURE.write_text(drawn, encoding="utf-8")
    elif not PICTURE.is_file() or PICTURE.read_text(encoding="utf-8") != drawn:
        sys.exit("docs/figures/architecture.svg is out of date: run .venv/bin/python docs/architecture.py")
