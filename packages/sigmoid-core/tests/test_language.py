"""The Chinese catalogue of this package: every text has an entry, and the compiled file belongs to it."""

import ast
import string
from pathlib import Path

from babel.messages.pofile import read_po
from support.messages import compiled

import sigmoidcore

SOURCES = Path(sigmoidcore.__file__).parent
CATALOGUE = SOURCES / "language" / "zh.po"
TRANSLATING = ("_", "InputError")
"""Functions and errors whose first argument is translated; `counted(count, noun)` makes a text of its noun."""


def texts():
    """All texts of the source that are translated."""
    for path in SOURCES.rglob("*.py"):
        for call in (node for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Call)):
            name, arguments = getattr(call.func, "id", ""), [getattr(node, "value", None) for node in call.args]
            if name in TRANSLATING and isinstance(arguments[0], str):
                yield arguments[0]
            elif name == "counted":
                yield "{count} " + (arguments[2] if len(arguments) > 2 else f"{arguments[1]}s")


def placeholders(text):
    return {name for _, name, _, _ in string.Formatter().parse(text) if name}


def test_every_text_has_a_translation_with_its_placeholders_and_no_entry_is_left_over():
    with CATALOGUE.open("rb") as file:
        catalogue = read_po(file, locale="zh")
    translations = {message.id: message.string for message in catalogue if message.id}
    assert sorted(translations) == sorted(set(texts()))
    for text, translation in translations.items():
        assert translation, text
        assert placeholders(translation) == placeholders(text), text


def test_the_compiled_catalogue_is_that_of_the_source():
    assert CATALOGUE.with_suffix(".mo").read_bytes() == compiled(CATALOGUE)
