"""Every example of the documentation runs; every command, name, file and link in it exists."""

import ast
import importlib
import importlib.util
import inspect
import io
import json
import re
import subprocess
import sys
import textwrap
import tokenize
import tomllib
from pathlib import Path

import pytest
from support.commands import commands, complaint, known_packages, options, projects
from support.pages import FILE, PAGES, ROOT, TRANSLATIONS, Block, blocks, run, run_elsewhere

import sigmoidcore as sc
import unstuck
from unstuck.rules import RULES

SHELL = ("bash", "sh")
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))


def python_before_and_after(diff: str) -> None:
    """Parse the Python that a diff starts from and that it ends with."""
    for sign in "-+":
        lines = [line[1:] for line in diff.splitlines() if line[:1] in (" ", sign)]
        ast.parse(textwrap.dedent("\n".join(lines)))


PARSERS = {"text": str, "json": json.loads, "toml": tomllib.loads, "csv": str, "diff": python_before_and_after}
BLOCKS = [block for page in PAGES for block in blocks(page)]


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def prose(page: str) -> str:
    """The text without blocks and comments."""
    without_blocks = re.sub(r"^( *)```.*?^\1```", "", text_of(page), flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"<!--.*?-->", "", without_blocks, flags=re.DOTALL)


def spans(page: str) -> list[str]:
    """The texts between single backticks."""
    return re.findall(r"(?<!`)`([^`\n]+)`(?!`)", prose(page))


def runs_here(page: str) -> bool:
    """Whether the Python of a page runs in these tests: a translation runs if it has hidden code of its own."""
    return run_elsewhere(page) is None and (page not in TRANSLATIONS or any(block.hidden for block in blocks(page)))


