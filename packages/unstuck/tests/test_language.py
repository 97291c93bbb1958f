"""Messages in another language than English: which one, and what is translated."""

import ast
import re
import string
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from typer.main import get_command

import sigmoidcore
from sigmoidcore.cli.app import application
from sigmoidcore.cli.translation import WRONG_ARGUMENTS
from unstuck.findings import Severity
from unstuck.language import VARIABLE, _, catalogue, edited, english, language
from unstuck.language.terminal import text_width, wrapped
from unstuck.rules import RULES

SOURCES = Path(sigmoidcore.__file__).parent
ERRORS = (
    "Stopped", "InputError", "DataError", "SplitError", "MismatchError", "DamagedError", "VersionError", "LostError",
)  # fmt: skip
TRANSLATING = ("_", "replacing", *ERRORS)
"""Functions and errors whose first argument is translated."""
COUNTERS = ("counted",)
"""Functions of a number and a noun, whose plural is translated."""
GRAMMAR = {"verb", "pronoun"}
"""Placeholders for words of English grammar, which a translation may leave out."""
CLOSING = "，。：；、）？！"
TRANSLATED = (
    "cli",
    "diagnosis",
    "training",
    "peers/skipgram",
    "peers/registry.py",
    "peers/comparison.py",
    "lab/protocol.py",
    "lab/setting.py",
    "lab/session.py",
)
"""Packages and modules whose sentences are all translated."""
ENGLISH = {
    "sigmoid-core train ", "sigmoid-core train --resume ", "training=True runs", "--training runs", "bold green",
    "Folder of the run. Default: runs/DATA-DEPTHxWIDTH-N.", "Language of messages. Default: ", ", or en.", "it learns",
    "they learn", "plain sigmoids",
    # in a file
    "# To run this again: sigmoid-core train --config config.toml\n", ", at the start", ", at the end",
    "times target.scale, plus target.mean of the preprocessing, they are in their own unit",
    "scores before the softmax; the classes are in the preprocessing: target.classes",
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-",
    # of PyTorch
    "can't allocate memory", "out of memory", "`broadcast_buffers` is deprecated", "Connection closed by peer",
    "Connection reset by peer", "process group",
    # code
    ".get_submodule(name).alpha.data.mul_(factor) for name, factor in ",
}  # fmt: skip
"""What looks like a sentence and is none for a person: commands, words of files, figures, and errors of PyTorch."""


def calls_of(tree: ast.AST, names: Sequence[str]) -> Iterator[ast.Call]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and getattr(node.func, "id", getattr(node.func, "attr", "")) in names:
            yield node


def texts() -> set[str]:
    """All texts that are translated: arguments of `_`, errors and counters, of rules and of templates."""
    found = {rule.name for rule in RULES} | {severity.value for severity in Severity}
    found |= {f"{{count}} {severity.value}s" for severity in Severity}
    for path in SOURCES.rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        found |= {c.args[0].value for c in calls_of(tree, TRANSLATING) if isinstance(c.args[0], ast.Constant)}
        for call in calls_of(tree, COUNTERS):
            one, *plural = [arg.value for arg in call.args[1:] if isinstance(arg, ast.Constant)] or [""]
            found |= {f"{{count}} {plural[0] if plural else one + 's'}"} if one else set()
        nouns = [call.args[-1] for call in calls_of(tree, ("listed",)) if len(call.args) == 3]
        found |= {f"{{count}} {noun.value}s" for noun in nouns if isinstance(noun, ast.Constant)}
    for path in (*SOURCES.rglob("*.html"), *SOURCES.rglob("*.js")):
        found |= set(re.findall(r"""\b_\("([^"]+)\"""", path.read_text(encoding="utf-8")))
    return found | remedies() | help_texts() | set(WRONG_ARGUMENTS)


