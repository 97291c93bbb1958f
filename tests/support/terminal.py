"""The command in a terminal."""

import contextlib
import fcntl
import os
import pty
import re
import struct
import termios

import pyte
from support import processes

ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def in_terminal(arguments, columns, command="sigmoid-core", **variables):
    """Run a command in a terminal of this width; return its exit code and output."""
    parent, child = pty.openpty()
    fcntl.ioctl(child, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    environment = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "COLUMNS", "LINES", "FORCE_COLOR")}
    with open(child, "r+b", buffering=0) as terminal:
        environment |= {"TERM": "xterm-256color"} | variables
        process = processes.start(arguments, terminal, terminal, terminal, environment, command)
    written = b""
    with contextlib.suppress(OSError):  # how Linux ends a closed terminal
        while part := os.read(parent, 65536):
            written += part
    os.close(parent)
    process.join()
    return process.exitcode, written.decode()


def screens(written, columns):
    """What the terminal shows, as text, each time before lines are drawn again."""
    screen = pyte.Screen(columns, 50)
    stream = pyte.Stream(screen)
    for part in re.split(r"(?<=\n)(?=\r?\x1b\[2K)|(?=\r\x1b\[(?:2K|1A))", written):
        yield "\n".join(line.rstrip() for line in screen.display).strip()
        stream.feed(part)
