"""The source of a forward: which activation functions it calls, in which line, and which attributes it reads."""

import ast
import inspect
import os
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

from sigmoidcore.conversion.activations import FUNCTIONS, function_name

_NOT_TORCH = ("self", "np", "numpy", "math")


@dataclass(frozen=True)
class FunctionalCall:
    """A call of a functional sigmoid or tanh that `convert` cannot make a core."""

    module: str  # name of the module whose forward makes the call, "" for the model
    file: str  # the source file
    line: int  # of the call
    code: str  # the call, such as "torch.tanh(self.linear(x))"
    definition: str  # the line that `__init__` needs so that the call can be a module
    replacement: str  # what to write in place of `code`


def functional_calls(module: nn.Module, name: str) -> list[FunctionalCall]:
    """The functional sigmoids and tanhs in the forward of a module, and in the methods that it calls."""
    found = []
    for function, file in _methods(module):
        for node in ast.walk(function):
            if not isinstance(node, ast.Call):
                continue
            values = [*node.args, *(keyword.value for keyword in node.keywords)]
            text = getattr(node.func, "id", "")
            if isinstance(node.func, ast.Attribute):
                text = "" if getattr(node.func.value, "id", "") in _NOT_TORCH else node.func.attr
                values.append(node.func.value)
            kind = FUNCTIONS.get(f"{function_name(text)}()")
            if kind is not None and values:
                attribute = f"self.{text.rstrip('_')}"
                code, replacement = ast.unparse(node), f"{attribute}({ast.unparse(values[0])})"
                definition = f"{attribute} = nn.{kind.module.__name__}()"
                found.append(FunctionalCall(name, file, node.lineno, code, definition, replacement))
    return sorted(found, key=lambda call: (call.file, call.line))


def attributes_read(module: nn.Module) -> set[str]:
    """The attributes of `self` that the forward and the methods that it calls read, as far as there is source."""
    return {name for function, _ in _methods(module) for name in _of_self(function)}


def _methods(module: nn.Module) -> Iterator[tuple[ast.AST, str]]:
    """The source of forward and of the methods that it calls, with line numbers of the file, and the file."""
    waiting, seen = ["forward"], {"forward"}
    while waiting:
        name = waiting.pop()
        for cls in type(module).__mro__:
            value = vars(cls).get(name)
            function: Any = value.fget if isinstance(value, property) else value
            if not callable(function) or cls.__module__.startswith("torch."):
                continue
            try:
                lines, first = inspect.getsourcelines(function)
                tree = ast.parse(textwrap.dedent("".join(lines)))
                file = inspect.getsourcefile(inspect.unwrap(function)) or ""
            except (OSError, SyntaxError, TypeError):
                continue
            ast.increment_lineno(tree, first - 1)
            yield tree, _shown(file)
            called = _of_self(tree) - seen
            seen |= called
            waiting += called


def _of_self(tree: ast.AST) -> set[str]:
    """The names that are read as `self.name` or `super().name`."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            owner = node.value.func if isinstance(node.value, ast.Call) else node.value
            if getattr(owner, "id", "") in ("self", "super"):
                names.add(node.attr)
    return names


def _shown(file: str) -> str:
    """A path relative to the working directory, if it is below."""
    relative = os.path.relpath(file)
    return file if relative.startswith("..") else relative