@pytest.mark.parametrize("page", [page for page in PAGES if runs_here(page)])
def test_the_python_of_the_page_runs_and_prints_the_output_on_the_page(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    run(page, monkeypatch, integrations=False)


@pytest.mark.parametrize("page", [page for page in PAGES if Path(page).name.startswith("README.") and runs_here(page)])
def test_the_blocks_of_a_readme_run_when_they_are_pasted(page):
    hidden = [line for block in blocks(page) if block.hidden for line in block.text.splitlines()]
    assert [line for line in hidden if not line.startswith("monkeypatch.")] == []  # they prepare nothing


def test_every_block_is_in_a_language_that_is_checked():
    for block in BLOCKS:
        known = block.language in ("", "python", *SHELL, *PARSERS) or block.language.startswith("{")
        assert known or "not run" in block.marks, f"{block.place}: nothing checks {block.language}"
        PARSERS.get(block.language, str)(block.text)


def test_a_block_that_does_not_run_here_has_a_reason_or_a_test_that_names_the_page():
    for block in BLOCKS:
        assert len(block.marks.get("not run", "reason")) > 3, f"{block.place}: give the reason"
        needs = {name for name in re.split(r",? and |, ", block.marks.get("needs", "")) if name}
        missing = needs - known_packages()
        assert not missing, f"{block.place}: add to tests/integrations/requirements.txt: {missing}"
        for test in (block.marks[word] for word in ("run by", "all run by") if word in block.marks):
            assert Path(block.page).name in text_of(test), f"{block.place}: {test} does not name the page"


def wrong_commands(block: Block, files: set[str]) -> list[str]:
    checked = block.language in SHELL and "not run" not in block.marks
    found = [words for words in commands(block.text) if words[-1] not in files] if checked else []
    return [f"{block.place}: {' '.join(words)}: {problem}" for words in found if (problem := complaint(words))]


@pytest.mark.parametrize("page", PAGES)
def test_commands_exist_and_take_the_options_on_the_page(page):
    files = {match[1] for block in blocks(page) if (match := FILE.match(block.text))}
    assert [problem for block in blocks(page) for problem in wrong_commands(block, files)] == []
    ours = [span for span in spans(page) if re.match(r"(?:\.venv/bin/)?(?:sigmoid-core|unstuck) [\w-]", span)]
    assert {span: problem for span in ours if (problem := complaint(span.split()))} == {}


@pytest.mark.parametrize(
    "command",
    [
        "make bread",
        "sigmoid-core trian",
        "sigmoid-core lab --prot 3",
        "unstuck --evry 3 train.py",
        "unstuck report diagnosis.json --every 3",
        "torchrun --nproc-per-node 2 -m unstuck --evry 3 train.py",
        'pip install "sigmoid-core[clli]"',
        "pip install no-such-package",
        "python benchmarks/no_such_script.py",
        "no-such-program",
    ],
)
def test_a_wrong_command_is_noticed(command):
    (words,) = commands(command)
    assert complaint(words)


def test_the_page_of_the_command_lists_its_options():
    rows = re.findall(r"^\| `(-[\w-]+)", text_of("docs/watch.md"), flags=re.MULTILINE)
    assert sorted(rows) == sorted(set(options("unstuck")) - {"-h", "--help", "--version"})


@pytest.mark.parametrize("page", PAGES)
def test_names_files_and_links_on_the_page_exist(page):
    for prefix, package in (("sc", sc), ("unstuck", unstuck)):
        names = {name for span in spans(page) for name in re.findall(rf"(?<![\w./-]){prefix}\.([a-zA-Z]\w+)", span)}
        assert [name for name in sorted(names) if not hasattr(package, name)] == []
    pattern = r"(benchmarks|docs|packages|tests|examples|\.ci)/[\w./*-]+"
    files = [span for span in spans(page) if re.fullmatch(pattern, span)]
    assert [file for file in files if not any(ROOT.glob(re.sub(r"[A-Z]{2,}", "*", file)))] == []
    links = re.findall(r"\]\((?!\w+:)([^)\s#]+)(?:#[^)\s]*)?\)", prose(page))
    assert [link for link in links if not (ROOT / page).parent.joinpath(link).exists()] == []


def test_every_row_of_a_table_has_a_cell_for_each_column():
    for page in PAGES:
        for table in re.findall(r"(?:^\|.*\n)+", prose(page), flags=re.MULTILINE):
            counts = {len(re.findall(r"(?<!\\)\|", re.sub(r"`[^`\n]*`", "", row))) for row in table.splitlines()}
            assert len(counts) == 1, (page, table[:200])


@pytest.mark.parametrize("script", ["architecture", "results"])
def test_pictures_tables_and_sentences_are_those_of_the_contracts_and_the_benchmarks(script):
    command = [sys.executable, f"docs/{script}.py", "--check"]
    assert subprocess.run(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, encoding="utf-8").stderr == ""


def test_a_figure_that_differs_from_the_benchmarks_is_found(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "docs")
    results = importlib.import_module("results")
    page = text_of("README.md")
    figure = re.search(r"^\| 100 \| [\d.]+ (\| [\d.]+ %)", page, flags=re.MULTILINE)[1]
    assert results.written(page.replace(figure, "| 99.9 %")) == results.written(page) == page
    assert results.missing("README.md", page) == []
    assert len(results.missing("README.md", page.replace("56 of 77", "59 of 77"))) >= 1


def test_the_readmes_count_the_rules_right():
    for page in ("README.md", "README.zh-CN.md", "packages/unstuck/README.md"):
        assert re.findall(r"(\d+) (?:rules|条规则)", text_of(page)) == [str(len(RULES))], page


def signature(function: object) -> str:
    """The signature without types."""
    found = inspect.signature(function)
    parameters = [p.replace(annotation=p.empty) for p in found.parameters.values()]
    return str(found.replace(parameters=parameters, return_annotation=found.empty))


def test_the_page_for_assistants_has_the_signatures_of_the_code():
    shown = next(block.text for block in blocks("docs/assistants.md") if block.language == "text")
    names = re.findall(r"^(sc|unstuck)\.(\w+)\(", shown, flags=re.MULTILINE)
    functions = {f"{p}.{name}": getattr({"sc": sc, "unstuck": unstuck}[p], name) for p, name in names}
    assert shown.splitlines() == [name + signature(function) for name, function in functions.items()]
    verbs = ("sc.convert", "sc.prepare", "sc.calibrate", "sc.Equalizer", "sc.fold", "unstuck.diagnose")
    assert {*verbs, "unstuck.Monitor"} <= functions.keys()


def test_llms_txt_lists_pages_that_exist():
    listed = re.findall(r"^- \[[^]]+\]\(([^)]+)\): .+$", text_of("docs/llms.txt"), flags=re.MULTILINE)
    assert len(listed) == text_of("docs/llms.txt").count("\n- ") > 15
    assert [page for page in listed if not (ROOT / "docs" / page).is_file()] == []


def tokens(code: str) -> list[str]:
    """The code without comments and alignment."""
    skipped = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE)
    return [t.string for t in tokenize.generate_tokens(io.StringIO(code).readline) if t.type not in skipped]


