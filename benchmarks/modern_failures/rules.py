"""The rules of the diagnosis that name a cause, by its kind: the only place that connects the two.

It is still empty: no program was diagnosed when the collection was written. The maintainers fill it from the kinds
alone; a kind without a rule counts as missed.
"""

from collections.abc import Mapping

from modern_failures.program import Cause

RULES: Mapping[Cause, tuple[str, ...]] = {}
"""Codes of rules by kind of cause."""
