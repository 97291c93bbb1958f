"""Every example of the documentation runs; every command, name and file that it mentions is there."""

import io
import json
import re
import subprocess
import sys
import tokenize
import tomllib
from pathlib import Path

import pytest
from support.commands import command_line, commands, complaint, known_packages
from support.pages import FILE, PAGES, ROOT, TRANSLATIONS, blocks, run, run_elsewhere

import sigmoidcore as sc
from sigmoidcore.diagnosis.rules import RULES

SHELL = ("bash", "sh")
DATA = {"text": str, "json": json.loads, "toml": tomllib.loads, "csv": str, "jsonl": str}
HOW = 'CONTRIBUTING.md, "Write a page", says how'


def text_of(page):
    return (ROOT / page).read_text(encoding="utf-8")


def prose(page):
    """The text without blocks and comments."""
    without_blocks = re.sub(r"^( *)```.*?^\1```", "", text_of(page), flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"<!--.*?-->", "", without_blocks, flags=re.DOTALL)


def spans(page):
    """What stands between single backticks."""
    return re.findall(r"(?<!`)`([^`\n]+)`(?!`)", prose(page))


# --- Python ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", [p for p in PAGES if p not in TRANSLATIONS and run_elsewhere(p) is None])
def test_the_python_of_the_page_runs_and_prints_what_the_page_says(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    run(page, monkeypatch, integrations=False)


def every_block():
    return [block for page in PAGES for block in blocks(page)]


def test_blocks_are_of_a_language_that_is_checked():
    for block in every_block():
        known = block.language in ("", "python", *SHELL, *DATA) or block.language.startswith("{")
        assert known or "not run" in block.marks, f"{block.place}: nothing checks a block of {block.language}; {HOW}"
        DATA.get(block.language, str)(block.text)


def test_what_is_not_run_here_has_a_reason_or_another_test_that_names_the_page():
    for block in every_block():
        for word, what in block.marks.items():
            if word == "not run":
                assert len(what) > 3, f"{block.place}: say why; {HOW}"
            if word == "needs":
                missing = set(re.split(r",? and |, ", what)) - known_packages()
                assert not missing, f"{block.place}: add to tests/integrations/requirements.txt: {missing}; {HOW}"
            if word in ("run by", "all run by"):
                test = ROOT / what
                assert test.is_file(), f"{block.place}: there is no {what}"
                name = Path(block.page).name
                assert name in test.read_text(encoding="utf-8"), f"{block.place}: {what} does not name {name}"


# --- the shell -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES)
def test_commands_exist_and_take_the_options_that_the_page_gives_them(page):
    files = {m[1] for b in blocks(page) if (m := FILE.match(b.text))}
    for block in blocks(page):
        for words in commands(block.text) if block.language in SHELL and "not run" not in block.marks else ():
            problem = None if words[-1] in files else complaint(words)  # or a file that the page itself shows
            assert problem is None, f"{block.place}: {' '.join(words)}: {problem}; {HOW}"


@pytest.mark.parametrize(
    "command",
    [
        "make bread",
        "sigmoid-core trian",
        "sigmoid-core train --dept 3",
        "sigmoid-core train --depth three",
        "sigmoid-core diagnose",
        'pip install "sigmoid-core[clli]"',
        "pip install no-such-package",
        "python benchmarks/no_such_script.py",
        "no-such-program",
    ],
)
def test_a_command_that_does_not_exist_or_is_typed_wrongly_is_noticed(command):
    (words,) = commands(command)
    assert complaint(words)


@pytest.mark.parametrize("page", PAGES)
def test_commands_within_the_text_exist_and_have_the_options_that_are_named(page):
    for span in spans(page):
        if match := re.match(r"(?:\.venv/bin/)?sigmoid-core ([\w-]+)", span):
            command = command_line().commands.get(match[1])
            assert command is not None, span
            known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
            assert set(re.findall(r"(?<= )--[\w-]+", span)) <= known, span


# --- names, files, links ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES)
def test_names_of_the_package_exist(page):
    names = {name for span in spans(page) for name in re.findall(r"(?<![\w.])sc\.(\w+)", span)}
    assert [name for name in sorted(names) if not hasattr(sc, name)] == []


@pytest.mark.parametrize("page", PAGES)
def test_files_that_the_page_names_exist(page):
    ours = r"(?:benchmarks|docs|src|tests|examples|\.ci)/[\w./*-]+"
    missing = [
        span for span in spans(page) if re.fullmatch(ours, span) and not any(ROOT.glob(re.sub(r"[A-Z]{2,}", "*", span)))
    ]
    assert missing == []


@pytest.mark.parametrize("page", PAGES)
def test_links_to_files_lead_somewhere(page):
    links = re.findall(r"\]\(([^)\s#]+)(?:#[^)\s]*)?\)", prose(page))
    local = [link for link in links if not re.match(r"\w+:", link)]
    assert [link for link in local if not (ROOT / page).parent.joinpath(link).exists()] == []


def sections():
    """Of the page of the command line: what each command takes, by its name."""
    found = re.split(r"^## (.+)$", text_of("docs/cli.md"), flags=re.MULTILINE)
    names = {
        re.fullmatch(r"`sigmoid-core ([\w-]+)`", title): text
        for title, text in zip(found[1::2], found[2::2], strict=True)
    }
    return {match[1]: text for match, text in names.items() if match}


def test_every_command_has_a_section():
    assert sorted(sections()) == sorted(command_line().commands)


@pytest.mark.parametrize("name", sections())
def test_the_section_of_a_command_has_its_options_with_their_defaults(name):
    rows = dict(re.findall(r"^\| `(--[\w-]+)[^|]*\| *([^|]*?) *\|", sections()[name], flags=re.MULTILINE))
    options = {p.opts[0]: p for p in command_line().commands[name].params if p.opts[0].startswith("--")}
    switched_off = {on: p.secondary_opts[0] for on, p in options.items() if p.secondary_opts and p.default}
    assert sorted(rows) == sorted(switched_off.get(option, option) for option in options if option != "--help")
    for option, shown in rows.items():
        default = options[option].default if option in options else None
        if type(default) in (int, float) and re.fullmatch(r"[\d.]+", shown):
            assert float(shown) == default, option


def test_the_picture_of_the_architecture_shows_the_import_contracts():
    command = [sys.executable, "docs/architecture.py", "--check"]
    assert subprocess.run(command, cwd=ROOT, stderr=subprocess.PIPE, text=True).stderr == ""


def test_the_readme_counts_the_rules_right():
    assert f" {len(RULES)} rules " in text_of("README.md")


# --- translations ----------------------------------------------------------------------------------------------------


def same_in_all_languages(page):
    """What a translation must have in common with the page: code without comments, tables, figures, numbers."""
    text = prose(page)
    shown = [block for block in blocks(page) if not block.hidden]
    return {
        "languages of blocks": [block.language for block in shown],
        "code": [tokens(block.text) for block in shown if block.language == "python"],
        "other blocks": [block.text for block in shown if block.language != "python"],
        "headings": [len(marks) for marks in re.findall(r"^(#+) ", text, flags=re.MULTILINE)],
        "columns of tables": [row.count("|") for row in re.findall(r"^\|.*\|$", text, flags=re.MULTILINE)],
        "figures": re.findall(r"!\[[^]]*\]\(([^)]*)\)", text),
        "links": sorted({link.replace(".zh-CN", "") for link in re.findall(r"(?<!!)\[[^]]*\]\(([^)]*)\)", text)}),
        "code in the text": sorted(set(spans(page))),
        "numbers": sorted(re.findall(r"\d+(?:[.,/]\d+)+|\d\d+", re.sub(r"\$[^$]*\$|\]\([^)]*\)|`[^`]*`", "", text))),
    }


def tokens(code):
    """The code without comments and alignment."""
    skipped = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE)
    return [t.string for t in tokenize.generate_tokens(io.StringIO(code).readline) if t.type not in skipped]


@pytest.mark.parametrize("translation", TRANSLATIONS)
def test_a_translation_has_the_same_code_tables_figures_and_numbers(translation):
    original = same_in_all_languages(translation.replace(".zh-CN", ""))
    for what, found in same_in_all_languages(translation).items():
        assert found == original[what], what


# --- notebooks: tests/integrations runs them -------------------------------------------------------------------------

NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=[path.stem for path in NOTEBOOKS])
def test_a_notebook_is_committed_small_and_as_it_ran_from_top_to_bottom(path):
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
