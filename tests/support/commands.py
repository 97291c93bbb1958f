"""Whether a command in the documentation exists and takes its options. Nothing is run."""

import contextlib
import functools
import importlib
import importlib.util
import io
import os
import re
import shlex
import tomllib
from collections.abc import Callable
from pathlib import Path
from unittest import mock

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = {"unstuck": "unstuck.cli", "sigmoid-core": "sigmoidcore.cli"}
"""Our commands, and where their `main` is."""
UNCHECKED = {"cd", "git", "export", "source", "jq", "time", "rm", "tensorboard", "jupyter"}
"""Programs whose options are not checked."""


def commands(text: str) -> list[list[str]]:
    """Split a shell block into the words of its commands, without variables, redirections and comments."""
    found: list[list[str]] = []
    for line in text.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line.strip().removeprefix("$ "), posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        words: list[str] = []
        for word in [*lexer, ";"]:
            if word in ("|", "||", "&&", ";", "&"):
                found.append(words)
                words = []
            elif words or not re.fullmatch(r"\w+=.*", word):
                words.append(word)
    ends = [[i for i, word in enumerate(words) if word in (">", ">>", "2>", "<")] for words in found]
    return [words[: end[0]] if end else words for words, end in zip(found, ends, strict=True) if words]


def complaint(words: list[str]) -> str | None:
    """Say what is wrong with a command; None if nothing is."""
    program = Path(words[0]).name
    if program in UNCHECKED:
        return None
    if program not in CHECKS:
        return f"unknown program {program}: add it to tests/support/commands.py"
    return CHECKS[program](words[1:])


def check_make(words: list[str]) -> str | None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for word in words:
        variable, equals, _ = word.partition("=")
        if not re.search(rf"^{variable} \?=" if equals else rf"^{word}:", makefile, flags=re.MULTILINE):
            return f"the Makefile has no {word}"
    return None


@functools.cache
def options(program: str, *command: str) -> dict[str, str]:
    """The options in the help of a command of ours, with what follows each; empty if there is no such command."""
    wide = mock.patch.dict(os.environ, COLUMNS="200")  # so that no option is cut off
    shown = io.StringIO()
    with wide, contextlib.redirect_stdout(shown), contextlib.redirect_stderr(None), contextlib.suppress(SystemExit):
        importlib.import_module(PROGRAMS[program]).main([*command, "--help"])
    option = r"(--?[a-z][\w-]*)(?: ([A-Z{]\S*))?"
    rows = re.findall(rf"^[ │*]*((?:{option},? *)+)", shown.getvalue(), flags=re.MULTILINE)
    return dict(pair for row in rows for pair in re.findall(option, row[0]))


def wrong_option(words: list[str], program: str, *command: str) -> str | None:
    known = options(program, *command)
    wrong = [word for word in words if word.startswith("-") and word != "-" and word not in known]
    return f"{' '.join([program, *command])} has no {', '.join(wrong)}" if wrong else None


def check_unstuck(words: list[str]) -> str | None:
    if words[:1] == ["report"]:
        return wrong_option(words[1:], "unstuck", "report")
    own = 0
    while own < len(words) and words[own].startswith("-"):
        own += 2 if options("unstuck").get(words[own]) else 1
    return wrong_option(words[:own], "unstuck")


def check_sigmoid_core(words: list[str]) -> str | None:
    name, *arguments = words or ["--help"]
    if name in ("--version", "--help"):
        return None
    if not options("sigmoid-core", name):
        return f"sigmoid-core has no command {name}"
    return wrong_option(arguments, "sigmoid-core", name)


def projects() -> dict[str, dict[str, list[str]]]:
    """The extras of both distributions with their requirements; the extra "" has what everybody needs."""
    paths = sorted(ROOT.glob("packages/*/pyproject.toml"))
    tables = [tomllib.loads(path.read_text("utf-8"))["project"] for path in paths]
    return {t["name"]: {"": t["dependencies"], **t.get("optional-dependencies", {})} for t in tables}


def known_packages() -> set[str]:
    """Names of all packages that an extra or the tests install."""
    files = ("tests/requirements.txt", "tests/requirements-dev.txt", "tests/integrations/requirements.txt")
    listed = [line for file in files for line in (ROOT / file).read_text(encoding="utf-8").splitlines()]
    listed += [line for extras in projects().values() for lines in extras.values() for line in lines]
    return {Requirement(line).name for line in listed if line and not line.startswith("#")} | projects().keys()


def check_pip(words: list[str]) -> str | None:
    if "install" not in words:
        return f"pip {' '.join(words)}: only installing is checked"
    for word in words:
        if word in ("pip", "install") or word.startswith("-"):
            continue
        requirement = Requirement(word.removeprefix("packages/"))
        if requirement.name not in known_packages():
            return f"{requirement.name} is in no extra and not in the requirements of the tests"
        if unknown := requirement.extras - projects().get(requirement.name, {}).keys():
            return f"{requirement.name} has no extra {', '.join(unknown)}"
    return None


def check_python(words: list[str]) -> str | None:
    """For torchrun and accelerate, too: the module or the file that they run."""
    if "-m" in words:
        module, *rest = words[words.index("-m") + 1 :]
        ours = {"pip": check_pip, "unstuck": check_unstuck, "sigmoidcore": check_sigmoid_core}
        if module in ours:
            return ours[module](rest)
        return None if importlib.util.find_spec(module) else f"there is no module {module}"
    return next((check_file([word]) for word in words if word.endswith(".py")), None)


def check_file(words: list[str]) -> str | None:
    pattern = re.sub(r"[A-Z]{2,}", "*", words[0])  # NAME stands for any name
    return None if any(ROOT.glob(pattern)) else f"there is no {words[0]}"


CHECKS: dict[str, Callable[[list[str]], str | None]] = {
    "make": check_make, "unstuck": check_unstuck, "sigmoid-core": check_sigmoid_core, "pip": check_pip,
    "uv": lambda words: None if words == ["venv"] else check_pip(words),
    "python": check_python, "python3": check_python, "torchrun": check_python, "accelerate": check_python,
    "bash": check_file,
}  # fmt: skip
