"""A check of the built documentation: no page fetches anything from a network, so that it reads the same offline."""

import re
from html.parser import HTMLParser
from pathlib import Path

FETCHING = {
    ("script", "src"), ("link", "href"), ("img", "src"), ("img", "srcset"), ("source", "src"), ("source", "srcset"),
    ("iframe", "src"), ("video", "src"), ("video", "poster"), ("audio", "src"), ("object", "data"), ("embed", "src"),
    ("track", "src"), ("input", "src"), ("image", "href"), ("use", "href"),
}  # fmt: skip
"""Attributes whose address a browser fetches without a click."""
ONLY_NAMED = {"canonical", "alternate", "author", "license", "next", "prev", "search"}
"""Relations of a `link` that a browser does not fetch."""
ADDRESS = re.compile(r"\s*(?:https?:)?//", re.IGNORECASE)
STYLE = re.compile(r"""(?:url\(\s*|@import\s+)["']?\s*((?:https?:)?//[^"')\s]+)""", re.IGNORECASE)
SCRIPT = re.compile(r"""(?:\bimport\s*\(?|\bfrom|\bfetch\s*\(|\bimportScripts\s*\()\s*["'`]((?:https?:)?//[^"'`]+)""")


class _Page(HTMLParser):
    """Collects the addresses that a page fetches from elsewhere."""

    def __init__(self):
        super().__init__()
        self.found = []
        self._inside = ""

    def handle_starttag(self, tag, attributes):
        values = {name: value or "" for name, value in attributes}
        self._inside = tag if tag in ("script", "style") else ""
        if tag == "link" and set(values.get("rel", "").lower().split()) <= ONLY_NAMED:
            return
        self.found += [
            value.strip()
            for name, listed in values.items()
            for value in (listed.split(",") if name == "srcset" else [listed])
            if (tag, name.removeprefix("xlink:")) in FETCHING and ADDRESS.match(value)
        ]
        self.found += STYLE.findall(values.get("style", ""))

    def handle_endtag(self, tag):
        self._inside = ""

    def handle_data(self, data):
        pattern = {"script": SCRIPT, "style": STYLE}.get(self._inside)
        self.found += pattern.findall(data) if pattern else []


def fetched(name, text):
    """The addresses that a file of the site fetches from elsewhere: a page, a style sheet, a script or a picture."""
    if name.endswith((".html", ".svg")):
        page = _Page()
        page.feed(text)
        return page.found
    return {"css": STYLE, "js": SCRIPT}[name.rpartition(".")[2]].findall(text)


def check(app, error):
    """End the build with an error that names every such address."""
    if error is not None or app.builder.name != "html":
        return
    out = Path(app.outdir)
    files = [path for path in sorted(out.rglob("*.*")) if path.suffix in (".html", ".svg", ".css", ".js")]
    found = {path.relative_to(out): fetched(path.name, path.read_text(encoding="utf-8")) for path in files}
    lines = [f"{path}: {address}" for path, addresses in found.items() for address in addresses]
    if lines:
        raise ValueError("\n".join(["The site has to work offline: put into docs/static what it fetches.", *lines]))


def setup(app):
    """Check after every build."""
    app.connect("build-finished", check)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
