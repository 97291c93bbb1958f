"""Programs of real people that did not learn, each with its repair: `PROGRAMS`, in files by what they are about."""

import importlib
import pkgutil

from real_failures.program import Program, Training, usual_step
from real_failures.rules import RULES

_SHARED = {"program", "data", "rules"}
PROGRAMS: list[Program] = [
    program
    for module in sorted(m.name for m in pkgutil.iter_modules(__path__) if m.name not in _SHARED)
    for program in importlib.import_module(f"real_failures.{module}").PROGRAMS
]

__all__ = ["PROGRAMS", "RULES", "Program", "Training", "usual_step"]
