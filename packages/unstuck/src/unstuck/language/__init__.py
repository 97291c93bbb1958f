"""The language of what a person reads: English, or Chinese if `UNSTUCK_LANG` or `--lang` says so.

`_` translates a text by the gettext catalogues `zh.mo`, which `make messages` compiles from `zh.po`. A text without an
entry stays as it is.
"""

import functools
import gettext
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from importlib.resources import files

LANGUAGES = ("en", "zh")
VARIABLE = "UNSTUCK_LANG"
if not re.match(f"({'|'.join(LANGUAGES)})?($|[-_.])", asked := os.environ.get(VARIABLE, ""), re.IGNORECASE):
    print(f"{VARIABLE} is {asked[:40]!r}: English is used; choose {' or '.join(LANGUAGES)}", file=sys.stderr)
_SPOKEN: ContextVar[str | None] = ContextVar("spoken", default=None)


def _(text: str, /, **values: object) -> str:
    """A text in the user's language, with values for its placeholders.

    Example:
        >>> _("{count} layers", count=3)
        '3 layers'
    """
    if text and language() != LANGUAGES[0]:  # "" is the header of a catalogue
        text = catalogue(language()).gettext(text)
        for name, value in values.items():
            if str(value).endswith("）"):  # a full-width bracket has its space inside
                text = text.replace(f"{{{name}}} ", f"{{{name}}}")
    return text.format(**values) if values else text


@contextmanager
def speaking(language: str) -> Iterator[None]:
    """Context in which texts are in this language, for a thread or a task whose reader is another one."""
    token = _SPOKEN.set(language)
    try:
        yield
    finally:
        _SPOKEN.reset(token)


def language() -> str:
    """The language of the context, or the one that the environment asks for; English if there is none of this name."""
    short = re.split(r"[-_.]", _SPOKEN.get() or os.environ.get(VARIABLE, ""))[0].lower()  # of zh_CN.UTF-8
    return short if short in LANGUAGES else LANGUAGES[0]


def add_catalogue(package: str) -> None:
    """Let `_` also know the texts of another package, which has a compiled catalogue `zh.mo`."""
    if package not in _PACKAGES:
        _PACKAGES.append(package)
        catalogue.cache_clear()


_PACKAGES = [__name__]


@functools.cache
def catalogue(language: str) -> gettext.NullTranslations:
    """The translations of all packages."""
    found = gettext.NullTranslations()
    for package in _PACKAGES if language != LANGUAGES[0] else ():
        with files(package).joinpath(f"{language}.mo").open("rb") as file:
            found.add_fallback(gettext.GNUTranslations(file))
    return found
