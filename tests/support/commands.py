"""Whether a command in the documentation exists and takes its options. Nothing is run."""

import importlib.util
import re
import shlex
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

from sigmoidcore.training.data import InputError
from sigmoidcore.training.options import Options

ROOT = Path(__file__).resolve().parents[2]
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
    return [without_redirection(words) for words in found if words]


def without_redirection(words: list[str]) -> list[str]:
    """Drop a redirection and everything after it."""
    redirections = [place for place, word in enumerate(words) if word in (">", ">>", "2>", "<")]
    return words[: redirections[0]] if redirections else words


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


def check_sigmoid_core(words: list[str]) -> str | None:
    import typer

    group = command_line()
    name, *arguments = words or ["--help"]
    if name in ("--version", "--help"):
        return None
    if name not in group.commands:
        return f"sigmoid-core has no command {name}; there are {', '.join(group.commands)}"
    command = group.commands[name]
    for parameter in command.params:  # files need not exist
        parameter.callback = None
    try:
        context = command.make_context(name, arguments)
        if name == "train":  # its values are parsed after the command line
            known = vars(Options())
            Options.parse({key: value for key, value in context.params.items() if key in known and value != []})
    except InputError as error:
        return str(error)
    except typer.BadParameter.__bases__[0] as error:
        return str(error)
    return None


def command_line() -> Any:
    """Typer's group of commands; a new one at each call."""
    from typer.main import get_command

    from sigmoidcore.cli.app import application

    return get_command(application())


def extras() -> dict[str, list[str]]:
    """The extras in pyproject.toml with their requirements."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return {"": project["dependencies"], **project["optional-dependencies"]}


def known_packages() -> set[str]:
    """Names of all packages that an extra or the integration tests install."""
    integrations = (ROOT / "tests" / "integrations" / "requirements.txt").read_text(encoding="utf-8").splitlines()
    listed = [line for lines in extras().values() for line in lines] + integrations
    return {Requirement(line).name for line in listed if line and not line.startswith("#")}


def check_pip(words: list[str]) -> str | None:
    arguments = [word for word in words if word not in ("pip", "install") and not word.startswith("-")]
    if "install" not in words:
        return f"pip {' '.join(words)}: only installing is checked"
    for word in arguments:
        requirement = Requirement(word.replace(".[", "sigmoid-core[", 1) if word.startswith(".[") else word)
        if requirement.name == "sigmoid-core" and (unknown := requirement.extras - extras().keys()):
            return f"pyproject.toml has no extra {', '.join(unknown)}"
        if requirement.name not in known_packages():
            return f"{requirement.name} is in no extra and not in the requirements of the integration tests"
    return None


def check_uv(words: list[str]) -> str | None:
    return None if words == ["venv"] else check_pip(words)


def check_python(words: list[str]) -> str | None:
    if words[:2] == ["-m", "pip"]:
        return check_pip(words[2:])
    if words[0] == "-m":
        return None if importlib.util.find_spec(words[1]) else f"there is no module {words[1]}"
    return check_file(words)


def check_file(words: list[str]) -> str | None:
    pattern = re.sub(r"[A-Z]{2,}", "*", words[0])  # NAME stands for any name
    return None if any(ROOT.glob(pattern)) else f"there is no {words[0]}"


def check_launcher(words: list[str]) -> str | None:
    """For torchrun and accelerate, check the command that they launch."""
    if "sigmoidcore" in words:
        return check_sigmoid_core(words[words.index("sigmoidcore") + 1 :])
    return next((check_file([word]) for word in words if word.endswith(".py")), None)


CHECKS: dict[str, Callable[[list[str]], str | None]] = {
    "make": check_make, "sigmoid-core": check_sigmoid_core, "pip": check_pip, "uv": check_uv, "python": check_python,
    "python3": check_python, "bash": check_file, "torchrun": check_launcher, "accelerate": check_launcher,
}  # fmt: skip
