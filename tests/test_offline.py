"""The check that the built documentation fetches nothing from a network."""

import importlib

import pytest


@pytest.fixture
def offline(root, monkeypatch):
    monkeypatch.syspath_prepend(root / "docs")
    return importlib.import_module("offline")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("page.html", '<script async src="https://a.example/mathjax.js"></script>'),
        ("page.html", '<link rel="stylesheet" href="//a.example/style.css">'),
        ("page.html", '<link rel="preconnect" href="HTTPS://a.example">'),
        ("page.html", '<img alt="" src="http://a.example/badge.svg">'),
        ("page.html", '<p style="background: url(https://a.example/x.png)">'),
        ("page.html", "<style>@import 'https://a.example/x.css';</style>"),
        ("page.html", "<script>fetch('https://a.example/search')</script>"),
        ("picture.svg", '<image xlink:href="https://a.example/x.png"/>'),
        ("style.css", "@font-face { src: url('https://a.example/x.woff2') }"),
        ("code.js", 'import("https://a.example/x.js")'),
    ],
)
def test_what_a_page_fetches_from_elsewhere_is_found(offline, name, text):
    assert [address.lower().rpartition("//")[2].startswith("a.example") for address in offline.fetched(name, text)] == [
        True
    ]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("page.html", '<a href="https://a.example">a link</a><img src="_images/x.png"><script src="x.js"></script>'),
        ("page.html", '<link rel="canonical" href="https://a.example/page.html"><p>url(https://a.example)</p>'),
        ("page.html", '<img src="data:image/png;base64,//8=">'),
        ("picture.svg", '<svg xmlns="http://www.w3.org/2000/svg"><use xlink:href="#mark"/></svg>'),
        ("style.css", "/* see https://a.example */ p { background: url(x.png) }"),
        ("code.js", "// see https://a.example\nconst space = 'http://www.w3.org/2000/svg';"),
    ],
)
def test_links_names_and_files_of_the_site_are_allowed(offline, name, text):
    assert offline.fetched(name, text) == []
