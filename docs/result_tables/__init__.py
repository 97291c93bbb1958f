"""The rows of every table, and the sentences with figures, that the documentation takes from benchmarks/results."""

from result_tables import (  # noqa: F401  they register what they make
    costs,
    decisions,
    diagnosis,
    networks,
    physics,
    problems,
    sentences,
)
from result_tables.registry import SENTENCES, TABLES

__all__ = ["SENTENCES", "TABLES"]
