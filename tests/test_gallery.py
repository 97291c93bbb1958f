"""The gallery of broken networks: what it shows is in the page, and no program of it is held out."""

import importlib
import re

import pytest


@pytest.fixture
def gallery(root, monkeypatch):
    monkeypatch.syspath_prepend(root / "docs")
    return importlib.import_module("gallery")


def test_the_gallery_has_many_causes_and_nothing_that_is_held_out(gallery):
    exhibits = gallery.GALLERIES[0].exhibits()
    programs = [exhibit.source for exhibit in exhibits]
    assert len({program.name for program in programs}) == len(exhibits) >= 20
    assert len({cause for program in programs for cause in program.causes}) >= 20
    assert {program.half for program in programs} == {"development"}


@pytest.mark.parametrize("name", ["gallery", "modern"])
def test_every_network_has_its_words_its_source_and_its_figure_in_the_page(gallery, name):
    (own,) = (one for one in gallery.GALLERIES if one.name == name)
    page, figures, exhibits = own.page.read_text(encoding="utf-8"), sorted(own.figures.iterdir()), own.exhibits()
    assert len(exhibits) >= 10
    for exhibit in exhibits:
        section = page.split(f"\n### {exhibit.title}\n")[1].split("\n### ")[0]
        for part in (exhibit.symptom, exhibit.source.source, exhibit.code.strip("\n"), f"{name}/{exhibit.slug}.svg"):
            assert part in section
        assert re.search(r"^US\d\d\d (error|warning): ", section, flags=re.MULTILINE)
        assert f"| [{exhibit.title}](#{exhibit.slug}) |" in page
    assert [figure.stem for figure in figures] == sorted(exhibit.slug for exhibit in exhibits)
    assert sum(figure.stat().st_size for figure in figures) < 1_000_000


def test_a_comparison_of_pages_leaves_out_numbers_and_names_of_layers_and_finds_words(gallery):
    report = (
        "```text\nUS302 error: updates too large\n  Steps of `{}` are too large.\n  in {}\n  → Lower the rate.\n```\n"
    )
    assert gallery.without_numbers(report.format("a", "b, c")) == gallery.without_numbers(report.format("d", "e"))
    assert gallery.without_numbers("loss 1.5e-3\nof 20") == gallery.without_numbers("loss 2 of 7")
    assert gallery.without_numbers("US101 vanishing") != gallery.without_numbers("US101 exploding")
