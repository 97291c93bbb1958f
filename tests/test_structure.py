"""The source: its size, uses of PyTorch's private parts, and what could run what it reads."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGES = Path(__file__).resolve().parents[1] / "packages"
BUDGETS = {"unstuck": 14_826, "sigmoid-core": 9_999}
"""Lines of Python in `src/`; the goal of unstuck is 9,500. To raise one takes a reason in the changelog."""
FILES = sorted(PACKAGES.glob("*/src/**/*.py"))
PRIVATE = re.compile(
    r"\btorch(\.[a-z]\w*)*\._(?!_)\w+"  # torch._C, torch.nn.modules._x
    r"|\.(_parameters|_buffers|_modules|_version|_non_persistent_buffers_set|_flat_weight\w*)\b"
    r"|\._(forward|backward|state_dict|load_state_dict)\w*hooks\b"
)


def lines(folder: Path) -> int:
    return sum(len(path.read_text(encoding="utf-8").splitlines()) for path in folder.rglob("*.py"))


@pytest.mark.parametrize("package", BUDGETS)
def test_a_package_keeps_its_budget_of_lines_and_has_no_more_lines_of_tests(package):
    source = lines(PACKAGES / package / "src")
    assert source <= BUDGETS[package]
    assert lines(PACKAGES / package / "tests") <= source


def private_uses(source: str) -> Iterator[str]:
    """Every use of a private part of PyTorch, except in docstrings and comments."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "torch":
            names = [*(node.module or "").split("."), *(alias.name for alias in node.names)]
            yield from (f"from {node.module} import {name}" for name in names if name.startswith("_"))
        elif isinstance(node, ast.Attribute):
            text = ast.unparse(node)
            if PRIVATE.search(text) and not text.startswith("self."):
                yield text


def test_private_pytorch_stays_in_its_folder():
    outside = [path for path in FILES if "_torch" not in path.parts]
    found = {path.name: list(private_uses(path.read_text(encoding="utf-8"))) for path in outside}
    assert {name: uses for name, uses in found.items() if uses} == {}


@pytest.mark.parametrize(
    "source",
    [
        "torch._C._current_autograd_node()",
        "from torch.nn.modules.module import _has_any_global_hook",
        "x = module._parameters['weight']",
        "y._version",
        "from torch._dynamo import config",
    ],
)
def test_uses_of_private_pytorch_are_found(source):
    assert list(private_uses(source))


MODULES = {
    "pickle", "_pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "yaml", "runpy", "importlib", "code",
    "codeop", "subprocess", "ctypes", "pty",
}  # fmt: skip
CALLS = {"eval", "exec", "compile", "__import__"}
METHODS = {"import_module", "exec_module", "load_module", "system", "popen", "read_pickle", "resolve_name"}
LOADS = {"torch.load", "torch.hub.load", "np.load", "numpy.load"}
HARMLESS = {"importlib.util", "importlib.resources", "importlib.metadata"}
DOORS = {
    "unstuck/cli/script.py": {"compile", "exec", "importlib.abc", "importlib.machinery"},  # `unstuck SCRIPT` runs it
    "unstuck/cli/torch_import.py": {"importlib.abc", "importlib.machinery"},  # waits until this script imports PyTorch
    "sigmoidcore/integrations/lightning.py": {"importlib"},  # packages by names that stand in the code
}
"""What may run what it reads."""


def powers(tree: ast.AST) -> Iterator[str]:
    """What a module uses that could run what it reads."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            yield from (name for name in names if name.split(".")[0] in MODULES and name not in HARMLESS)
        elif isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if called in CALLS:
                yield called
            elif called in LOADS:
                yield ast.unparse(node)
            elif isinstance(node.func, ast.Attribute) and node.func.attr in METHODS:
                yield node.func.attr


def test_nothing_else_in_the_packages_can_run_what_it_reads():
    found = {path: set(powers(ast.parse(path.read_text(encoding="utf-8")))) for path in FILES}
    doors = {path.as_posix().partition("/src/")[2]: used for path, used in found.items() if used}
    assert doors == DOORS


def test_uses_that_could_run_what_is_read_are_found():
    hostile = "import pickle, yaml\nfrom joblib import load\ntorch.load(f)\nnp.load(f)\neval(s)\nos.system(s)\n"
    expected = {"pickle", "yaml", "joblib", "torch.load(f)", "np.load(f)", "eval", "system"}
    assert set(powers(ast.parse(hostile))) == expected
