"""The collections of failures: every broken program is worse than its repair, and says where it is from.

Programs are trained twice, and do not change, so that a run takes every eighth; `make test-integrations EVERY=1` takes
all.
"""

import collections
import os
import typing
from statistics import fmean

import pytest

import modern_failures
from modern_failures.program import Cause
from modern_failures_fifth import collection as fifth
from modern_failures_fourth import collection as fourth
from modern_failures_second import collection as second
from modern_failures_sixth import collection as sixth
from modern_failures_strangers import collection
from modern_failures_strangers.healthy import TRAININGS
from modern_failures_third import collection as third
from real_failures import PROGRAMS

EVERY = slice(None, None, int(os.environ.get("EVERY", "8")))
BOTH = [*PROGRAMS, *modern_failures.PROGRAMS]
STRANGERS = [collection, second, third, fourth, fifth, sixth]

pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("default")]


@pytest.mark.parametrize("program", BOTH[EVERY], ids=lambda program: program.name)
def test_the_broken_program_is_clearly_worse_than_the_repaired_one(program):
    pairs = [program.compare(0)]
    if pairs[0][1] - pairs[0][0] < program.margin:  # one may fail to learn on another machine
        pairs.append(program.compare(1))
    broken, repaired = (fmean(scores) for scores in zip(*pairs, strict=True))
    assert repaired - broken >= program.margin, pairs


@pytest.mark.parametrize(
    "program",
    [program for one in STRANGERS for program in one.PROGRAMS][EVERY],
    ids=lambda program: program.name,
)
def test_the_mistakes_of_strangers_make_a_difference(program):
    assert program.holds(program.score(repaired=False), program.score(repaired=True))


@pytest.mark.parametrize(
    "training",
    [*TRAININGS, *(training for one in STRANGERS[1:] for training in one.HEALTHY)][EVERY],
    ids=lambda training: training.name,
)
def test_the_odd_trainings_of_strangers_learn(training):
    before, after = training.scores()
    assert after - before >= training.gain


@pytest.mark.parametrize("programs", [PROGRAMS, modern_failures.PROGRAMS], ids=["classic", "modern"])
def test_every_program_has_a_name_and_a_source(programs):
    names = collections.Counter(program.name for program in programs)
    assert [name for name, count in names.items() if count > 1] == []
    assert [program.name for program in programs if not program.source.startswith("https://")] == []


def test_every_kind_of_modern_cause_has_a_program():
    assert {cause for program in modern_failures.PROGRAMS for cause in program.causes} == set(typing.get_args(Cause))


def test_programs_of_one_source_are_in_one_half():
    halves = {}
    for program in PROGRAMS:
        halves.setdefault(program.origin, set()).add(program.half)
    assert all(len(half) == 1 for half in halves.values())
