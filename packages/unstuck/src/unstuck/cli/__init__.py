"""The command line."""

from unstuck.cli.app import main

__all__ = ["main"]
