"""Reads commands, one a line, and runs each in a new process in which PyTorch is imported already.

A command of TrainCheck, and each script that it has rewritten, imports PyTorch, pandas and numba again: a half of the
time of a small program. `torch._dynamo`, which PyTorch imports for the first optimizer, is imported before, too: else
13,000 of the 15,000 lines of a trace are of its import.
"""

import importlib
import json
import os
import resource
import runpy
import sys

import numba  # noqa: F401
import pandas as pd  # noqa: F401
import polars as pl  # noqa: F401
import torch  # noqa: F401

importlib.import_module("torch._dynamo")


def run(module: str, words: list[str], log: str, seconds: int) -> None:
    """The `main` of a module of TrainCheck, or a script; what it prints goes to a file."""
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.chdir(os.path.dirname(log))
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 5))
    sys.argv = [module, *words]
    if module.endswith(".py"):
        runpy.run_path(module, run_name="__main__")
    else:
        importlib.import_module(module).main()


def main() -> None:
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            return run(**json.loads(line))  # and it ends as any program does
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
    return None


if __name__ == "__main__":
    main()
