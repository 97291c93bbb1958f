"""A command in a process that starts at once, because it is forked from one that has imported PyTorch already."""

import importlib
import io
import multiprocessing
import os
import signal
import sys
import tempfile
from multiprocessing import reduction

FORKS = multiprocessing.get_context("forkserver")
PRELOADED = """
sigmoidcore._public unstuck.watch matplotlib.backends.backend_agg pandas skops.io sklearn.compose sklearn.impute
torch._dynamo
"""
FORKS.set_forkserver_preload(PRELOADED.split())
MODULES = {"unstuck": "unstuck.cli", "sigmoid-core": "sigmoidcore.cli"}
"""Of our commands; others are found where a shell finds them."""


class Descriptor:
    """A file descriptor that arrives in a new process."""

    def __init__(self, number):
        self.number = number

    def __reduce__(self):
        return _arrived, (reduction.DupFd(self.number),)


def _arrived(duplicate):
    return duplicate.detach()


def start(arguments, stdout=None, stderr=None, stdin=None, environment=None, command="sigmoid-core"):
    """Start `COMMAND ARGUMENTS` in this folder; streams that are not given are /dev/null."""
    with open(os.devnull, "r+b") as nothing:
        streams = [Descriptor((nothing if stream is None else stream).fileno()) for stream in (stdin, stdout, stderr)]
        arguments = [os.fspath(argument) for argument in arguments]
        process = FORKS.Process(
            target=_run, args=(command, arguments, os.getcwd(), environment or dict(os.environ), streams)
        )
        process.start()
    return process


def finished(arguments, environment=None, command="sigmoid-core"):
    """Run `COMMAND ARGUMENTS`; return its exit code, output and standard error."""
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as error:
        process = start(arguments, output, error, environment=environment, command=command)
        process.join()
        output.seek(0)
        error.seek(0)
        return process.exitcode, output.read(), error.read()


def _run(command, arguments, folder, environment, streams):
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    if command not in MODULES:
        os.execvp(command, [command, *arguments])
    sys.stdin = io.TextIOWrapper(io.BufferedReader(io.FileIO(0)), "utf-8")
    sys.stdout = io.TextIOWrapper(io.BufferedWriter(io.FileIO(1, "w")), "utf-8")
    sys.stderr = io.TextIOWrapper(io.FileIO(2, "w"), "utf-8", "backslashreplace", line_buffering=True)
    sys.argv = [command, *arguments]
    signal.signal(signal.SIGINT, signal.default_int_handler)
    main = importlib.import_module(MODULES[command]).main

    try:
        sys.exit(main())
    except Exception:
        sys.excepthook(*sys.exc_info())  # as Python ends, not as a process of multiprocessing
        sys.exit(1)
