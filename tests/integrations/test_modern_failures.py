"""The collection of modern failures: every broken program is worse than its repair, and says where it is from."""

import collections
import typing

import pytest

from modern_failures import PROGRAMS
from modern_failures.program import Cause

pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("default")]


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.name)
def test_the_broken_program_is_clearly_worse_than_the_repaired_one(program):
    for seed in (0, 1):
        broken, repaired = program.compare(seed)
        assert repaired - broken >= program.margin, (broken, repaired)


def test_every_program_has_a_name_a_source_and_known_causes():
    names = collections.Counter(program.name for program in PROGRAMS)
    assert [name for name, count in names.items() if count > 1] == []
    assert [program.name for program in PROGRAMS if not program.source.startswith("https://")] == []
    assert {cause for program in PROGRAMS for cause in program.causes} == set(typing.get_args(Cause))
