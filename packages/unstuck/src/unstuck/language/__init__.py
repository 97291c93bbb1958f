"""The language of what a person reads: English, or Chinese if `UNSTUCK_LANG` or `--lang` says so.

`_` translates a text by the gettext catalogues `zh.mo`, which `make messages` compiles from `zh.po`. A text without an
entry stays English. What a program reads (JSON) is English in every language: `english` gives the original of a
translated text.
"""

import functools
import gettext
import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from importlib.resources import files

LANGUAGES = ("en", "zh")
VARIABLE = "UNSTUCK_LANG"
_SPOKEN: ContextVar[str | None] = ContextVar("spoken", default=None)


def _(text: str, /, **values: object) -> str:
    """A text in the user's language, with values for its placeholders; a translated text stays unchanged.

    Example:
        >>> _("{count} layers", count=3)
        '3 layers'
    """
    if isinstance(text, Translated):
        return text
    if language() == LANGUAGES[0]:
        return text.format(**values) if values else text
    translated = catalogue(language()).gettext(text) if text else text  # "" is the header of a catalogue
    if not values:
        return Translated.of(translated, text)
    for name, value in values.items():
        if str(value).endswith("）"):  # a full-width bracket has its space inside
            translated = translated.replace(f"{{{name}}} ", f"{{{name}}}")
    originals = {n: english(str(v)) if isinstance(v, str | BaseException) else v for n, v in values.items()}
    return Translated.of(translated.format(**values), text.format(**originals))


class Translated(str):
    """A text in another language than English, with its original."""

    original: str

    @classmethod
    def of(cls, text: str, original: str) -> "Translated":
        """A text and its English original."""
        made = cls(text)
        made.original = original
        return made

    def __str__(self) -> str:
        return self

    def __add__(self, other: str) -> str:
        return Translated.of(super().__add__(other), self.original + english(other))

    def __radd__(self, other: str) -> str:
        return Translated.of(other + str.__str__(self), other + self.original)

    def join(self, texts: Iterable[str], /) -> str:
        """The texts with this one between them."""
        texts = list(texts)
        return Translated.of(super().join(texts), self.original.join(map(english, texts)))


def english(text: str) -> str:
    """The English original of a translated text; any other text unchanged."""
    return text.original if isinstance(text, Translated) else text


def edited(text: str, edit: Callable[[str], str]) -> str:
    """A text after a change that suits every language."""
    return Translated.of(edit(text), edit(text.original)) if isinstance(text, Translated) else edit(text)


@contextmanager
def speaking(language: str) -> Iterator[None]:
    """Context in which texts are in this language, for a thread or a task whose reader is another one."""
    token = _SPOKEN.set(language)
    try:
        yield
    finally:
        _SPOKEN.reset(token)


def language() -> str:
    """The language of the context, or the one that the environment asks for."""
    asked = _SPOKEN.get() or os.environ.get(VARIABLE) or LANGUAGES[0]
    short = re.split(r"[-_.]", asked)[0].lower()  # of zh_CN.UTF-8
    if short not in LANGUAGES:
        raise ValueError(f"the language (--lang, {VARIABLE}) is {asked[:40]!r}: choose {' or '.join(LANGUAGES)}")
    return short


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
