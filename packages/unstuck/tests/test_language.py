"""Messages in another language than English: which one, and what is translated."""

import ast
import os
import re
import string
import subprocess
import sys
from pathlib import Path

from babel.messages.pofile import read_po
from support.messages import compiled

import unstuck
from unstuck.findings import Severity
from unstuck.language import VARIABLE, _, language
from unstuck.language.terminal import text_width, wrapped
from unstuck.rules import RULES

SOURCES = Path(unstuck.__file__).parent
CATALOGUE = SOURCES / "language" / "zh.po"
TRANSLATING = ("_", "replacing", "InputError")
"""Functions and errors whose first argument is translated."""
GRAMMAR = {"verb", "pronoun"}
"""Placeholders for words of English grammar, which a translation may leave out."""
CLOSING = "，。：；、）？！"


def translations() -> dict[str, str]:
    with CATALOGUE.open("rb") as file:
        return {message.id: message.string for message in read_po(file, locale="zh") if message.id}


def texts() -> set[str]:
    """All texts that are translated: arguments of `_`, of errors and counters, of rules and of templates."""
    found = {rule.name for rule in RULES} | {severity.value for severity in Severity} | remedies()
    found |= {f"{{count}} {severity.value}s" for severity in Severity}
    for path in SOURCES.rglob("*.py"):
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            name = getattr(call.func, "id", getattr(call.func, "attr", "")) if isinstance(call, ast.Call) else ""
            given = [arg.value for arg in call.args if isinstance(arg, ast.Constant)] if name else []
            if name in TRANSLATING and given:
                found.add(given[0])
            nouns = [arg.value for arg in call.args[1:] if isinstance(arg, ast.Constant)] if name == "counted" else []
            if nouns:
                found.add(f"{{count}} {nouns[0]}s")
            if name == "listed" and len(call.args) == 3 and given:
                found.add(f"{{count}} {given[-1]}s")
    for path in (*SOURCES.rglob("*.html"), *SOURCES.rglob("*.js")):
        template = path.read_text(encoding="utf-8")
        found |= set(re.findall(r"""\b_\("([^"]+)\"""", template))
        found |= {f"{{count}} {noun}s" for noun in re.findall(r"""\bcounted\([^"]+"([^"]+)\"""", template)}
    return found


def remedies() -> set[str]:
    """The constants of the rules' modules that are sentences."""
    return {
        value
        for rule in RULES
        for name, value in rule.check.__globals__.items()
        if name.isupper() and isinstance(value, str) and " " in value
    }


def parts(text: str) -> tuple[set[str], set[str], bool]:
    """Placeholders, code and a percent sign at the end, which a translation keeps."""
    names = {name for _, name, _, _ in string.Formatter().parse(text) if name} - GRAMMAR
    return names, set(re.findall("`[^`]+`", text)), text.endswith("%")


def test_the_language_is_english_unless_the_environment_asks_for_another(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    assert language() == "en"
    for asked in ("zh", "zh_CN.UTF-8", "zh-Hans", "ZH"):
        monkeypatch.setenv(VARIABLE, asked)
        assert language() == "zh"


def test_an_unknown_language_is_one_line_before_the_run_which_is_english():
    code = "from unstuck.language import language; print(language())"
    result = subprocess.run([sys.executable, "-c", code], env=os.environ | {VARIABLE: "cn"}, capture_output=True)
    assert result.stdout.split() == [b"en"]
    assert result.stderr.splitlines() == [b"UNSTUCK_LANG is 'cn': English is used; choose en or zh"]


def test_every_text_has_a_chinese_translation_and_no_translation_is_left_over():
    known = translations()
    assert (texts() - known.keys(), known.keys() - texts()) == (set(), set())


def test_a_translation_has_the_placeholders_and_the_code_of_its_text():
    assert {text for text, said in translations().items() if not said or parts(said) != parts(text)} == set()


def test_the_compiled_catalogue_is_that_of_the_source():
    assert CATALOGUE.with_suffix(".mo").read_bytes() == compiled(CATALOGUE), "run make messages"


def test_no_space_follows_a_full_width_bracket(monkeypatch):
    monkeypatch.setenv(VARIABLE, "zh")
    names = _("{first} to {last} ({count} of {all})", first="`0`", last="`2`", count=3, all=9)
    assert _("the gradients of {names}", names=names) == "`0` 至 `2`（9中的 3 处）的梯度"
    assert _("the gradients of {names}", names="`0`") == "`0` 的梯度"


def test_lines_of_chinese_end_between_characters_and_never_begin_with_punctuation_that_closes():
    text = (
        "只有 3.5e-26 的梯度到达 `0` 至 `52`（31 层中的 27 层）：它们几乎什么也学不到。"
        "梯度逐层缩小，各层增益的中位数为 0.14。"
    )
    lines = wrapped(text, 40, "  ")
    assert max(map(text_width, lines)) <= 40
    assert len(lines) == 4
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    assert not any(line.strip()[0] in CLOSING for line in lines)
