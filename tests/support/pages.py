"""The pages of the documentation: their blocks, what hidden comments say about them, and how their Python is run.

CONTRIBUTING.md, "Write a page", says what the comments mean.
"""

import contextlib
import io
import re
import sys
import textwrap
import types
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from support.commands import commands

from sigmoidcore.cli import main

ROOT = Path(__file__).resolve().parents[2]

PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for pattern in ("*.md", "docs/**/*.md", "benchmarks/*.md", "examples/**/*.md")
    for path in ROOT.glob(pattern)
    if "_build" not in path.parts and path.name != "CHANGELOG.md"
)
TRANSLATIONS = [page for page in PAGES if page.endswith(".zh-CN.md")]

EVENT = re.compile(
    r"^ *<!--(?P<comment>.*?)-->[ ]*$"
    r"|^(?P<indent> *)(?P<fence>```+)(?P<language>[^\n`]*)\n(?P<text>.*?)^(?P=indent)(?P=fence)[ ]*$",
    flags=re.MULTILINE | re.DOTALL,
)
WORD = re.compile(r"(not run|needs|run by|all run by|run|excerpt)(?::? +(.+))?", flags=re.DOTALL)
PROMISE = re.compile(r"  # -> (.+)$", flags=re.MULTILINE)
FILE = re.compile(r"# ([\w/]+\.py)\n")
"""A block that begins so is a file of the reader's."""


@dataclass(frozen=True)
class Block:
    """A block of code of a page, or code in a comment that the reader does not see."""

    page: str
    line: int
    """Of its first line of code."""
    language: str
    text: str
    hidden: bool = False
    marks: dict[str, str] = field(default_factory=dict)
    """What the comment before it says: the word, and what follows it."""
    prose: bool = False
    """Words stand between it and the block before it."""

    @property
    def place(self) -> str:
        """For messages."""
        return f"{self.page}:{self.line}"


def blocks(page: str) -> list[Block]:
    """All blocks of a page, in order."""
    text = (ROOT / page).read_text(encoding="utf-8")
    found: list[Block] = []
    marks: dict[str, str] = {}
    end = 0
    for event in EVENT.finditer(text):
        between = text[end : event.start()].strip()
        end = event.end()
        if between:
            marks = {}
        comment = event["comment"]
        if comment is None:
            line, indent = text.count("\n", 0, event.start()) + 2, event["indent"]
            code = "".join(part.removeprefix(indent) for part in event["text"].splitlines(keepends=True))
            found.append(Block(page, line, event["language"].strip(), code, marks=marks, prose=bool(between)))
            marks = {}
        elif comment.startswith(" python\n"):
            line = text.count("\n", 0, event.start()) + 2
            code = textwrap.dedent(comment.removeprefix(" python\n")).rstrip() + "\n"
            found.append(Block(page, line, "python", code, hidden=True, marks=marks))
        elif word := WORD.fullmatch(comment.strip()):
            marks = {**marks, word[1]: word[2] or ""}
            if word[1] == "all run by":
                found.append(Block(page, 0, "", "", hidden=True, marks=marks))
    return found


def run_elsewhere(page: str) -> str | None:
    """The test that runs the whole page by itself, if it says so."""
    return next((b.marks["all run by"] for b in blocks(page) if "all run by" in b.marks), None)


def left_out(block: Block, *, integrations: bool) -> bool:
    """Whether this test does not run the block."""
    return bool({"not run", "run by"} & block.marks.keys()) or ("needs" in block.marks and not integrations)


def run(page: str, monkeypatch: pytest.MonkeyPatch, *, integrations: bool) -> None:
    """Run the Python blocks of a page in one namespace, in the folder that the process is in; compare what they print.

    Terminals are taken to have 80 columns.

    Args:
        page: its path in the repository.
        monkeypatch: pytest's, which the hidden code of the page may use.
        integrations: whether blocks that need more than the package run as well.
    """
    module = types.ModuleType(re.sub(r"\W", "_", page.removesuffix(".md")))
    monkeypatch.setenv("COLUMNS", "80")
    vars(module).update(monkeypatch=monkeypatch, root=ROOT, printed="")
    sys.modules[module.__name__] = module  # classes of a page can be pickled
    known = set(sys.modules)
    last = ""
    try:
        for block in blocks(page):
            if block.language == "python" and not left_out(block, integrations=integrations):
                with told(block), contextlib.redirect_stdout(io.StringIO()) as output:
                    execute(block, vars(module))
                last = output.getvalue()
                if not block.hidden:
                    vars(module)["printed"] = last
                    promises(block, last)
            elif block.language == "python" and not block.hidden:
                last = ""
            elif "run" in block.marks:
                with told(block), contextlib.redirect_stdout(io.StringIO()):
                    type_in(block)
            elif block.language == "text" and last and ("excerpt" in block.marks or not block.prose):
                with told(block):
                    compare(block, last)
    finally:
        for name in set(sys.modules) - known | {module.__name__}:
            origin = getattr(sys.modules[name], "__file__", None)
            if name == module.__name__ or (origin and Path(origin).is_relative_to(Path.cwd())):
                del sys.modules[name]


def execute(block: Block, namespace: dict[str, object]) -> None:
    """Run it, with the lines of the page in tracebacks."""
    code = compile("\n" * (block.line - 1) + block.text, str(ROOT / block.page), "exec")
    if file := FILE.match(block.text):
        path = Path(file[1])
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(block.text, encoding="utf-8")
        namespace = {"__name__": path.stem}
    exec(code, namespace)


def type_in(block: Block) -> None:
    """Run the commands of a block of shell, which are ours, in this process."""
    for program, *arguments in commands(block.text):
        assert program == "sigmoid-core", f"{program} is not run: only sigmoid-core is"
        assert main(arguments) == 0, f"sigmoid-core {' '.join(arguments)}"


def promises(block: Block, printed: str) -> None:
    """The texts behind `# ->` are printed, in order."""
    lines = iter(printed.splitlines())
    for promise in PROMISE.findall(block.text):
        with told(block):
            assert promise in lines, f"not printed: {promise}; printed was\n{printed}"


def compare(block: Block, printed: str) -> None:
    """A block of text right after code is what the code prints, or a part of it."""
    if "excerpt" in block.marks:
        for part in re.split(r"^\.\.\.\n", block.text, flags=re.MULTILINE):
            assert part in printed, f"{part}is no part of what is printed:\n{printed}"
    elif "not run" not in block.marks:
        assert printed == block.text


@contextlib.contextmanager
def told(block: Block) -> Iterator[None]:
    """Errors say which block of which page it was, and what its author can do."""
    try:
        yield
    except Exception as error:
        error.add_note(
            f"{block.place}: this block of the documentation does not run, or does not do what the page says.\n"
            'Mend it, or tell the tests what it needs: CONTRIBUTING.md, "Write a page".'
        )
        raise
