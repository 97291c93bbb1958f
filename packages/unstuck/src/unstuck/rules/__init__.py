"""Rules that turn the measurements of a network into findings."""

from unstuck.rules.evidence import Evidence
from unstuck.rules.gaps import gaps
from unstuck.rules.rule import Found, Rule
from unstuck.rules.table import RULES, find

__all__ = ["RULES", "Evidence", "Found", "Rule", "find", "gaps"]
