"""Rules that turn the measurements of a network into findings."""

from sigmoidcore.diagnosis.rules.evidence import Evidence
from sigmoidcore.diagnosis.rules.gaps import gaps
from sigmoidcore.diagnosis.rules.rule import Found, Rule
from sigmoidcore.diagnosis.rules.table import RULES, find

__all__ = ["RULES", "Evidence", "Found", "Rule", "find", "gaps"]
