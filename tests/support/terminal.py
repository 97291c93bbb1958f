"""The command in a terminal."""

import contextlib
import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios

COMMAND = [sys.executable, "-c", "import sys; from sigmoidcore.cli import main; sys.exit(main())"]
ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def in_terminal(arguments, columns, **variables):
    """Run the command in a terminal of this width; return its exit code and output."""
    parent, child = pty.openpty()
    fcntl.ioctl(child, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    environment = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "COLUMNS", "LINES", "FORCE_COLOR")}
    process = subprocess.Popen(
        COMMAND + arguments,
        stdin=child,
        stdout=child,
        stderr=child,
        env=environment | {"TERM": "xterm-256color", "PYTHONIOENCODING": "utf-8"} | variables,
    )
    os.close(child)
    written = b""
    with contextlib.suppress(OSError):  # how Linux ends a closed terminal
        while part := os.read(parent, 65536):
            written += part
    os.close(parent)
    return process.wait(), written.decode()
