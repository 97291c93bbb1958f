import collections

import pytest
import torch

import unstuck
from catalogue import BROKEN, HEALTHY
from catalogue.case import Case
from unstuck.findings import Finding, Severity
from unstuck.rules import RULES

QUICK = {
    kind: [pytest.param(case, id=case.name) for cases in catalogue.values() for case in cases if not case.slow]
    for kind, catalogue in (("broken", BROKEN), ("healthy", HEALTHY))
}


def said(case: Case) -> list[Finding]:
    """The errors and warnings."""
    model, inputs, targets, loss_fn = case.problem()
    if not case.steps:
        found = unstuck.diagnose(model, inputs, targets, loss_fn).findings
    else:
        monitor = unstuck.Monitor(model, every=1)
        optimizer = case.optimizer(model.parameters())
        for _ in range(case.steps):
            optimizer.zero_grad()
            loss_fn(model(inputs), targets).backward()
            optimizer.step()
        found = monitor.diagnosis().findings
    return [f for f in found if f.severity is not Severity.NOTE]


@pytest.mark.parametrize("case", QUICK["broken"])
def test_a_broken_network_is_named_with_the_right_rule_and_the_right_layer(case: Case) -> None:
    found = said(case)
    right = [f for f in found if f.rule in case.rules]
    assert right, f"{case.cause}: wants {case.rules}, got {[(f.rule, f.layers[:3]) for f in found]}"
    if case.layers:
        first = [f.layers[:1] for f in right]
        assert any(layers and layers[0] in case.layers for layers in first), f"wants one of {case.layers}, got {first}"
    else:
        assert any(not f.layers for f in right)


@pytest.mark.parametrize("case", QUICK["healthy"])
def test_a_healthy_network_is_not_called_broken(case: Case) -> None:
    assert [(f.rule, f.layers[:3], f.message) for f in said(case)] == []


@pytest.mark.skipif(not torch.set_flush_denormal(False), reason="this processor does not flush denormal numbers")
@pytest.mark.parametrize(
    "case", [case for case in BROKEN["transformer"] if "US204" in case.rules], ids=lambda c: c.name
)
def test_collapsed_attention_is_found_where_denormal_numbers_are_flushed_to_zero(case: Case) -> None:
    torch.set_flush_denormal(True)
    try:
        assert "US204" in [f.rule for f in said(case)]
    finally:
        torch.set_flush_denormal(False)


def test_there_are_at_least_thirty_broken_and_thirty_healthy_networks_of_every_family() -> None:
    for catalogue in (BROKEN, HEALTHY):
        assert sum(map(len, catalogue.values())) >= 30
        assert {"mlp", "conv", "residual", "recurrent", "transformer"} <= catalogue.keys()
        assert all(len(cases) >= 6 for cases in catalogue.values())


LOOP = "the mistake is in the training loop, and all cases share one"
PROGRAMS = "benchmarks/real_failures has programs with this mistake"
MODERN = "the collections of modern failures in benchmarks have programs with this mistake"
WITHOUT_CASES = {
    **dict.fromkeys(("US304", "US305", "US306", "US308", "US309"), LOOP),
    **dict.fromkeys(("US206", "US307", "US505", "US506", "US507", "US509", "US510"), PROGRAMS),
    **dict.fromkeys(("US602", "US603", "US604", "US605", "US606"), PROGRAMS),
    **dict.fromkeys(("US609", "US610"), PROGRAMS),
    **dict.fromkeys((f"US7{number:02}" for number in range(1, 13)), MODERN),
    "US607": "packages/unstuck/tests/test_rules_loss.py has its networks",
}
"""Why the catalogue has fewer than two broken networks of a rule."""


def test_every_rule_has_several_broken_networks_or_a_reason() -> None:
    counts = collections.Counter(rule for cases in BROKEN.values() for case in cases for rule in case.rules)
    few = {rule.id for rule in RULES if counts[rule.id] < 2}
    assert few == WITHOUT_CASES.keys(), "add networks to benchmarks/catalogue, or a reason to WITHOUT_CASES"


def test_a_case_is_the_same_every_time_and_leaves_the_global_generator_alone() -> None:
    case = BROKEN["mlp"][0]
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first, again = case.problem()[0], case.problem()[0]
    assert all(torch.equal(p, q) for p, q in zip(first.parameters(), again.parameters(), strict=True))
    assert torch.equal(torch.get_rng_state(), state)
