"""Whether a command that the documentation shows exists, and takes what it is given. Nothing is run."""

import importlib.util
import re
import shlex
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
TRUSTED = {"cd", "git", "export", "source", "jq", "time", "rm", "tensorboard", "jupyter"}
"""Not ours; nothing is known of their options here."""


def commands(text: str) -> list[list[str]]:
    """The words of every command of a block of shell; pipes and && separate, comments are left out."""
    found = []
    for line in text.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line.strip().removeprefix("$ "), posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        words: list[str] = []
        for word in [*lexer, ";"]:
            if word in ("|", "||", "&&", ";", "&"):
                found.append(words)
                words = []
            else:
                words.append(word)
    return [stripped for words in found if (stripped := without_rest(words))]


def without_rest(words: list[str]) -> list[str]:
    """Without variables before the command, and without where its output goes."""
    while words and re.fullmatch(r"\w+=.*", words[0]):
        words = words[1:]
    redirected = [place for place, word in enumerate(words) if word in (">", ">>", "2>", "<")]
    return words[: redirected[0]] if redirected else words


def complaint(words: list[str]) -> str | None:
    """What is wrong with a command, or None."""
    program = Path(words[0]).name
    if program in TRUSTED:
        return None
    check = CHECKS.get(program)
    if check is None:
        return f"nothing is known of {program}: teach tests/support/commands.py about it"
    return check(words[1:])


def of_make(words: list[str]) -> str | None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for word in words:
        variable, equals, _ = word.partition("=")
        known = rf"^{variable} \?=" if equals else rf"^{word}:"
        if not re.search(known, makefile, flags=re.MULTILINE):
            return f"the Makefile has no {word}"
    return None


def of_sigmoid_core(words: list[str]) -> str | None:
    group = command_line()
    name, *arguments = words or [""]
    if name in ("", "--version", "--help"):
        return None
    if name not in group.commands:
        return f"sigmoid-core has no command {name}; there are {', '.join(group.commands)}"
    command = group.commands[name]
    for parameter in command.params:  # whether files exist is not asked
        parameter.callback = None
    try:
        command.make_context(name, arguments)
    except Exception as error:
        format_message = getattr(error, "format_message", None)
        if format_message is None:
            raise
        return str(format_message())
    return None


def command_line() -> Any:
    """The group of commands that typer makes; a new one at each call."""
    from typer.main import get_command

    from sigmoidcore.cli import _app

    return get_command(_app())


def known_packages() -> set[str]:
    """Names of all packages that an extra or the integration tests install."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    listed = [
        *project["dependencies"],
        *(text for extra in project["optional-dependencies"].values() for text in extra),
    ]
    integrations = (ROOT / "tests" / "integrations" / "requirements.txt").read_text(encoding="utf-8")
    return {Requirement(line).name for line in [*listed, *integrations.splitlines()] if not line.startswith("#")}


def of_pip(words: list[str]) -> str | None:
    if words[:1] == ["pip"]:
        words = words[1:]
    if words[:1] != ["install"]:
        return f"pip {' '.join(words)}: only installing is known"
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    for word in words[1:]:
        if word.startswith("-"):
            continue
        requirement = Requirement(word.replace(".[", "sigmoid-core[", 1) if word.startswith(".[") else word)
        if unknown := requirement.extras - extras.keys() if requirement.name == "sigmoid-core" else set():
            return f"pyproject.toml has no extra {', '.join(unknown)}"
        if requirement.name not in known_packages():
            return f"{requirement.name} is in no extra and not in the requirements of the integrations"
    return None


def of_uv(words: list[str]) -> str | None:
    return None if words == ["venv"] else of_pip(words)


def of_python(words: list[str]) -> str | None:
    if words[:2] in (["-m", "venv"], ["-m", "pip"]):
        return of_pip(words[2:]) if words[1] == "pip" else None
    if words[0] == "-m":
        return None if importlib.util.find_spec(words[1]) else f"there is no module {words[1]}"
    return of_file(words)


def of_file(words: list[str]) -> str | None:
    # NAME stands for any name.
    pattern = re.sub(r"[A-Z]{2,}", "*", words[0])
    return None if any(ROOT.glob(pattern)) else f"there is no {words[0]}"


def of_torchrun(words: list[str]) -> str | None:
    from torch.distributed.run import get_args_parser

    try:
        get_args_parser().parse_args(words)
    except SystemExit:
        return f"torchrun does not take {' '.join(words)}"
    return None


def of_accelerate(words: list[str]) -> str | None:
    from accelerate.commands.launch import launch_command_parser

    if words[:1] != ["launch"]:
        return None
    try:
        launch_command_parser().parse_args(words[1:])
    except SystemExit:
        return f"accelerate does not take {' '.join(words)}"
    return None


CHECKS: dict[str, Callable[[list[str]], str | None]] = {
    "make": of_make,
    "sigmoid-core": of_sigmoid_core,
    "pip": of_pip,
    "uv": of_uv,
    "python": of_python,
    "python3": of_python,
    "bash": of_file,
    "torchrun": of_torchrun,
    "accelerate": of_accelerate,
}
