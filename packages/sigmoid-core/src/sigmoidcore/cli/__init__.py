"""The command `sigmoid-core`: one file for each of its commands."""

from sigmoidcore.cli.app import main

__all__ = ["main"]
