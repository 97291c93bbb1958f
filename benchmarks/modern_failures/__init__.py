"""Programs of today that did not learn, each with its repair: `PROGRAMS`, in files by what they are about."""

import importlib
import pkgutil

from modern_failures.program import Program, Training
from modern_failures.rules import RULES

_SHARED = {"blocks", "check", "data", "program", "rules"}
PROGRAMS: list[Program] = [
    program
    for module in sorted(m.name for m in pkgutil.iter_modules(__path__) if m.name not in _SHARED and not m.ispkg)
    for program in importlib.import_module(f"modern_failures.{module}").PROGRAMS
]

__all__ = ["PROGRAMS", "RULES", "Program", "Training"]