def same_in_all_languages(page: str) -> dict[str, list[object]]:
    """Everything that a translation has in common with its page; its text blocks are compared where they run."""
    text = prose(page)
    shown = [block for block in blocks(page) if not block.hidden and block.language != "{toctree}"]
    codes = {"python": tokens, "text": lambda text: ""}
    return {
        "blocks": [(b.language, codes.get(b.language, str)(b.text)) for b in shown],
        "headings": [len(marks) for marks in re.findall(r"^(#+) ", text, flags=re.MULTILINE)],
        "columns of tables": [row.count("|") for row in re.findall(r"^\|.*\|$", text, flags=re.MULTILINE)],
        "figures": re.findall(r"!\[[^]]*\]\(([^)]*)\)", text),
        "links": sorted({link.replace(".zh-CN", "") for link in re.findall(r"(?<!!)\[[^]]*\]\(([^)]*)\)", text)}),
        "code in the text": sorted(set(spans(page))),
        "numbers": sorted(re.findall(r"\d+(?:[.,/]\d+)+|\d\d+", re.sub(r"\$[^$]*\$|\]\([^)]*\)|`[^`]*`", "", text))),
    }


@pytest.mark.parametrize("translation", TRANSLATIONS)
def test_a_translation_has_the_same_code_tables_figures_and_numbers(translation):
    original = same_in_all_languages(translation.replace(".zh-CN", ""))
    for what, found in same_in_all_languages(translation).items():
        assert found == original[what], what


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_small_and_committed_with_the_output_of_one_run(path):
    assert path.stat().st_size < 300_000
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell["outputs"]]
    assert outputs
    assert not [output for output in outputs if output["output_type"] == "error" or output.get("name") == "stderr"]
    text = "".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    links = re.findall(r"\]\((?!https?:)([^)#]+)", text)
    assert [link for link in links if not (path.parent / link).exists()] == []


@pytest.mark.parametrize("folder", ["docs/notebooks", ""])
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_installs_the_clone_that_it_is_in_or_else_the_package(path, folder, monkeypatch, tmp_path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    first = next("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    installed = []
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(subprocess, "run", lambda command, check: installed.extend(command[5:]))
    monkeypatch.chdir(ROOT / folder if folder else tmp_path)
    exec(first, {})
    if path.stem == "fine_tuning":
        assert installed == [f"{ROOT}/packages/unstuck" if folder else "unstuck", "transformers", "matplotlib"]
        return
    package, wanted = re.fullmatch(r"(.+)\[([\w,]+)\]", installed[-1]).groups()
    assert [*installed[:-1], package] == (
        [f"{ROOT}/packages/{p}" for p in ("unstuck", "sigmoid-core")] if folder else ["sigmoid-core"]
    )
    assert set(wanted.split(",")) <= projects()["sigmoid-core"].keys()
