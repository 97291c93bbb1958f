"""The collection of real failures: every broken program is worse than its repair, and says where it is from."""

import collections

import pytest

from real_failures import PROGRAMS

pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("default")]


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.name)
def test_the_broken_program_is_clearly_worse_than_the_repaired_one(program):
    for seed in (0, 1):
        broken, repaired = program.compare(seed)
        assert repaired - broken >= program.margin, (broken, repaired)


def test_every_program_has_a_name_and_a_source():
    names = collections.Counter(program.name for program in PROGRAMS)
    assert [name for name, count in names.items() if count > 1] == []
    assert [program.name for program in PROGRAMS if not program.source.startswith("https://")] == []


def test_programs_of_one_source_are_in_one_half():
    halves = {}
    for program in PROGRAMS:
        halves.setdefault(program.origin, set()).add(program.half)
    assert all(len(half) == 1 for half in halves.values())