def help_texts() -> set[str]:
    """The texts of the commands: what they do, their options, and defaults in words."""
    whole = get_command(application())
    commands = [whole, *whole.commands.values()]
    parameters = [parameter for command in commands for parameter in command.params]
    found = {command.help for command in commands} | {"Show this message and exit."}
    defaults = {p.show_default for p in parameters if isinstance(p.show_default, str)}
    for parameter in parameters:
        text, _words, default = (parameter.help or "").partition(" Default: ")
        found |= {text} if text else set()
        defaults.add(default.removesuffix("."))
    return found | {default for default in defaults if " " in default or default in ("yes", "detected")}


def remedies() -> set[str]:
    """The constants of the rules' modules that are sentences."""
    found = set()
    for rule in RULES:
        constants = rule.check.__globals__
        found |= {v for n, v in constants.items() if n.isupper() and isinstance(v, str) and " " in v}
    return found


def modules(path: Path) -> list[Path]:
    return sorted(path.rglob("*.py")) if path.is_dir() else [path]


def untranslated(path: Path, known: set[str]) -> set[str]:
    """Sentences of a module that reach a person in English only: those outside `_` that are no part of a known text.

    Docstrings, and the errors and notes that programmers get, are no such sentences.
    """
    tree = ast.parse(path.read_text(encoding="utf-8"))
    skipped = {node.value for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for call in calls_of(tree, (*TRANSLATING, "ValueError", "TypeError", "add_note")):
        skipped |= set(ast.walk(call))
    constants = [node for node in ast.walk(tree) if isinstance(node, ast.Constant) and node not in skipped]
    words = {str(node.value) for node in constants if re.search("[A-Za-z]{2,} [a-z]{2,}", str(node.value))}
    return {text for text in words if not any(text in whole for whole in known)}


def placeholders(text: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(text) if name} - GRAMMAR


def test_the_language_is_english_unless_the_environment_asks_for_another(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    assert language() == "en"
    for asked in ("zh", "zh_CN.UTF-8", "zh-Hans", "ZH"):
        monkeypatch.setenv(VARIABLE, asked)
        assert language() == "zh"


def test_an_unknown_language_is_an_error_with_the_choice(monkeypatch):
    monkeypatch.setenv(VARIABLE, "fr")
    with pytest.raises(ValueError, match=r"SIGMOIDCORE_LANG\) is 'fr': choose en or zh"):
        language()


def test_every_text_has_a_chinese_translation_and_no_translation_is_left_over():
    assert texts() == set(catalogue("zh"))


def test_no_sentence_for_a_person_is_without_translation():
    known = texts()
    paths = [path for name in TRANSLATED for path in modules(SOURCES / name)]
    found = {text for path in paths for text in untranslated(path, known)}
    assert found - ENGLISH == set()


def test_a_sentence_outside_the_catalogue_is_found(tmp_path):
    (tmp_path / "new.py").write_text('"""A module."""\nprint(f"{1} rows are gone")\nprint(_("the rest is here"))\n')
    assert untranslated(tmp_path / "new.py", set()) == {" rows are gone"}


def test_a_translated_text_knows_its_english_original_through_values_sums_and_joins(monkeypatch):
    monkeypatch.setenv(VARIABLE, "zh")
    rows = _("{name}: {text}", name=ValueError(_("one row")), text=_("; ").join([_("no rows"), "x"]))
    assert rows == "1 行：0 行；x"
    assert english(rows) == "one row: no rows; x"
    assert english("a " + edited(str(rows), str.upper) + "!") == "a ONE ROW: NO ROWS; X!"


def test_the_remedy_of_every_rule_is_one_of_the_translated_texts():
    assert {rule.remedy for rule in RULES} <= remedies()


def test_a_translation_has_the_placeholders_and_the_code_of_its_text():
    def parts(text):
        return placeholders(text), set(re.findall("`[^`]+`", text)), text.endswith("%")

    different = {text: said for text, said in catalogue("zh").items() if not said or parts(said) != parts(text)}
    assert different == {}


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
