"""Questions to a recorded step, which runs again with some of its inputs changed: what rules ask beside the numbers.

A question stands beside the rules that read its answer, in one file: `evidence.ask(question)`.
"""

import json
import time
import typing
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch

from unstuck._torch.modes import unfollowed
from unstuck.measure.again import Again
from unstuck.values import read, written

MOST_CALLS, MOST_SECONDS = 3000, 30.0
"""In longer steps, a few more forward passes take too long; after so many seconds nothing is asked any more."""
LATE = "late"
"""Is among the answers if there was no time for all of them."""

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Question(Generic[Answer]):
    """One question. Its answer is a text, a number, a dataclass or a tuple of these, as for `values.written`."""

    name: str
    of: Callable[[Again], Answer | None]
    kind: Any  # of the answer

    def answer(self, answers: Mapping[str, Any]) -> Answer | None:
        """Its answer among those that `answers` has found; None if it has found nothing."""
        found: Answer | None = read(self.kind, answers.get(self.name))
        return found


QUESTIONS: dict[str, Question[Any]] = {}
"""All questions by name, in the order of their import."""


def question(of: Callable[[Again], Answer | None]) -> Question[Answer]:
    """Make a question of a function, which is asked of each recorded step that is judged; it says what it returns."""
    name = of.__name__
    if name in QUESTIONS:
        raise ValueError(f"there is another question of the name {name}")
    QUESTIONS[name] = made = Question(name, of, typing.get_type_hints(of)["return"])
    return made


@unfollowed
def answers(again: Again) -> dict[str, Any] | None:
    """What was found, by the names of the questions, as values for JSON; None if the step cannot run again."""
    step, again.until = again.step, time.monotonic() + MOST_SECONDS
    needed = step.needed(step.outputs)
    own = any(isinstance(x, torch.Generator) for node in needed for x in (*node.args, *node.kwargs.values()))
    if own or step.unfollowed or len(step.nodes) > MOST_CALLS:
        return None
    found: dict[str, Any] = {}
    for name, asked in QUESTIONS.items():
        # A call of the step may raise anything.
        with torch.no_grad(), torch.random.fork_rng(devices=again.devices), suppress(Exception):
            if answer := written(asked.of(again)):
                found |= json.loads(json.dumps({name: answer}))
    return found | ({LATE: True} if time.monotonic() > again.until else {})
