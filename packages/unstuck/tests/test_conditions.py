"""The codes that `--fail-on` accepts."""

from unstuck.cli.conditions import codes
from unstuck.rules import RULES


def test_the_codes_are_those_of_all_rules():
    assert codes() == [rule.id for rule in RULES]
