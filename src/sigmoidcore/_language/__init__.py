"""The language of what a person reads: English, or Chinese if `SIGMOIDCORE_LANG` or `--lang` says so.

`_` translates a text by the gettext catalogue of the language, `zh.po`. A text without an entry stays English.
"""

import ast
import functools
import os
import re
from importlib.resources import files

LANGUAGES = ("en", "zh")
VARIABLE = "SIGMOIDCORE_LANG"


def _(text: str, **values: object) -> str:
    """A text in the user's language, with values for its placeholders.

    Example:
        >>> _("{count} layers", count=3)
        '3 layers'
    """
    translated = catalogue(language()).get(text, text)
    return translated.format(**values) if values else translated


def language() -> str:
    """The language that the environment asks for.

    Raises:
        ValueError: there is no such language.
    """
    asked = os.environ.get(VARIABLE) or LANGUAGES[0]
    short = re.split(r"[-_.]", asked)[0].lower()  # of zh_CN.UTF-8
    if short not in LANGUAGES:
        raise ValueError(f"the language (--lang, {VARIABLE}) is {asked[:40]!r}: choose {' or '.join(LANGUAGES)}")
    return short


@functools.cache
def catalogue(language: str) -> dict[str, str]:
    """Texts and their translations. Of the gettext format, it reads texts without plurals and contexts."""
    if language == LANGUAGES[0]:
        return {}
    file = files("sigmoidcore._language").joinpath(f"{language}.po")
    entries: list[dict[str, str]] = []
    keyword = ""
    for line in file.read_text(encoding="utf-8").splitlines():
        if line.startswith(("msgid ", "msgstr ")):
            keyword, _space, line = line.partition(" ")
            if keyword == "msgid":
                entries.append({})
            entries[-1][keyword] = ""
        if line.startswith('"'):
            entries[-1][keyword] += ast.literal_eval(line)
    return {entry["msgid"]: entry["msgstr"] for entry in entries if entry["msgid"]}
