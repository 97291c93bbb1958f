"""The source: sizes of files and functions, uses of PyTorch's private parts, and what could run what it reads."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[1] / "src" / "sigmoidcore"
FILES = sorted(SOURCE.rglob("*.py"))
LINES, STATEMENTS, NAMES = 400, 50, 23
PRIVATE = re.compile(
    r"\btorch(\.[a-z]\w*)*\._(?!_)\w+"  # torch._C, torch.nn.modules._x
    r"|\.(_parameters|_buffers|_modules|_version|_non_persistent_buffers_set|_flat_weight\w*)\b"
    r"|\._(forward|backward|state_dict|load_state_dict)\w*hooks\b"
)


def private_uses(source: str) -> Iterator[str]:
    """Every use of a private part of PyTorch, except in docstrings and comments."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "torch":
            names = [*(node.module or "").split("."), *(alias.name for alias in node.names)]
            yield from (f"from {node.module} import {name}" for name in names if name.startswith("_"))
        elif isinstance(node, ast.Attribute):
            text = ast.unparse(node)
            if PRIVATE.search(text) and not text.startswith("self."):
                yield text


def code_lines(source: str, function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function without its docstring, blank lines and comments."""
    body = function.body[1:] if ast.get_docstring(function) is not None else function.body
    if not body:
        return 0
    lines = source.splitlines()[body[0].lineno - 1 : function.end_lineno]
    return sum(bool(line.strip()) and not line.strip().startswith("#") for line in lines)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(SOURCE).as_posix())
def test_files_and_functions_are_short_and_private_pytorch_stays_in_its_package(path):
    source = path.read_text(encoding="utf-8")
    functions = [n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    assert len(source.splitlines()) <= LINES
    assert [f.name for f in functions if code_lines(source, f) > STATEMENTS] == []
    if SOURCE / "_torch" not in path.parents:
        assert list(private_uses(source)) == []


def test_the_package_has_few_names():
    names = [path.name for path in SOURCE.iterdir() if path.name not in ("__pycache__", "py.typed")]
    assert len(names) <= NAMES


@pytest.mark.parametrize(
    "source",
    [
        "torch._C._current_autograd_node()",
        "from torch.nn.modules.module import _has_any_global_hook",
        "import torch\nx = module._parameters['weight']",
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
DOORS = {
    "cli/watch.py": {"compile", "exec", "importlib.abc", "importlib.machinery"},  # `watch SCRIPT` runs this script
    "cli/first_module.py": {"importlib.abc", "importlib.machinery"},  # waits until this script imports PyTorch
    "training/user_code.py": {"importlib", "import_module"},  # `diagnose module:callable`
    "training/data/errors.py": {"importlib", "import_module"},  # packages by names that stand in the code
    "integrations/lightning.py": {"importlib", "import_module"},  # the same
    "peers/registry.py": {"resolve_name"},  # the files of peers/methods
    "training/data/samples.py": {"np.load(file, allow_pickle=False)"},
}
HARMLESS = {"importlib.util", "importlib.resources", "importlib.metadata"}


def powers(tree):
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


def test_nothing_else_in_the_package_can_run_what_it_reads():
    found = {
        path.relative_to(SOURCE).as_posix(): used
        for path in FILES
        if (used := set(powers(ast.parse(path.read_text(encoding="utf-8")))))
    }
    assert found == DOORS


def test_uses_that_could_run_what_is_read_are_found():
    hostile = "import pickle, yaml\nfrom joblib import load\ntorch.load(f)\nnp.load(f)\neval(s)\nos.system(s)\n"
    assert set(powers(ast.parse(hostile))) == {
        "pickle",
        "yaml",
        "joblib",
        "torch.load(f)",
        "np.load(f)",
        "eval",
        "system",
    }
