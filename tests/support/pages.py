"""Find the code blocks of the documentation with their hidden comments, and run the Python of a page.

CONTRIBUTING.md, "Write a page", explains the comments.
"""

import contextlib
import importlib
import io
import re
import sys
import textwrap
import types
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from support.commands import PROGRAMS, commands

ROOT = Path(__file__).resolve().parents[2]

PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for pattern in ("*.md", "docs/**/*.md", "benchmarks/*.md", "examples/**/*.md", "packages/*/README.md")
    for path in ROOT.glob(pattern)
    if "_build" not in path.parts and path.name != "CHANGELOG.md"
)
TRANSLATIONS = [page for page in PAGES if page.endswith(".zh-CN.md")]

COMMENT_OR_BLOCK = re.compile(
    r"^ *<!--(?P<comment>.*?)-->[ ]*$"
    r"|^(?P<indent> *)(?P<fence>```+)(?P<language>[^\n`]*)\n(?P<text>.*?)^(?P=indent)(?P=fence)[ ]*$",
    flags=re.MULTILINE | re.DOTALL,
)
MARK = re.compile(r"(not run|needs|run by|all run by|run, exits with|run|excerpt)(?::? +(.+))?", flags=re.DOTALL)
PROMISE = re.compile(r"  # -> (.+)$", flags=re.MULTILINE)
FILE = re.compile(r"# ([\w/]+\.py)\n")
"""First line of a block that becomes a file."""


@dataclass(frozen=True)
class Block:
    """A code block of a page, or code in a hidden comment.

    Attributes:
        line: of its first line of code.
        marks: from the comments before it: the word, and what follows it.
        after_prose: whether words stand between it and the block before it.
    """

    page: str
    line: int
    language: str
    text: str
    hidden: bool = False
    marks: dict[str, str] = field(default_factory=dict)
    after_prose: bool = False

    @property
    def place(self) -> str:
        """Page and line, for messages."""
        return f"{self.page}:{self.line}"


def blocks(page: str) -> list[Block]:
    """All blocks of a page, in order."""
    text = (ROOT / page).read_text(encoding="utf-8")
    found: list[Block] = []
    marks: dict[str, str] = {}
    end = 0
    for match in COMMENT_OR_BLOCK.finditer(text):
        prose = bool(text[end : match.start()].strip())
        end = match.end()
        marks = {} if prose else marks
        comment, line = match["comment"], text.count("\n", 0, match.start()) + 2
        if comment is None:
            code = "".join(part.removeprefix(match["indent"]) for part in match["text"].splitlines(keepends=True))
            found.append(Block(page, line, match["language"].strip(), code, marks=marks, after_prose=prose))
            marks = {}
        elif comment.startswith(" python\n"):
            code = textwrap.dedent(comment.removeprefix(" python\n")).rstrip() + "\n"
            found.append(Block(page, line, "python", code, hidden=True, marks=marks))
        elif mark := MARK.fullmatch(comment.strip()):
            marks = {**marks, mark[1].removesuffix(", exits with"): mark[2] or ""}
            if mark[1] == "all run by":
                found.append(Block(page, 0, "", "", hidden=True, marks=marks))
    return found


def run_elsewhere(page: str) -> str | None:
    """The test that runs the whole page, if it names one."""
    return next((block.marks["all run by"] for block in blocks(page) if "all run by" in block.marks), None)


def run(page: str, monkeypatch: pytest.MonkeyPatch, *, integrations: bool) -> None:
    """Run the Python of a page in one namespace and the current folder; compare the output with the page.

    Args:
        page: path in the repository.
        monkeypatch: also available to the hidden code of the page. Terminals have 80 columns.
        integrations: whether to run blocks that need more than the packages.
    """
    module = types.ModuleType(re.sub(r"\W", "_", page.removesuffix(".md")))
    monkeypatch.setenv("COLUMNS", "80")
    vars(module).update(monkeypatch=monkeypatch, root=ROOT, printed="")
    known = set(sys.modules)
    sys.modules[module.__name__] = module  # so that classes of a page can be pickled
    output = ""
    try:
        for block in blocks(page):
            output = run_block(block, vars(module), output, integrations)
    except Exception as error:
        error.add_note(
            f"{block.place}: this block does not run, or does not print what the page says.\n"
            'Repair it, or tell the tests what it needs: CONTRIBUTING.md, "Write a page".'
        )
        raise
    finally:
        for name in set(sys.modules) - known:
            origin = getattr(sys.modules[name], "__file__", None)
            if name == module.__name__ or (origin and Path(origin).is_relative_to(Path.cwd())):
                del sys.modules[name]


def run_block(block: Block, namespace: dict[str, Any], output: str, integrations: bool) -> str:
    """Run one block, or compare it with the output of the block before; return the latest output."""
    skipped = {"not run", "run by"} & block.marks.keys() or ("needs" in block.marks and not integrations)
    if block.language == "python" and not skipped:
        with contextlib.redirect_stdout(io.StringIO()) as stream:
            execute(block, namespace)
        output = stream.getvalue()
        if not block.hidden:
            namespace["printed"] = output
            check_promises(block, output)
    elif block.language == "python":
        output = output if block.hidden else ""
    elif "run" in block.marks:
        output = namespace["printed"] = run_commands(block, namespace["monkeypatch"])
    elif block.language == "text" and output and ("excerpt" in block.marks or not block.after_prose):
        check_output(block, output)
    return output


def execute(block: Block, namespace: dict[str, Any]) -> None:
    """Run the block, with the lines of the page in tracebacks."""
    code = compile("\n" * (block.line - 1) + block.text, str(ROOT / block.page), "exec")
    if file := FILE.match(block.text):
        path = Path(file[1])
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(block.text, encoding="utf-8")
        namespace = {"__name__": path.stem}
    exec(code, namespace)


def run_commands(block: Block, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run commands of ours in this process; return what they print."""
    with contextlib.redirect_stdout(io.StringIO()) as stream, contextlib.redirect_stderr(stream):
        for program, *arguments in commands(block.text):
            assert program in PROGRAMS, f"{program} cannot run here, only {' and '.join(PROGRAMS)}"
            with monkeypatch.context() as process:  # a script that is watched sees a process of its own
                for name, value in (("argv", [*sys.argv]), ("path", [*sys.path]), ("excepthook", sys.excepthook)):
                    process.setattr(sys, name, value)
                process.setitem(sys.modules, "__main__", sys.modules["__main__"])
                code = importlib.import_module(PROGRAMS[program]).main(arguments)
            assert code == int(block.marks["run"] or 0), f"{program} {' '.join(arguments)}: {code}"
    return stream.getvalue()


def without_figures(text: str) -> str:
    """The text without its numbers and line ends, which differ from one machine to another."""
    return re.sub(r"\s", "", re.sub(r"\d+(\.\d+)?(e-?\d+)?", "#", text))


def check_promises(block: Block, printed: str) -> None:
    """Require the texts behind `# ->`, in order."""
    lines = iter(printed.splitlines())
    for promise in PROMISE.findall(block.text):
        assert promise in lines, f"not printed: {promise}; printed was\n{printed}"


def check_output(block: Block, printed: str) -> None:
    """Require that a block of text is the output, or with the mark "excerpt" parts of it."""
    if "excerpt" in block.marks:
        same = without_figures if block.marks["excerpt"] == "figures differ" else str
        for part in re.split(r"^\.\.\.\n", block.text, flags=re.MULTILINE):
            assert same(part) in same(printed), f"{part}is not part of the output:\n{printed}"
    elif "not run" not in block.marks:
        assert printed == block.text
